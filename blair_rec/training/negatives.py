"""The items that the targets of a step are held against, drawn at random for all of them alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Negatives:
    """Item ids drawn with replacement, uniformly or by popularity; never the padding.

    Popularity is how often an item is a training target, and one: every item can be drawn.
    """

    def __init__(self, target_counts: np.ndarray, how_many: int, sampling: str, seed: int) -> None:
        """`target_counts` [N] by item id, row 0 is padding; draws of one seed are the same."""
        share = target_counts[1:] + 1.0 if sampling == "popularity" else np.ones(len(target_counts) - 1)
        share /= share.sum()
        self._log_counts = np.log(how_many * share).astype(np.float32)
        self._bounds = np.cumsum(share)[:-1]
        self._how_many = how_many
        self._generator = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Item ids [K] int64, and the logarithm of how often each is drawn on average [K] float32."""
        drawn = np.searchsorted(self._bounds, self._generator.random(self._how_many), side="right")
        return torch.from_numpy(drawn + 1), torch.from_numpy(self._log_counts[drawn])
