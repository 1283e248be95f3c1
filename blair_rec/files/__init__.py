"""Files and folders: written whole, locked, hashed, and checked before long work."""
