"""Public data sets: Amazon Reviews 2023, pairs of texts, and search benchmarks."""
