"""Does a context find its item? Recall and MRR of held-out contexts over the held-out items."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from blair_rec.errors import PretrainingError, out_of
from blair_rec.pretrain.model import pool
from blair_rec.pretrain.pairs import TextPairs
from blair_rec.text.encoding.tokens import padded, token_ids
from blair_rec.text.unit import unit_rows

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts -> [n, H] vectors."""


def retrieval(embed: Embed, pairs: TextPairs) -> dict[str, float]:
    """recall@10 and MRR of each context's item, by cosine among all items of `pairs`.

    Ties are averaged over all orders. If a context belongs to several items, the best-ranked one counts.

    Raises:
        PretrainingError: vectors that are not finite.
    """
    rows = list(pairs)
    text_of = {pair.item_key: pair.item for pair in rows}
    items = {key: row for row, key in enumerate(text_of)}
    found = {pair.context_key: pair.context for pair in rows}
    relevant = np.zeros((len(found), len(items)), dtype=bool)
    contexts = {key: row for row, key in enumerate(found)}
    for pair in rows:
        relevant[contexts[pair.context_key], items[pair.item_key]] = True
    of_contexts, of_items = embed(list(found.values())), embed(list(text_of.values()))
    n_texts, wrong = len(found) + len(text_of), _not_finite(of_contexts) + _not_finite(of_items)
    if wrong:
        raise PretrainingError(
            f"{out_of(wrong, n_texts, 'held-out text', 'have')} vectors that are not finite; "
            "lower learning_rate, or choose another encoder"
        )
    scores = unit_rows(of_contexts) @ unit_rows(of_items).T
    return measures(scores, relevant)


def measures(scores: np.ndarray, relevant: np.ndarray, k: int = 10) -> dict[str, float]:
    """recall@k (share of contexts with a relevant item among the first k) and MRR of [contexts, items] scores."""
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    higher = ((scores > best) & ~relevant).sum(axis=1)
    equal = ((scores == best) & ~relevant).sum(axis=1)
    within = np.clip((k - higher) / (equal + 1), 0, 1)
    reciprocal = [np.mean(1 / (h + 1 + np.arange(e + 1))) for h, e in zip(higher, equal, strict=True)]
    return {
        f"recall@{k}": float(within.mean()),
        "mrr": float(np.mean(reciprocal)),
        "contexts": len(scores),
        "items": scores.shape[1],
    }


def embedder(
    encoder: nn.Module, tokenizer: PreTrainedTokenizerBase, pooling: str, max_length: int, batch_size: int = 64
) -> Embed:
    """A function that encodes texts as the exported encoder will: pooled, without the head used in training."""

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> np.ndarray:
        was_training, device = encoder.training, next(encoder.parameters()).device
        encoder.eval()
        order = np.argsort([len(text) for text in texts], kind="stable")
        vectors = []
        for begin in range(0, len(texts), batch_size):
            some = [texts[row] for row in order[begin : begin + batch_size]]
            ids, real = padded(token_ids(tokenizer, some, max_length), tokenizer.pad_token_id or 0)
            mask = torch.from_numpy(real).long().to(device)
            hidden = encoder(torch.from_numpy(ids).to(device), attention_mask=mask).last_hidden_state
            vectors.append(pool(hidden, mask, pooling).float().cpu().numpy())
        encoder.train(was_training)
        return np.concatenate(vectors)[np.argsort(order)]

    return embed


def _not_finite(vectors: np.ndarray) -> int:
    """Return the number of rows that are not finite."""
    return int((~np.isfinite(vectors).all(axis=1)).sum())
