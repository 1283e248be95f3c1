"""Audit a data set before anything is trained: facts, a floor for models, checks, and what text can add."""
