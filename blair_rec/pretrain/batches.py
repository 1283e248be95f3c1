"""Pairs -> tensors: texts are tokenised, cut and padded, and some words are masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from blair_rec.pretrain.pairs import TextPair
from blair_rec.text.encoding.tokens import padded, token_ids

MASKED_COUNTS = "mlm_counts"
ON_CPU = (MASKED_COUNTS,)
"""Keys of a batch that stay on the CPU: the program reads them, and would wait for a GPU to give them back."""


@dataclass(frozen=True)
class PairCollator:
    """Makes a batch of tensors for PairModel from pairs."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    mlm_probability: float | None
    """Share of the tokens that are masked; None masks no words."""
    seed: int
    """Seed of the masked words: they differ between batches, but are the same whenever the batch is the same."""

    def __call__(self, pairs: Sequence[TextPair]) -> dict[str, Tensor]:
        """[B] pairs -> input_ids, attention_mask [B, S, L], item_keys, context_keys [B]; and the masked words:
        mlm_input_ids, mlm_labels [B, S, L], and mlm_counts [B], how many words of each pair are masked."""
        texts = [text for pair in pairs for text in (pair.context, pair.item, pair.hard_negative) if text is not None]
        ids, real = padded(token_ids(self.tokenizer, texts, self.max_length), self.tokenizer.pad_token_id or 0)
        input_ids, is_token = torch.from_numpy(ids), torch.from_numpy(real)
        batch: dict[str, Any] = {"input_ids": input_ids, "attention_mask": is_token.long()}
        if self.mlm_probability is not None:
            collator = DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=self.mlm_probability)
            # Don't use torch's own random state: the loader is ahead of the model, so resuming would not be bit-exact.
            collator.generator = torch.Generator().manual_seed(self._seed_of(pairs))
            special = torch.tensor(self.tokenizer.all_special_ids, device="cpu")
            never = torch.isin(input_ids, special) | ~is_token
            masked, labels = collator.torch_mask_tokens(input_ids.clone(), never)
            batch |= {"mlm_input_ids": masked, "mlm_labels": labels}
        batch = {name: tensor.view(len(pairs), len(texts) // len(pairs), -1) for name, tensor in batch.items()}
        if "mlm_labels" in batch:
            batch[MASKED_COUNTS] = (batch["mlm_labels"] >= 0).sum(dim=(1, 2))
        batch["item_keys"] = torch.tensor([pair.item_key for pair in pairs], device="cpu")
        batch["context_keys"] = torch.tensor([pair.context_key for pair in pairs], device="cpu")
        return batch

    def _seed_of(self, pairs: Sequence[TextPair]) -> int:
        return int(np.random.SeedSequence([self.seed, *(pair.row for pair in pairs)]).generate_state(1)[0])
