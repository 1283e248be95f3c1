"""Pairs -> tensors: texts are tokenised, cut and padded, and some words are masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from blair_rec.pretrain.pairs import TextPair
from blair_rec.text.encoding.tokens import padded, token_ids

LENGTHS, MASKED_COUNTS = "lengths", "mlm_counts"
"""Keys of the arrays in a batch. The program reads them; as tensors on a GPU it would wait for them."""
Batch = Mapping[str, Tensor | np.ndarray]


@dataclass(frozen=True)
class PairCollator:
    """Makes a batch of tensors for PairModel from pairs."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    mlm_probability: float | None
    """Share of the tokens that are masked; None masks no words."""
    seed: int
    """Seed of the masked words: they differ between batches, but are the same whenever the batch is the same."""

    def __call__(self, pairs: Sequence[TextPair]) -> dict[str, Tensor | np.ndarray]:
        """[B] pairs -> tensors input_ids, attention_mask [B, S, L], item_keys, context_keys, negative_keys [B], and an
        array lengths [B, S], the tokens of each text. With masked words also tensors mlm_input_ids, mlm_labels
        [B, S, L], and an array mlm_counts [B], how many words of each pair are masked. All are int64."""
        texts = [text for pair in pairs for text in (pair.context, pair.item, pair.hard_negative) if text is not None]
        ids, real = padded(token_ids(self.tokenizer, texts, self.max_length), self.tokenizer.pad_token_id or 0)
        input_ids, is_token = torch.from_numpy(ids), torch.from_numpy(real)
        tensors = {"input_ids": input_ids, "attention_mask": is_token.long()}
        if self.mlm_probability is not None:
            collator = DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=self.mlm_probability)
            # Don't use torch's own random state: the loader is ahead of the model, so resuming would not be bit-exact.
            collator.generator = torch.Generator().manual_seed(self._seed_of(pairs))
            special = torch.tensor(self.tokenizer.all_special_ids, device="cpu")
            never = torch.isin(input_ids, special) | ~is_token
            masked, labels = collator.torch_mask_tokens(input_ids.clone(), never)
            tensors |= {"mlm_input_ids": masked, "mlm_labels": labels}
        tensors = {name: tensor.view(len(pairs), len(texts) // len(pairs), -1) for name, tensor in tensors.items()}
        batch: dict[str, Tensor | np.ndarray] = {**tensors, LENGTHS: real.sum(axis=1).reshape(len(pairs), -1)}
        if "mlm_labels" in tensors:
            batch[MASKED_COUNTS] = (tensors["mlm_labels"] >= 0).sum(dim=(1, 2)).numpy()
        for name in ("item_key", "context_key", "negative_key"):
            batch[f"{name}s"] = torch.tensor([getattr(pair, name) for pair in pairs], device="cpu")
        return batch

    def _seed_of(self, pairs: Sequence[TextPair]) -> int:
        return int(np.random.SeedSequence([self.seed, *(pair.row for pair in pairs)]).generate_state(1)[0])
