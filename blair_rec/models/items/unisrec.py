"""`unisrec`: a mixture of experts, each a parametric whitening of the text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blair_rec.models.items.base import ItemSide

EXPERTS = 8
DROPOUT = 0.2
LEAST_NOISE = 0.01


class UniSRecItems(ItemSide):
    """The sum over experts k of gate_k(x) * (x - shift_k) W_k, with gates that are noisy in training.

    The gates are softmax(x G + noise). In training, the noise is normal with standard deviation softplus(x S) + 0.01;
    in evaluation it is 0. Each expert draws its own dropout of x. With the weights of upstream's MoEAdaptorLayer
    (RUCAIBox/UniSRec, and `seq_rec_results` of hyp1231/AmazonReviews2023) the output is upstream's; only the initial
    RMS is that of the embedding replaced. The variant scores by cosine over a temperature, which is 0.07 by default.

    Source: Hou et al., Towards Universal Sequence Representation Learning for Recommender Systems, KDD 2022.
    Shapes: K experts.
    """

    def __init__(self, vectors: Tensor, replaced: nn.Embedding) -> None:
        super().__init__(vectors, replaced)
        self.keep_frozen(vectors)
        text_dim = vectors.shape[1]
        self.shift = nn.Parameter(torch.zeros(EXPERTS, text_dim))
        self.projection = nn.Parameter(torch.randn(EXPERTS, text_dim, self.embedding_dim))
        self.gate = nn.Parameter(torch.zeros(text_dim, EXPERTS))
        self.noise = nn.Parameter(torch.zeros(text_dim, EXPERTS))
        self.start_at_size(self.projection)

    def rows(self, which: Tensor | None = None) -> Tensor:
        table = self.some_of(self.table, which)
        gates, drop = self._gates(table), self._dropout()
        # (x - shift) W is computed as x W - shift W, so the shift needs no gradient as large as the table.
        rows = -gates @ torch.einsum("ke,keh->kh", self.shift, self.projection)
        for expert in range(EXPERTS):
            rows = torch.addcmul(rows, gates[:, expert, None], drop(table, DROPOUT) @ self.projection[expert])
        return rows

    def _gates(self, table: Tensor) -> Tensor:
        """Return the gates [C - 1, K]; each row sums to 1."""
        logits = table @ self.gate
        if self.training:
            deviation = F.softplus(table @ self.noise) + LEAST_NOISE
            logits = logits + torch.randn_like(logits) * deviation
        return logits.softmax(dim=1)
