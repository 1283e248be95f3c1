"""RecBole's Caser on histories without most of their padding. Its convolutions are matrix products, without a copy.

Shapes: G rows of a group, W slots of a cut history, L slots of a whole one, H embedding_size, V vertical filters,
F horizontal filters: nh of each height from 1 to L, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blair_rec.training.stock.modules import has_hooks


def caser_forward(model: Any) -> Callable[..., Tensor] | None:
    """Return a forward that gives for histories cut to W slots what Caser's own gives for all `max_seq_length` slots.

    A convolution is linear, so a window's value is that of its slots minus the padding's vector, plus that of a window
    full of padding. The difference is 0 in the slots that were cut off. All windows full of padding have the same
    value, so it is computed once. None if the convolutions or their activation are not RecBole's.
    """
    parts = [model.conv_v, *model.conv_h]
    if type(model.ac_conv) is not nn.ReLU or any(type(part) is not nn.Conv2d for part in parts):
        return None
    if any(has_hooks(part) for part in (*parts, model.ac_conv)):
        return None
    longest = model.max_seq_length
    by_height = [F.pad(conv.weight.squeeze(1), (0, 0, 0, longest - conv.kernel_size[0])) for conv in model.conv_h]
    weights = torch.cat(by_height).transpose(0, 1).contiguous()  # [L, F, H]: a filter's last slots are 0
    heights = torch.arange(1, longest + 1, device=weights.device).repeat_interleave(model.n_h)
    bias = torch.cat([conv.bias for conv in model.conv_h])
    vertical = model.conv_v.weight.flatten(1)  # [V, L]

    def forward(user: Tensor, history: Tensor) -> Tensor:
        count, width = history.shape
        slots = model.item_embedding(F.pad(history, (0, 1))).transpose(0, 1)  # [W + 1, G, H]
        padding = slots[-1, 0]
        items = slots[:-1] - padding
        columns = (vertical[:, :width] @ items.flatten(1)).view(-1, count, len(padding))
        columns = columns + (vertical.sum(1)[:, None] * padding + model.conv_v.bias[:, None])[:, None]

        first = torch.arange(width + 1, device=history.device)[:, None]  # a window full of padding begins at W
        outside = (first + heights > longest)[:, None]
        values = _Windows.apply(items, weights[:width], model.n_h)
        best = values.masked_fill(outside, -torch.inf).amax(0)  # before the ReLU, which keeps the order
        best = model.ac_conv(best + (weights.sum(0) @ padding + bias))

        hidden = model.dropout(torch.cat([columns.transpose(0, 1).flatten(1), best], 1))
        users = model.user_embedding(user).squeeze(1)
        return model.ac_fc(model.fc2(torch.cat([model.ac_fc(model.fc1(hidden)), users], 1)))

    return forward


class _Windows(torch.autograd.Function):
    """The values of all filters on the windows that begin at each slot, and on one after the last slot, which is 0.

    items [W, G, H], weights [W, F, H] by slot of the window -> [W + 1, G, F]. Each slot of the windows is one product:
    of the items from this slot on with the filters that are high enough.
    """

    @staticmethod
    def forward(ctx: Any, items: Tensor, weights: Tensor, per_height: int) -> Tensor:
        items, weights = items.contiguous(), weights.contiguous()
        ctx.save_for_backward(items, weights)
        ctx.per_height = per_height
        width, count, _ = items.shape
        values = items.new_zeros(width + 1, count, weights.shape[1])
        for slot in range(width):
            filters = slice(slot * per_height, None)
            values[: width - slot].flatten(0, 1)[:, filters].addmm_(
                items[slot:].flatten(0, 1), weights[slot, filters].T
            )
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        items, weights = ctx.saved_tensors
        by_items, by_weights, given = torch.zeros_like(items), torch.zeros_like(weights), gradients[0].contiguous()
        for slot in range(len(items)):
            filters = slice(slot * ctx.per_height, None)
            some = given[: len(items) - slot].flatten(0, 1)[:, filters]
            by_items[slot:].flatten(0, 1).addmm_(some, weights[slot, filters])
            torch.mm(some.T, items[slot:].flatten(0, 1), out=by_weights[slot, filters])
        return by_items, by_weights, None
