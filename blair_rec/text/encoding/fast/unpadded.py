"""Texts one after another in a single row, without padding: the fastest way through an encoder on a GPU.

Every operation but attention works on single tokens, so padding is wasted work there. Attention stays within each text
(torch's varlen_attn, which is FlashAttention: Dao, ICLR 2024). It needs the start of each text instead of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.device import moved

ATTENTION = "blair_rec_unpadded"
"""The name by which a model of transformers finds `attention_within_texts`."""
FIRST_POSITION = {"bert": 0, "roberta": 1, "xlm-roberta": 1, "camembert": 1}
"""Model types whose layers get everything they need from the tokens and their positions, and the number of the first
position: counted from 0, or from the padding token's id."""
WIDEST_HEAD = 256


def reads_unpadded(model: Any, device: torch.device) -> bool:
    """Whether this model's texts can be read so: on a GPU, in half precision, and a known type of encoder."""
    config = model.config
    if device.type != "cuda" or model.dtype not in (torch.bfloat16, torch.float16):
        return False
    if config.model_type not in FIRST_POSITION or config.is_decoder or config.add_cross_attention:
        return False
    if getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
        return False
    head, left = divmod(config.hidden_size, config.num_attention_heads)
    return left == 0 and head % 8 == 0 and head <= WIDEST_HEAD


def prepare(model: Any) -> None:
    """Let the model's attention stay within each text. From now on only `read` may call it."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attention_within_texts)
    model.set_attn_implementation(ATTENTION)


def attention_within_texts(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *,
    starts: Tensor, longest: int, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of the tokens of each text: query, key, value [1, heads, tokens, width] -> [1, tokens, heads, width].

    `starts` [texts + 1] int32 are the rows at which the texts begin, and the end of the last one.
    """
    from torch.nn.attention.varlen import varlen_attn

    of_query, of_key, of_value = (part[0].transpose(0, 1) for part in (query, key, value))
    found = varlen_attn(of_query, of_key, of_value, starts, starts, longest, longest)
    assert isinstance(found, Tensor)  # a pair, if more was asked for
    return found.unsqueeze(0), None


def read(model: Any, tokens: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """[texts, longest, width]: the hidden states of texts, in the model's dtype, with zeros at the padding.

    `tokens` are the token ids of each text. There is at least one column, even if no text has a token.
    """
    lengths = np.array([len(text) for text in tokens])
    longest, count = max(1, int(lengths.max())), int(lengths.sum())
    if count == 0:
        return torch.zeros(len(tokens), longest, model.config.hidden_size, dtype=model.dtype, device=device)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(count) - np.repeat(starts[:-1], lengths)
    config = model.config
    offset = config.pad_token_id + 1 if FIRST_POSITION[config.model_type] else 0
    slots = np.repeat(np.arange(len(tokens)) * longest, lengths) + within  # of each token in the padded table
    ids = np.fromiter(chain.from_iterable(tokens), np.int64, count)
    row, positions, at = (moved(torch.from_numpy(part), device) for part in (ids, within + offset, slots))
    hidden = model(
        input_ids=row.unsqueeze(0), position_ids=positions.unsqueeze(0), longest=longest,
        starts=moved(torch.from_numpy(starts.astype(np.int32)), device),
    ).last_hidden_state[0]  # fmt: skip
    table: Tensor = hidden.new_zeros(len(tokens) * longest, hidden.shape[1])
    return table.index_copy_(0, at, hidden).view(len(tokens), longest, -1)
