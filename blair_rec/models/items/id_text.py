"""`id_text`: joins the text, through an MLP, with a trained vector per item."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blair_rec.models.items.base import ItemSide


class IdTextItems(ItemSide):
    """sum: text + id; concat: a linear map of both, concatenated; gate: g * text + (1 - g) * id, with g from both.

    The id vectors start as the model initialised them, and the gate starts at g = 0.5. Source of the gate: the gated
    fusion of two vectors in Arevalo et al., Gated Multimodal Units, 2017.
    """

    cold = "items: id_text also trains a vector for each item from its events, and a new item has none"

    def __init__(self, vectors: Tensor, replaced: nn.Embedding, fusion: str = "sum") -> None:
        super().__init__(vectors, replaced)
        self.keep_frozen(vectors)
        width, self.fusion = self.embedding_dim, fusion
        self.mlp = nn.Sequential(nn.Linear(vectors.shape[1], width), nn.GELU(), nn.Linear(width, width))
        self.ids = nn.Parameter(replaced.weight[1 : len(vectors) + 1].detach().clone())
        if fusion == "concat":
            self.join = nn.Linear(2 * width, width, bias=False)
        elif fusion == "gate":
            self.gate = nn.Linear(2 * width, width)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
        self.start_at_size(self.ids, *self.mlp[2].parameters())

    def rows(self, which: Tensor | None = None) -> Tensor:
        text: Tensor = self.mlp(self.some_of(self.table, which))
        ids = self.some_of(self.ids, which)
        if self.fusion == "sum":
            return text + ids
        both = torch.cat([text, ids], dim=1)
        if self.fusion == "concat":
            return self.join(both)
        return torch.lerp(ids, text, torch.sigmoid(self.gate(both)))
