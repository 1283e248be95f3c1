"""The settings that a tuning tries, and the file that keeps its trials."""
