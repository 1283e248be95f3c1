"""The report side: finished runs in, numbers and tables out. NumPy and SciPy only."""
