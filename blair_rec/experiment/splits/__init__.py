"""A data set in training, validation and test split: reading them, and what leaks from one into another."""
