"""Use the winner of a comparison: refit it, recommend with it, and export it."""
