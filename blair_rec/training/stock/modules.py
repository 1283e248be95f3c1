"""Cheaper forms of modules that RecBole's models consist of; they compute the same, up to rounding, in fewer passes.

A small model's step on a CPU consists of many short passes over its states. Each pass that two functions share saves
about as much as the arithmetic itself. Dropout is as random as before, but with other random numbers.

Shapes: G rows of a group, W slots of a history, R slots whose states are computed (W or 1), H hidden_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blair_rec.models.dropout import BitDropout
from blair_rec.training.stock.graph import graph_of

from recbole.model import layers
from recbole.model.sequential_recommender import GCSAN, SRGNN, fearec

WITH_GELU = (layers.FeedForward, fearec.FeedForward)
"""RecBole's modules that compute the exact GELU in five passes."""


@contextmanager
def cheaper_modules(model: Any, only_last: bool, scores_all: bool) -> Iterator[None]:
    """Within this block, parts of the model are computed in fewer passes: dropout, GELU, RecBole's transformer, graphs.

    Only this one model changes, not its class. Modules of derived classes stay as they are.

    Args:
        only_last: whether the model reads each history's last state alone, and histories are padded after their items.
            Then an encoder returns this state for every slot.
        scores_all: whether the loss gives every row of the item embedding a gradient. Then looking up items adds to the
            rows that it read, instead of to a second table of the same size.
    """
    dropout = BitDropout(int(torch.randint(1 << 62, (), device="cpu")))
    changed: list[tuple[Any, str, Any]] = []
    for module in model.modules():
        if type(module) is nn.Dropout:
            changed.append((module, "forward", _dropout(module, dropout)))
        elif _is_recboles(module):
            changed.append((module, "forward", _encoder(module, only_last)))
        elif type(module) in WITH_GELU and module.intermediate_act_fn == module.gelu:
            changed.append((module, "intermediate_act_fn", F.gelu))
    if scores_all and type(model.item_embedding) is nn.Embedding:
        changed.append((model.item_embedding, "forward", _look_up(model.item_embedding)))
    build = getattr(type(model), "_get_slice", None)
    if build is SRGNN._get_slice:
        changed.append((model, "_get_slice", lambda history: (*graph_of(history, _dtype(model)), history > 0)))
    elif build is GCSAN._get_slice:
        changed.append((model, "_get_slice", lambda history: graph_of(history, _dtype(model))))
    before = [(module, name, vars(module).get(name)) for module, name, _ in changed]
    for module, name, function in changed:
        vars(module)[name] = function
    try:
        yield
    finally:
        for module, name, function in before:
            vars(module)[name] = function
            if function is None:
                del vars(module)[name]


def _is_recboles(encoder: Any) -> bool:
    """Return whether a module is RecBole's transformer, with RecBole's own layers and attention, and without hooks."""
    return type(encoder) is layers.TransformerEncoder and all(
        type(layer) is layers.TransformerLayer
        and type(attention := layer.multi_head_attention) is layers.MultiHeadAttention
        and type(attention.key) is type(attention.value) is nn.Linear
        and not any(has_hooks(module) for module in (layer, attention, attention.key, attention.value))
        for layer in encoder.layer
    )


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module's call runs more than its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def _look_up(table: nn.Embedding) -> Callable[[Tensor], Tensor]:
    return lambda ids: F.embedding(ids, table.weight, table.padding_idx, sparse=True)


def _dropout(module: nn.Dropout, dropout: BitDropout) -> Callable[[Tensor], Tensor]:
    return lambda x: dropout(x, module.p) if module.training else x


def _encoder(encoder: Any, only_last: bool) -> Callable[..., list[Tensor]]:
    """Return the forward of an encoder: the states after each layer."""
    each = [_layer(layer) for layer in encoder.layer]

    def forward(x: Tensor, mask: Tensor, output_all_encoded_layers: bool = True) -> list[Tensor]:
        states = []
        for layer in each[:-1] if only_last else each:
            x = layer(x, x, mask)
            states.append(x)
        if only_last:
            row = torch.arange(len(x), device=x.device)
            slot = (mask[:, 0, -1] == 0).sum(1) - 1  # the mask adds 0 for an item that a slot can see
            last = each[-1](x, x[row, slot].unsqueeze(1), mask[row, :, slot].unsqueeze(2))
            states.append(last.expand_as(x))
        return states if output_all_encoded_layers else states[-1:]

    return forward


def _layer(layer: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a function (states [G, W, H] to attend to, states [G, R, H] to update, mask [G, 1, R, W]) -> [G, R, H]."""
    attention, feed_forward = layer.multi_head_attention, layer.feed_forward
    heads, width = attention.num_attention_heads, attention.attention_head_size
    weight = torch.cat([attention.key.weight, attention.value.weight])
    bias = torch.cat([attention.key.bias, attention.value.bias])

    def forward(x: Tensor, read: Tensor, mask: Tensor) -> Tensor:
        query = attention.query(read).view(*read.shape[:2], heads, width).transpose(1, 2).flatten(0, 1)
        keys = F.linear(x, weight, bias).view(*x.shape[:2], 2, heads, width)
        key, value = keys.permute(2, 0, 3, 1, 4).flatten(1, 2)
        scores = torch.bmm(query, key.transpose(1, 2)).view(len(x), heads, read.shape[1], x.shape[1])
        shares = attention.attn_dropout(torch.add(mask, scores, alpha=1 / math.sqrt(width)).softmax(-1))
        context = torch.bmm(shares.flatten(0, 1), value).view(len(x), heads, read.shape[1], width)
        context = attention.out_dropout(attention.dense(context.transpose(1, 2).flatten(2)))
        return feed_forward(attention.LayerNorm(context + read))

    return forward
