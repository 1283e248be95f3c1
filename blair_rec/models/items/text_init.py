"""`text_init`: a trained table that starts at the principal components of the text vectors."""

from __future__ import annotations

from torch import Tensor, nn

from blair_rec.config.steps import Step
from blair_rec.models.items.base import ItemSide


class TextInitItems(ItemSide):
    """A table of the model's width. All components share one scale, so similar texts start with similar vectors."""

    cold = "items: text_init trains a vector for each item from its events, and a new item has none"

    def __init__(self, vectors: Tensor, replaced: nn.Embedding) -> None:
        super().__init__(vectors, replaced)
        self.table = nn.Parameter(vectors)
        self.start_at_size(self.table)

    @staticmethod
    def steps(hidden_size: int) -> tuple[Step, ...]:
        """Return the step to principal components of the model's width."""
        return ({"pca": hidden_size},)

    def rows(self, which: Tensor | None = None) -> Tensor:
        return self.some_of(self.table, which)
