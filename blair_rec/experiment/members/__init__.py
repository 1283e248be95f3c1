"""Make a run from finished runs of the same seed: an average, or a second stage."""
