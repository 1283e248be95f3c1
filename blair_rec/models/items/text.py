"""`text`: a two-layer MLP over the frozen text vectors."""

from __future__ import annotations

from torch import Tensor, nn

from blair_rec.models.items.base import ItemSide


class TextItems(ItemSide):
    """MLP(text): two layers of the model's width with a GELU between them.

    Source: the MLP over whitened text of WhitenRec (Zhang et al., Are ID Embeddings Necessary?, ICDE 2024).
    """

    def __init__(self, vectors: Tensor, replaced: nn.Embedding) -> None:
        super().__init__(vectors, replaced)
        self.keep_frozen(vectors)
        width = self.embedding_dim
        self.mlp = nn.Sequential(nn.Linear(vectors.shape[1], width), nn.GELU(), nn.Linear(width, width))
        self.start_at_size(*self.mlp[2].parameters())

    def rows(self, which: Tensor | None = None) -> Tensor:
        return self.mlp(self.some_of(self.table, which))
