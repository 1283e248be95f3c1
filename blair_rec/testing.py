"""Contracts to inherit."""
