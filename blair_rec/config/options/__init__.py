"""Options of parts that a variant names, without importing these parts."""
