"""Popularity: items by their number of training events.

Shapes: B cases, N item ids with the padding row 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from blair_rec.data.sequences import TrainingSequences
from blair_rec.ranking.scorers.base import Counted


class Popularity(Counted):
    """Ranks items by their number of training events, for every user in the same way."""

    counts: Tensor

    def __init__(self, n_items: int, item_seq: str, item_seq_len: str) -> None:
        super().__init__(n_items, item_seq, item_seq_len)
        self.register_buffer("counts", torch.zeros(n_items))

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split."""
        counts = np.bincount(sequences.items, minlength=self.n_items)
        self.counts = torch.from_numpy(counts).float().to(self.device)

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return ones, [B, 1]."""
        return torch.ones(len(interaction[self.ITEM_SEQ_LEN]), 1, device=self.device)

    def item_matrix(self) -> Tensor:
        """Return the items' numbers of training events, [N, 1]."""
        return self.counts.unsqueeze(1)
