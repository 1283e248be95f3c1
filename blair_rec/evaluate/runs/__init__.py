"""Finished runs on disk: what their files hold, written, read and checked."""
