"""One module for each group of commands: its options, and what it calls."""
