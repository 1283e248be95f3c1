"""Training, validation and test split of a data set: read them, and check for leaks between them."""
