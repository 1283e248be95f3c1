"""Commands about data before anything is trained."""
