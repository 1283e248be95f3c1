"""`sasrec_text`: the adaptor with which upstream's SASRecText stands on frozen text."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from blair_rec.models.items.base import ItemSide

WIDTH = 300
DROPOUT = 0.2


class SASRecTextItems(ItemSide):
    """Linear, ReLU, linear over 300 numbers, with dropout before both: `model: SASRec` with it is SASRecText.

    With upstream's weights the scores of all items are upstream's. Its padding is the adaptor of zeros and a candidate
    in its loss; ours is zero and none, which no other score depends on. The size at the start is that of the embedding
    replaced. Source: `seq_rec_results/model/sasrectext.py` of hyp1231/AmazonReviews2023 (Hou et al., Bridging Language
    and ItemSide for Retrieval and Recommendation, 2024).
    """

    def __init__(self, vectors: Tensor, replaced: nn.Embedding) -> None:
        super().__init__(vectors, replaced)
        self.keep_frozen(vectors)
        self.first, self.second = nn.Linear(vectors.shape[1], WIDTH), nn.Linear(WIDTH, self.embedding_dim)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.start_at_size(self.second.weight)

    def rows(self, which: Tensor | None = None) -> Tensor:
        """[C - 1, H], or [K, H] of `which` [K]."""
        drop = self._dropout()
        rows: Tensor = self.second(drop(F.relu(self.first(drop(self.some_of(self.table, which), DROPOUT))), DROPOUT))
        return rows
