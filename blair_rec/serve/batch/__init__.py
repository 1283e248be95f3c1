"""Recommendations for many users: read histories from a file, and write the best items to another file."""
