"""Negatives sampled per step, shared by its targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Negatives:
    """Item ids drawn with replacement, uniformly or by popularity; never the padding.

    Popularity is the number of times that an item is a training target, plus one, so every item can be drawn.
    """

    def __init__(self, target_counts: np.ndarray, how_many: int, sampling: str, seed: int) -> None:
        """`target_counts` [N] by item id, row 0 is padding; the same seed gives the same draws."""
        share = target_counts[1:] + 1.0 if sampling == "popularity" else np.ones(len(target_counts) - 1)
        share /= share.sum()
        self._log_counts = np.log(how_many * share).astype(np.float32)
        self._bounds = np.cumsum(share)[:-1]
        self._how_many = how_many
        self._generator = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return item ids [K] int64, and the logarithm of how often each is drawn on average [K] float32."""
        drawn = np.searchsorted(self._bounds, self._generator.random(self._how_many), side="right")
        return torch.from_numpy(drawn + 1), torch.from_numpy(self._log_counts[drawn])
