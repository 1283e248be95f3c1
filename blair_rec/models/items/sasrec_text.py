"""`sasrec_text`: the adaptor that upstream's SASRecText puts on frozen text vectors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from blair_rec.models.items.base import ItemSide

WIDTH = 300
DROPOUT = 0.2


class SASRecTextItems(ItemSide):
    """Two linear layers with ReLU between them (300 hidden numbers) and dropout before both.

    With `model: SASRec` this is SASRecText: with upstream's weights, all items get upstream's scores. Only the padding
    differs, and no item's score depends on it. Upstream's padding is the adaptor's output for zeros, and a candidate in
    the loss; ours is zero and not a candidate. The initial RMS is that of the embedding replaced. Source:
    `seq_rec_results/model/sasrectext.py` of hyp1231/AmazonReviews2023 (Hou et al., Bridging Language and Items for
    Retrieval and Recommendation, 2024).
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
        drop = self._dropout()
        return self.second(drop(F.relu(self.first(drop(self.some_of(self.table, which), DROPOUT))), DROPOUT))
