"""The winner put to work."""
