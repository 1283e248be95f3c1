"""RecBole's SINE on histories without most of their padding. SINE weights every slot, so one slot replaces the rest.

Shapes: G rows of a group, W slots of a cut history, S slots with the one for the rest (W or W + 1), K interests,
H embedding_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def sine_forward(model: Any) -> Callable[..., Tensor]:
    """Return a forward that gives for histories cut to W slots what SINE's own gives for all `max_seq_length` slots.

    SINE has no dropout and no positions, so all slots of a history's padding are equal. The padding that was cut
    off is one slot: its exponential counts once for each slot that was cut off, in every softmax over the slots.
    """
    count = model.k
    both = torch.cat([model.w1.unsqueeze(0), model.w_k_1]).transpose(0, 1).flatten(1)  # [H, (1 + K) H]
    scorers = torch.cat([model.w2.unsqueeze(0), model.w_k_2])  # [1 + K, H]

    def forward(history: Tensor, lengths: Tensor) -> Tensor:
        rest = model.max_seq_length - history.shape[1]
        if rest:
            history = F.pad(history, (0, 1))
        items = model.item_embedding(history)  # [G, S, H]
        times = items.new_zeros(history.shape[1], 1)  # the logarithm of the number of slots that each replaces
        if rest:
            times[-1] = math.log(rest)
        hidden = (items @ both).tanh_().view(*history.shape, 1 + count, -1)
        scores = torch.einsum("gskh,kh->gsk", hidden, scorers)
        shares = (scores + times).softmax(1)  # [G, S, 1 + K]: of the concepts, and of each interest

        mean = (shares[..., 0].contiguous().unsqueeze(1) @ items).squeeze(1)  # torch multiplies strided ones one by one
        close, concepts = (mean @ model.C.weight.T).sort(1)
        chosen = model.C(concepts[:, -count:]) * close[:, -count:].sigmoid().unsqueeze(2)  # [G, K, H]
        turned = items @ model.w3
        length = turned.norm(dim=2, keepdim=True).clamp_min(1e-12)
        intentions = (turned @ model.ln2(chosen).transpose(1, 2) / length).softmax(2)  # [G, S, K]

        interests = F.normalize((intentions * shares[..., 1:]).transpose(1, 2) @ items, dim=2)  # [G, K, H]
        slots = (intentions @ (chosen @ model.w3)).tanh() @ model.w4  # [G, S]
        apt = (slots.unsqueeze(2) + times).softmax(1).transpose(1, 2) @ intentions @ chosen  # [G, 1, H]
        weights = (interests @ model.ln4(apt).transpose(1, 2) / model.tau).softmax(1)
        return (weights * interests).sum(1)

    return forward
