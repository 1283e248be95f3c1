"""Plan a comparison: its runs, its data files, and which finished runs are still valid."""
