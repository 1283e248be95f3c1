"""What a data set is worth before anything is trained: facts, a floor for models, checks, what text can add."""
