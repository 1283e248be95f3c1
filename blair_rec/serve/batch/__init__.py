"""Recommendations for many users: histories from a file, the best items into another one."""
