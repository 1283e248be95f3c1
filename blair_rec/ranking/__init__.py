"""Ranks and top-k items from a model and users; training-free scorers; ensembles."""
