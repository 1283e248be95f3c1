"""Scorers that scorers.py measures and that the package leaves out: EASE, and EASE regularised by text.

Both are linear models of the items of a user with a solution in closed form. results/scorers-Beauty.md has the figures.

Shapes: N item ids with the padding row 0, E text_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from blair_rec.config.steps import Step
from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.models.whitening import fit_checked
from blair_rec.ranking.scorers.neighbours import unit_length
from blair_rec.ranking.scorers.rules import Rules
from blair_rec.ranking.scorers.tables import BLOCK


class Ease(Rules):
    """EASE: each item predicted from the other items of the same user, by ridge regression in closed form.

    score = sum over the items i of the history of B(i, item) / age(i)

    B minimises |X - X B|^2 + l2 |B|^2 with a diagonal of 0, where X [users, N] has a 1 for each item in a user's
    training events. With P = (X'X + l2 I)^-1 it is B(i, j) = -P(i, j) / P(j, j). Only the KEPT largest numbers of each
    row of B are kept.

    Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (WWW 2019). There all items of the history
    count the same; 1 / age is that of `sequential_rules`.
    """

    KEPT: ClassVar[int] = 500
    """Numbers kept from each item."""
    MOST_ITEMS: ClassVar[int] = 20_000
    """The largest catalogue: the float32 matrices take about 6 GB, and the time grows with the third power."""

    def __init__(self, n_items: int, item_seq: str, item_seq_len: str, *, l2: float = 100) -> None:
        """
        Raises:
            ConfigError: more than MOST_ITEMS items.
        """
        if n_items - 1 > self.MOST_ITEMS:
            raise ConfigError(
                f"EASE inverts a matrix of items by items, so it takes at most {self.MOST_ITEMS:,} items; this data "
                f"set has {n_items - 1:,}; use scorer: sequential_rules"
            )
        super().__init__(n_items, item_seq, item_seq_len)
        self.l2 = l2

    def table(self, sequences: TrainingSequences) -> csr_array:
        """Return B, [N, N]."""
        inverse = self.inverse(sequences, self.l2)
        weights = inverse.div_(-inverse.diagonal().clone())
        return most_of_each(weights.fill_diagonal_(0).cpu().numpy(), self.KEPT)

    def inverse(self, sequences: TrainingSequences, added: float) -> Tensor:
        """Return (X'X + added I)^-1, [N - 1, N - 1] float32 on the scorer's device, without the padding."""
        users = np.repeat(np.arange(len(sequences.offsets) - 1), np.diff(sequences.offsets))
        shape = len(sequences.offsets) - 1, self.n_items - 1
        taken = csr_array((np.ones(len(users), np.float32), (users, sequences.items - 1)), shape)
        taken.sum_duplicates()
        taken.data[:] = 1
        together = torch.from_numpy((taken.T @ taken).toarray()).to(self.device)
        together.diagonal().add_(added)
        return torch.cholesky_inverse(torch.linalg.cholesky(together))


class TextEase(Ease):
    """EASE whose numbers stay close to those of a linear model of the texts.

    B minimises |X - X B|^2 + l2 |B|^2 + text |B - F|^2 with a diagonal of 0, where F is EASE over the texts: T [E, N]
    instead of X, and text_l2 instead of l2. With P = (X'X + (l2 + text) I)^-1 it is B = I + text P F - P diag(m), where
    m makes the diagonal 0. P_F = (T'T + text_l2 I)^-1, from which F follows, comes from a matrix of width E (Woodbury).

    Source: Moon, Park and Lee, "LLM-Enhanced Linear Autoencoders for Recommendation" (CIKM 2025, arXiv 2508.13500).
    """

    uses_text = True

    def __init__(
        self,
        vectors: np.ndarray,
        transforms: Sequence[Step],
        item_seq: str,
        item_seq_len: str,
        fitted: Mapping[str, np.ndarray] | None = None,
        *,
        l2: float = 6,
        text: float = 24,
        text_l2: float = 1,
    ) -> None:
        """
        Args:
            vectors: [N - 1, E] as in the store, without a row for the padding.
            fitted: what the transforms found in an earlier fit; None: fit them now.

        Raises:
            ConfigError: more than MOST_ITEMS items; whitening over too few items.
        """
        super().__init__(len(vectors) + 1, item_seq, item_seq_len, l2=l2)
        self.text, self.text_l2 = text, text_l2
        self.fitted_transforms, rows = fit_checked(vectors, transforms, fitted)
        self._unit = unit_length(rows)

    def table(self, sequences: TrainingSequences) -> csr_array:
        """Return B, [N, N]."""
        inverse = self.inverse(sequences, self.l2 + self.text)
        unit = self._unit.to(inverse)
        small = (unit.T @ unit).double()
        small.diagonal().add_(self.text_l2)
        wide = (unit.double() @ torch.linalg.inv(small)).float()  # P_F = (I - wide unit') / text_l2
        scale = 1 / (1 - (wide * unit).sum(1))  # 1 / (text_l2 * diagonal of P_F)
        weights = inverse - inverse * scale
        weights.addmm_(inverse @ wide, (unit * scale[:, None]).T)  # P F
        shift = (1 + self.text * weights.diagonal()) / inverse.diagonal()
        weights.mul_(self.text).sub_(inverse.mul_(shift))
        return most_of_each(weights.fill_diagonal_(0).cpu().numpy(), self.KEPT)


def most_of_each(weights: np.ndarray, most: int) -> csr_array:
    """Return the `most` largest numbers of each row of a dense [N - 1, N - 1] matrix without the padding, [N, N]."""
    size, most = len(weights), min(most, len(weights))
    parts = []
    for begin in range(0, size, BLOCK):
        block = weights[begin : begin + BLOCK]
        columns = np.sort(np.argpartition(-block, most - 1, axis=1)[:, :most])
        values = np.take_along_axis(block, columns, axis=1)
        starts = np.arange(0, most * len(block) + 1, most)
        parts.append(
            csr_array((values.ravel().astype(np.float64), columns.ravel() + 1, starts), (len(block), size + 1))
        )
    return csr_array(vstack([csr_array((1, size + 1)), *parts], format="csr"))
