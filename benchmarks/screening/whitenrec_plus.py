"""WhitenRec+: two degrees of whitening of the text, through one MLP.

Source: Zhang et al., Are ID Embeddings Necessary? Whitening Pre-trained Text Embeddings for Effective Sequential
Recommendation, ICDE 2024 (arXiv 2402.10602). Without the authors' code, this follows the paper's description,
and the MLP is that of `items: text`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.errors import ConfigError
from blair_rec.models.items import ItemSide
from blair_rec.models.transforms import Whiten


class WhitenRecPlus(ItemSide):
    """MLP(w_1(x_i)) + MLP(w_G(x_i)), with the same MLP for both.

    w_1 is zca whitening: (x - mean) S^(-1/2), where S is the covariance of all coordinates. w_G, the relaxed one, cuts
    the E coordinates into G groups of neighbours and whitens each group alone: coordinates of different groups stay
    correlated. G = 1 would be w_1 again. MLP(x) = B gelu(A x + a) + b.

    Shapes: E text_dim, H hidden_size, n items: table [n, E] the text, whitened 2 x [n, E], A [H, E], B [H, H].
    """

    full: Tensor
    """[n, E] float32, w_1 of the table."""
    relaxed: Tensor
    """[n, E] float32, w_G of the table."""

    def __init__(self, vectors: Tensor, replaced: nn.Embedding, groups: int = 4) -> None:
        """
        Args:
            vectors: [n, E] float32 text vectors.
            replaced: [N, H] as the model initialised it.
            groups: the number of groups of the relaxed whitening, 2 to E.

        Raises:
            ConfigError: groups is not in this range.
        """
        super().__init__(vectors, replaced)
        text_dim, width = vectors.shape[1], self.embedding_dim
        if not 2 <= groups <= text_dim:
            raise ConfigError(f"groups is {groups}; expected a number from 2 to the width of the text, {text_dim}")
        self.keep_frozen(vectors)
        table = vectors.numpy().astype(np.float64)
        self.steps_of_full = fitted(table, 1)
        self.steps_of_relaxed = fitted(table, groups)
        self.register_buffer("full", whitened(vectors, self.steps_of_full), persistent=False)
        self.register_buffer("relaxed", whitened(vectors, self.steps_of_relaxed), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(text_dim, width), nn.GELU(), nn.Linear(width, width))
        self.start_at_size(*self.mlp[2].parameters())

    def rows(self, which: Tensor | None = None) -> Tensor:
        """Return [n, H] float32, or [K, H] for `which` [K]."""
        rows: Tensor = self.mlp(self.some_of(self.full, which)) + self.mlp(self.some_of(self.relaxed, which))
        return rows

    def _append(self, rows: Tensor) -> None:
        super()._append(rows)
        self.full = torch.cat([self.full, whitened(rows, self.steps_of_full).to(rows)])
        self.relaxed = torch.cat([self.relaxed, whitened(rows, self.steps_of_relaxed).to(rows)])


def fitted(table: np.ndarray, groups: int) -> list[Whiten]:
    """Fit zca whitening on each of `groups` groups of neighbouring columns; table: [n, E] float64."""
    steps = [Whiten("zca") for _ in range(groups)]
    for step, columns in zip(steps, np.array_split(table, groups, axis=1), strict=True):
        step.fit(columns)
    return steps


def whitened(rows: Tensor, steps: Sequence[Whiten]) -> Tensor:
    """Whiten each group of columns with its step: [m, E] -> [m, E] float32, on the CPU."""
    columns = np.array_split(rows.cpu().numpy().astype(np.float64), len(steps), axis=1)
    return torch.from_numpy(np.hstack([step.apply(part) for step, part in zip(steps, columns, strict=True)])).float()
