"""Epochs, losses, negatives, the optimiser, several processes and checkpoints."""

import blair_rec.border.apply_patches  # noqa: F401  (repairs RecBole before anything of it is used)
