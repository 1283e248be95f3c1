"""The nearest items of a sentence, and how well that works."""
