"""Epochs, losses, negatives, the optimiser, several processes and checkpoints."""
