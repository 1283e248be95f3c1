"""The base of training-free scorers: they count the training split, or look up neighbours.

Shapes: B cases, L items of a history at most, N item ids with the padding row 0.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.data.sequences import TrainingSequences
from blair_rec.models.scorer import refuse_new_items
from blair_rec.models.transforms import FittedTransforms


class Baseline(nn.Module):
    """A training-free Scorer: it counts the training split, or looks up neighbours.

    Nothing here has a gradient. Counts are buffers, so they are saved and loaded like weights. A scorer of another
    package inherits from Counted or LastItem, and also gets the variant's `options` by name (docs/extend.md);
    `blair_rec.testing.ScorerContract` tests it.
    """

    scores_by_product = True
    """Whether the scores are `user_vectors @ item_matrix.T`."""
    uses_text: ClassVar[bool] = False
    """Whether it uses the items' text vectors."""
    takes_new_items: ClassVar[bool] = False
    """Whether it can score items that came later, by their text."""
    fitted_transforms: FittedTransforms | None = None
    """Transforms of the text vectors; None without text."""

    def __init__(self, n_items: int, item_seq: str, item_seq_len: str) -> None:
        super().__init__()
        self.n_items = n_items
        self.ITEM_SEQ, self.ITEM_SEQ_LEN = item_seq, item_seq_len
        """Fields of an interaction: the items [B, L], oldest first, padded with 0, and their number [B]."""

    @property
    def device(self) -> torch.device:
        """Device of the counts, on which interactions have to be."""
        return next((counted.device for counted in self.buffers()), torch.device("cpu"))

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return scores [B, N] float32; ignore column 0, the padding."""
        return self.user_vectors(interaction) @ self.item_matrix().T

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return a vector for each history, [B, D] float32."""
        raise NotImplementedError

    def item_matrix(self) -> Tensor:
        """Return the vector of every item, [N, D] float32."""
        raise NotImplementedError

    def shared_items(self) -> AbstractContextManager[None]:
        """Do nothing: no item vectors have to be computed."""
        return nullcontext()

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split; a scorer that only looks up counts nothing."""

    def append_items(self, vectors: np.ndarray) -> None:
        """See Scorer.append_items.

        Raises:
            ConfigError: always, unless `takes_new_items`.
        """
        refuse_new_items(f"{type(self).__name__} can only score the items that it was built with")

    def last_items(self, interaction: Any) -> Tensor:
        """Return the last item of each history, [B] int64."""
        length: Tensor = interaction[self.ITEM_SEQ_LEN]
        last: Tensor = interaction[self.ITEM_SEQ].gather(1, length.unsqueeze(1) - 1).squeeze(1)
        return last


class Counted(Baseline):
    """A baseline that counts the training split; most use nothing else."""

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split."""
        raise NotImplementedError


def recency(items: Tensor, length: Tensor) -> Tensor:
    """Return weights [B, L] float32: 1 for the last item of each history, 1/2 for the one before ...; 0 for padding."""
    age = length.unsqueeze(1) - torch.arange(items.shape[1], device=items.device)
    return torch.where(age > 0, 1 / age, 0)
