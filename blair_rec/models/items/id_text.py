"""`id_text`: the text through an MLP, and a trained vector per item, joined."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blair_rec.models.items.base import ItemSide


class IdTextItems(ItemSide):
    """sum: text + id; concat: a linear map of both side by side; gate: g * text + (1 - g) * id, g from both.

    The ids start as the model initialised them, and a gate half open. Source of the gate: the gated fusion of two
    vectors of Arevalo et al., Gated Multimodal Units, 2017.
    """

    cold = "items: id_text has one half that is trained for each item from its events, and it has none"

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
        """[C - 1, H], or [K, H] of `which` [K]."""
        text: Tensor = self.mlp(self.some_of(self.table, which))
        ids = self.some_of(self.ids, which)
        if self.fusion == "sum":
            return text + ids
        both = torch.cat([text, ids], dim=1)
        if self.fusion == "concat":
            joined: Tensor = self.join(both)
            return joined
        return torch.lerp(ids, text, torch.sigmoid(self.gate(both)))
