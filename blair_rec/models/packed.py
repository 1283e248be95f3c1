"""Many users' sequences in one row of tokens, so that nothing is computed for padding.

Layers that treat each token alone work on the row as it is. Attention, which mixes the tokens of a sequence, works on
blocks of sequences of similar length. The few empty slots of a block come last, so the causal mask hides them. A GRU
gets torch's packed sequences, so its state starts from zero for each sequence.

Shapes: P tokens, W windows, S slots (those of the P tokens and the empty ones), H hidden_size.
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

from blair_rec.data.packing import Packed, growth_on, pack, places_in
from blair_rec.models.ligr import eSASRec

from recbole.model.sequential_recommender import GRU4Rec, SASRec

Dropout = Callable[[Tensor, float], Tensor]
"""(x, probability) -> x with that share of its numbers zeroed and the rest scaled up."""


PACKED = (SASRec, eSASRec, GRU4Rec)
"""Model classes with a pass over packed windows."""


def can_pack(model_class: type[Any]) -> bool:
    """Return whether one pass over packed windows can give this model class's hidden state at every position.

    It can't for a subclass with its own forward, which computes something else. Such a class trains RecBole's way.
    """
    return any(issubclass(model_class, base) and model_class.forward is base.forward for base in PACKED)


def can_record(model: Any) -> bool:
    """Return whether `hidden_states` runs the same kernels for every batch of one shape, whatever its values."""
    return isinstance(model, SASRec)  # in a GRU, the size of each time step depends on the lengths of the windows


def hidden_states(model: Any, packed: Packed, dropout: Dropout, tokens: Tensor | None = None) -> Tensor:
    """Return the model's state after each token, [P, H], as its own forward computes it for each window alone.

    It uses the modules of the model's class, so weights and initialisation are that class's. `dropout` replaces its
    dropout, in training mode only.

    Args:
        tokens: [T] int64. If given, only these tokens' states are returned, [T, H], and the last computations are
            done for these tokens alone.
    """
    drop = dropout if model.training else _keep
    if isinstance(model, eSASRec):
        return _esasrec(model, packed, drop, tokens)
    if isinstance(model, SASRec):
        return _sasrec(model, packed, drop, tokens)
    return _gru4rec(model, packed, drop, tokens)


def last_states(model: Any, items: Tensor, first: np.ndarray, length: np.ndarray) -> Tensor:
    """Return the model's state [W, H] after each window items[first : first + length], as its own forward computes it.

    Shapes: items [M] int64; first, length [W] int64, where no length is 0.
    """
    nothing = items.new_zeros(()).expand(len(items) + 1)
    device = next(model.parameters()).device
    packed = pack(items, nothing, first, length, growth=growth_on(device)).to(device)
    last, back = np.cumsum(packed.lengths) - 1, np.argsort(np.argsort(length, kind="stable"))
    hidden = hidden_states(model, packed, F.dropout, torch.from_numpy(last).to(packed.items.device))
    return hidden[torch.from_numpy(back).to(hidden.device)]


def _keep(x: Tensor, probability: float = 0.0) -> Tensor:
    return x


def _sasrec(model: Any, packed: Packed, dropout: Dropout, tokens: Tensor | None) -> Tensor:
    x = model.item_embedding(packed.items) + F.embedding(packed.positions, model.position_embedding.weight)
    x = dropout(model.LayerNorm(x), model.dropout.p)
    masks = _causal_masks(packed, x)
    *_, last = layers = model.trm_encoder.layer
    for layer in layers:
        x = _attention(layer.multi_head_attention, x, packed, masks, dropout, tokens if layer is last else None)
        x = _feed_forward(layer.feed_forward, x, dropout)
    return x


def _esasrec(model: Any, packed: Packed, dropout: Dropout, tokens: Tensor | None) -> Tensor:
    x = model.item_embedding(packed.items) + F.embedding(packed.positions, model.position_embedding.weight)
    x, masks = dropout(x, model.dropout.p), _causal_masks(packed, x)
    *others, last = model.layers
    for layer in others:
        x = layer(x, lambda layer, x: _heads(layer, x, packed, masks, dropout, None), dropout)
    select = _keep if tokens is None else lambda x: _Collect.apply(x, tokens)
    return last(x, lambda layer, x: _heads(layer, x, packed, masks, dropout, tokens), dropout, select)


def _causal_masks(packed: Packed, like: Tensor) -> list[Tensor | None]:
    """Return a mask for each block on a CPU; None on other devices, whose kernel needs no mask."""
    return [_causal(size, like) if like.device.type == "cpu" else None for _, size in packed.blocks]


def _causal(size: int, like: Tensor) -> Tensor:
    """Return a matrix [size, size] with -inf above the diagonal and 0 elsewhere."""
    return torch.full((size, size), -math.inf, dtype=like.dtype, device=like.device).triu_(1)


class _Spread(torch.autograd.Function):
    """Put tokens into their slots: [P, H] -> [S, H]. Nothing reads an empty slot, so it gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Packed) -> Tensor:
        ctx.slot_of_token = packed.slot_of_token
        return x.index_select(0, packed.token_of_slot)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.slot_of_token), None


class _Collect(torch.autograd.Function):
    """Select some rows, each at most once: [S, H] -> [P, H]."""

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
    """RecBole's MultiHeadAttention; with `tokens`, it returns the output of these tokens alone."""
    context = _heads(layer, x, packed, masks, dropout, tokens)
    if tokens is not None:
        x = _Collect.apply(x, tokens)
    return layer.LayerNorm(dropout(layer.dense(context), layer.out_dropout.p) + x)


def _heads(
    layer: Any, x: Tensor, packed: Packed, masks: Sequence[Tensor | None], dropout: Dropout, tokens: Tensor | None
) -> Tensor:
    """Return the outputs of the attention heads, [P, H], block by block, with the three projections in one product.

    With `tokens`, it returns the outputs of these tokens alone, [T, H]; they still attend to the others.
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
    slots_read = packed.slot_of_token if tokens is None else packed.slot_of_token[tokens]
    return _Collect.apply(torch.cat(contexts), slots_read)


def _attend(projected: Tensor, mask: Tensor | None, probability: float, dropout: Dropout) -> Tensor:
    """Causal attention of queries, keys and values [3, W, heads, slots, width] -> [W, heads, slots, width].

    Without a mask it calls torch's fused kernel, which is faster on a GPU.
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
    return layer.LayerNorm(dropout(layer.dense_2(activation(layer.dense_1(x))), layer.dropout.p) + x)


def _gru4rec(model: Any, packed: Packed, dropout: Dropout, tokens: Tensor | None) -> Tensor:
    x = dropout(model.item_embedding(packed.items), model.emb_dropout.p)
    length = packed.lengths  # already on the CPU, so nothing waits for a GPU
    window, position = places_in(length)
    # torch packs time step by time step, the longest sequence first.
    order = torch.from_numpy(np.lexsort((-window, position))).to(x.device)
    longer = np.bincount(length)[::-1].cumsum()[::-1][1:].copy()
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=x.device)
    states, _ = model.gru_layers(PackedSequence(x[order], torch.from_numpy(longer)))  # sizes are read on the CPU
    return model.dense(states.data[back if tokens is None else back[tokens]])
