"""Text vectors on disk, found again by item token."""
