"""Evaluation of finished runs: numbers, significance tests, tables and the page."""
