"""`text_delta`: frozen principal components of the text, plus a trained delta of bounded length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blair_rec.config.steps import Step
from blair_rec.models.items.base import ItemSide


class TextDeltaItems(ItemSide):
    """content + delta, where all contents have the same length and |delta| <= max_delta * that length.

    The delta is shortened to its bound each time it is read, so the bound holds after any step of any optimiser. With
    max_delta < 1 the angle between an item's vector and its content is at most arcsin(max_delta). An item without
    content (a zero vector) has its delta alone. Source: Let It Go? Not Quite (Pembek et al., RecSys 2025, arXiv
    2507.19473). There, contents have length 1 and the delta is cut after each step of the optimiser. The bound is 0.5,
    too.
    """

    length: Tensor
    """Length of every content; part of the checkpoint, since it comes from the embedding that was replaced."""

    def __init__(self, vectors: Tensor, replaced: nn.Embedding, max_delta: float = 0.5) -> None:
        super().__init__(vectors, replaced)
        self.keep_frozen(vectors)
        self.max_delta = max_delta
        self.delta = nn.Parameter(torch.zeros(len(vectors), self.embedding_dim))
        self.register_buffer("length", torch.tensor(self._start * self.embedding_dim**0.5))

    @staticmethod
    def steps(hidden_size: int) -> tuple[Step, ...]:
        """Return the steps to principal components of the model's width, each item's of length 1."""
        return ({"pca": hidden_size}, "l2")

    def rows(self, which: Tensor | None = None) -> Tensor:
        bound = self.max_delta * self.length
        content, delta = self.some_of(self.table, which), self.some_of(self.delta, which)
        size = delta.norm(dim=1, keepdim=True)
        return self.length * content + delta * (bound / size.clamp(min=bound))

    def _append(self, rows: Tensor) -> None:
        super()._append(rows)
        self.delta = nn.Parameter(torch.cat([self.delta.detach(), torch.zeros_like(rows)]))
