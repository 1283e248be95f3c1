"""What a data set is worth before anything is trained: its properties, a floor for models, checks, what text can add."""
