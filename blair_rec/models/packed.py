"""Many users' sequences in one row of tokens, so that nothing is computed for padding.

Everything that looks at one token at a time works on the row as it is. Attention, where the tokens of a sequence meet,
sees blocks of sequences of about one length; causality alone keeps the few empty slots of a block from being seen. A
GRU gets torch's own packed sequences, whose state begins anew with each.

Shapes: P tokens, W windows, S slots (P and the empty ones), H hidden_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from blair_rec.data.packing import Packed, growth_on, pack

from recbole.model.sequential_recommender import GRU4Rec, SASRec

Dropout = Callable[[Tensor, float], Tensor]
"""(x, probability) -> x with that share of its numbers zeroed and the rest scaled up."""


def can_pack(model_class: type[Any]) -> bool:
    """Whether one pass over packed windows gives such a model's hidden state at every position.

    A subclass with a forward of its own computes something else, and trains as RecBole trains it.
    """
    return any(issubclass(model_class, base) and model_class.forward is base.forward for base in (SASRec, GRU4Rec))


def can_record(model: Any) -> bool:
    """Whether `hidden_states` starts the same work for every batch of one shape, whatever is in it."""
    return isinstance(model, SASRec)  # a GRU's time steps have as many rows as there are long windows


def hidden_states(model: Any, packed: Packed, dropout: Dropout, tokens: Tensor | None = None) -> Tensor:
    """[P, H]: the model's state after each token, as its own forward gives it for each window alone.

    Reads the modules of RecBole's classes, so weights and initialisation are theirs; `dropout` is called where they
    drop out, in training mode alone.

    Args:
        tokens: [T] int64; where only these tokens' states are asked for, [T, H] comes back, and what nothing else
            depends on is computed for them alone.
    """
    drop = dropout if model.training else _keep
    if isinstance(model, SASRec):
        return _sasrec(model, packed, drop, tokens)
    return _gru4rec(model, packed, drop, tokens)


def last_states(model: Any, items: Tensor, first: np.ndarray, length: np.ndarray) -> Tensor:
    """[W, H]: the model's state after each window, items[first : first + length], as its own forward gives it.

    Shapes: items [M] int64; first, length [W] int64, no length 0.
    """
    nothing = items.new_zeros(()).expand(len(items) + 1)
    device = next(model.parameters()).device
    packed = pack(items, nothing, first, length, growth=growth_on(device)).to(device)
    last, back = np.cumsum(packed.lengths) - 1, np.argsort(np.argsort(length, kind="stable"))
    hidden = hidden_states(model, packed, F.dropout, torch.from_numpy(last).to(packed.items.device))
    return hidden[torch.from_numpy(back).to(hidden.device)]


def _keep(x: Tensor, probability: float) -> Tensor:
    return x


def _sasrec(model: Any, packed: Packed, dropout: Dropout, tokens: Tensor | None) -> Tensor:
    x = model.item_embedding(packed.items) + F.embedding(packed.positions, model.position_embedding.weight)
    x = dropout(model.LayerNorm(x), model.dropout.p)
    on_cpu = x.device.type == "cpu"
    masks = [_causal(size, x) if on_cpu else None for _, size in packed.blocks]
    *_, last = layers = model.trm_encoder.layer
    for layer in layers:
        x = _attention(layer.multi_head_attention, x, packed, masks, dropout, tokens if layer is last else None)
        x = _feed_forward(layer.feed_forward, x, dropout)
    return x


def _causal(size: int, like: Tensor) -> Tensor:
    """[size, size] with -inf above the diagonal."""
    return torch.full((size, size), -math.inf, dtype=like.dtype, device=like.device).triu_(1)


class _Spread(torch.autograd.Function):
    """Tokens into their slots: [P, H] -> [S, H]. What an empty slot holds is never seen, so it gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Packed) -> Tensor:
        ctx.slot_of_token = packed.slot_of_token
        return x.index_select(0, packed.token_of_slot)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.slot_of_token), None


class _Collect(torch.autograd.Function):
    """Some rows, each at most once: [S, H] -> [P, H]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.rows, ctx.shape = rows, x.shape
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].new_zeros(ctx.shape).index_copy_(0, ctx.rows, gradients[0]), None


def _attention(
    layer: Any, x: Tensor, packed: Packed, masks: Sequence[Tensor | None], dropout: Dropout, tokens: Tensor | None
) -> Tensor:
    """RecBole's MultiHeadAttention, with its three projections in one product and each block on its own.

    Of some `tokens`, where they are given; they still see the others.
    """
    heads, width = layer.num_attention_heads, layer.attention_head_size
    projections = (layer.query, layer.key, layer.value)
    weight = torch.cat([projection.weight for projection in projections])
    bias = torch.cat([projection.bias for projection in projections])
    slots = _Spread.apply(F.linear(x, weight, bias), packed)
    contexts = []
    sizes = [count * size for count, size in packed.blocks]
    for (count, size), mask, block in zip(packed.blocks, masks, slots.split(sizes), strict=True):
        projected = block.view(count, size, 3, heads, width).permute(2, 0, 3, 1, 4)
        context = _attend(projected, mask, layer.attn_dropout.p if layer.training else 0.0, dropout)
        contexts.append(context.transpose(1, 2).reshape(count * size, heads * width))
    slot_of_token = packed.slot_of_token
    if tokens is not None:
        x, slot_of_token = _Collect.apply(x, tokens), slot_of_token[tokens]
    context = _Collect.apply(torch.cat(contexts), slot_of_token)
    added: Tensor = layer.LayerNorm(dropout(layer.dense(context), layer.out_dropout.p) + x)
    return added


def _attend(projected: Tensor, mask: Tensor | None, probability: float, dropout: Dropout) -> Tensor:
    """Causal attention of queries, keys and values [3, W, heads, slots, width] -> [W, heads, slots, width].

    Without a mask it is one kernel of torch's, which is what pays on a GPU.
    """
    if mask is None:
        query, key, value = projected
        return F.scaled_dot_product_attention(query, key, value, dropout_p=probability, is_causal=True)
    query, key, value = projected.flatten(1, 2)
    scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=1 / math.sqrt(query.shape[-1]))
    return (dropout(scores.softmax(-1), probability) @ value).view(projected.shape[1:])


def _feed_forward(layer: Any, x: Tensor, dropout: Dropout) -> Tensor:
    """RecBole's FeedForward; its GELU is the exact one, which torch computes in one pass."""
    activation = F.gelu if layer.intermediate_act_fn == layer.gelu else layer.intermediate_act_fn
    added: Tensor = layer.LayerNorm(dropout(layer.dense_2(activation(layer.dense_1(x))), layer.dropout.p) + x)
    return added


def _gru4rec(model: Any, packed: Packed, dropout: Dropout, tokens: Tensor | None) -> Tensor:
    x = dropout(model.item_embedding(packed.items), model.emb_dropout.p)
    length = packed.lengths  # known on the CPU: nothing waits for a GPU
    window = np.repeat(np.arange(len(length)), length)
    position = np.arange(len(window)) - np.repeat(np.cumsum(length) - length, length)
    # torch packs time step by time step, the longest sequence first.
    order = torch.from_numpy(np.lexsort((-window, position))).to(x.device)
    longer = np.bincount(length)[::-1].cumsum()[::-1][1:].copy()
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=x.device)
    states, _ = model.gru_layers(PackedSequence(x[order], torch.from_numpy(longer)))  # sizes are read on the CPU
    dense: Tensor = model.dense(states.data[back if tokens is None else back[tokens]])
    return dense
