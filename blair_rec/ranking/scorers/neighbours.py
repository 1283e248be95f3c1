"""Nearest neighbours by text: of the last item, or of the whole history.

Shapes: B cases, L items of a history at most, N item ids with the padding row 0, E text_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blair_rec.config.steps import Step
from blair_rec.models.whitening import fit_checked
from blair_rec.ranking.scorers.base import Baseline, recency


class LastItem(Baseline):
    """Nearest neighbours of the history's last item, by the cosine of transformed text vectors.

    An item without text (a zero vector) has cosine 0 with all others.
    """

    uses_text = True
    takes_new_items = True
    unit: Tensor

    def __init__(
        self,
        vectors: np.ndarray,
        transforms: Sequence[Step],
        item_seq: str,
        item_seq_len: str,
        fitted: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """
        Args:
            vectors: [N - 1, E] as in the store, without a row for the padding.
            fitted: what the transforms found in an earlier fit; None: fit them now.

        Raises:
            ConfigError: whitening over too few items.
        """
        super().__init__(len(vectors) + 1, item_seq, item_seq_len)
        self._transforms, rows = fit_checked(vectors, transforms, fitted)
        self.fitted_transforms = self._transforms
        # They can be made from the store again, so checkpoints leave them out.
        self.register_buffer("unit", F.pad(unit_length(rows), (0, 0, 1, 0)), persistent=False)

    def append_items(self, vectors: np.ndarray) -> None:
        """Add items that came later, with ids from N on: [M, E] text vectors as in the store."""
        self.unit = torch.cat([self.unit, unit_length(self._transforms.apply(vectors)).to(self.unit)])
        self.n_items += len(vectors)

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return the last item's vector, of length 1, [B, E]."""
        return self.unit[self.last_items(interaction)]

    def item_matrix(self) -> Tensor:
        """Return the items' vectors, each of length 1, [N, E]."""
        return self.unit


class MeanHistory(LastItem):
    """Nearest neighbours of the whole history: the mean of an item's cosines to the items in the model's window."""

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return the mean of the history's vectors, which have length 1, [B, E]."""
        total = F.embedding_bag(interaction[self.ITEM_SEQ], self.unit, mode="sum", padding_idx=0)
        return total / interaction[self.ITEM_SEQ_LEN].unsqueeze(1)


class RecentHistory(LastItem):
    """Nearest neighbours of the history: the mean of cosines, weighted by 1 / age: 1 for the last item, 1/2, 1/3 ..."""

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return the weighted mean of the history's vectors, which have length 1, [B, E]."""
        items = interaction[self.ITEM_SEQ]
        weights = recency(items, interaction[self.ITEM_SEQ_LEN])
        weights /= weights.sum(dim=1, keepdim=True)
        return F.embedding_bag(items, self.unit, mode="sum", padding_idx=0, per_sample_weights=weights)


def unit_length(vectors: np.ndarray) -> Tensor:
    """Scale vectors to length 1, [n, E] float32; a zero vector stays zero."""
    rows = torch.from_numpy(np.asarray(vectors, dtype=np.float64))
    return F.normalize(rows, dim=1, eps=torch.finfo(torch.float64).tiny).float()  # short vectors keep their direction
