"""A model and users -> ranks and top-k; scorers without training; ensembles."""
