"""The model that is pre-trained: it encodes texts and predicts masked words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from blair_rec.errors import PretrainingError, counted
from blair_rec.files.writing import share
from blair_rec.pretrain.batches import LENGTHS, MASKED_COUNTS
from blair_rec.pretrain.loss import contrastive_loss, gather, processes, same_pairs
from blair_rec.text.encoding.fast.unpadded import FIRST_POSITION

TEXTS = ("input_ids", "attention_mask", LENGTHS)
MASKED_WORDS = ("mlm_input_ids", "attention_mask", LENGTHS, "mlm_labels", MASKED_COUNTS)


class PairModel(nn.Module):
    """BLaIR's training model: an encoder, a head for cls vectors, and the encoder's own masked-language-modelling head.

    With `chunk_size`, only the activations of that many pairs are in memory at a time. All vectors are first computed
    without keeping activations, and the loss is taken over them; the backward pass then computes each chunk again. This
    is the technique of GradCache (Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
    RepL4NLP 2021). It uses torch's checkpoint, which also restores the random state, so that dropout is the same both
    times.
    """

    def __init__(
        self,
        language_model: PreTrainedModel,
        pooling: str,
        *,
        temperature: float,
        mlm_weight: float,
        mask_false_negatives: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.pooling = pooling
        self.temperature = temperature
        self.mlm_weight = mlm_weight
        self.mask_false_negatives = mask_false_negatives
        self.chunk_size = chunk_size
        width = language_model.config.hidden_size
        self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh()) if pooling == "cls" else nn.Identity()
        for module in self.head.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=language_model.config.initializer_range)
                nn.init.zeros_(module.bias)

    @property
    def encoder(self) -> nn.Module:
        """The encoder, which is kept after training."""
        return self.language_model.base_model

    @property
    def words(self) -> nn.Module:
        """[n, H] hidden states -> [n, vocabulary] scores: the masked language model's head."""
        (head,) = word_heads(self.language_model)
        return head

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        """The losses of one step. It reads no number of a tensor, so the program doesn't wait for a GPU.

        `batch` is what PairCollator makes: its tensors on the model's device, its arrays as they are. There are S texts
        per pair: context, item, and a hard negative if there are any. Returns loss (to be minimised), contrastive and
        mlm, each [] float.
        """
        vectors = self._vectors(batch)
        texts = [gather(vectors[:, text]) for text in range(vectors.shape[1])]
        items, said, negatives = (gather(batch[name]) for name in ("item_keys", "context_keys", "negative_keys"))
        contrastive = contrastive_loss(
            texts[0],
            texts[1],
            self.temperature,
            hard_negatives=texts[2] if len(texts) == 3 else None,
            same=same_pairs(items, said) if self.mask_false_negatives else None,
            same_hard=items.unsqueeze(1) == negatives.unsqueeze(0) if self.mask_false_negatives else None,
        )
        # All processes compute the same loss, but each has only its part of the gradient. Data-parallel training takes
        # the mean of these parts instead of their sum: so the gradient is multiplied here, but the value is not.
        loss = contrastive + (processes() - 1) * (contrastive - contrastive.detach())
        mlm = contrastive.new_zeros(())
        if self.mlm_weight and "mlm_input_ids" in batch:
            mlm = self._mlm_loss(batch)
            loss = loss + self.mlm_weight * mlm
        return {"loss": loss, "contrastive": contrastive.detach(), "mlm": mlm.detach()}

    def _vectors(self, batch: Mapping[str, Any]) -> Tensor:
        """[B, S, H]."""
        return torch.cat(self._chunks(self._encode, *(batch[name] for name in TEXTS)))

    def _encode(self, input_ids: Tensor, attention_mask: Tensor, lengths: np.ndarray) -> Tensor:
        hidden = self._read(input_ids, attention_mask, lengths)
        pooled: Tensor = self.head(pool(hidden, attention_mask.flatten(0, 1), self.pooling))
        return pooled.view(*input_ids.shape[:2], -1)

    def _read(self, input_ids: Tensor, attention_mask: Tensor, lengths: np.ndarray) -> Tensor:
        """[B, S, L] -> [B * S, L, H]: the hidden states of all texts."""
        ids, mask = input_ids.flatten(0, 1), attention_mask.flatten(0, 1)
        seen = attention_of(self.encoder.config, mask, bool((lengths < ids.shape[1]).any()))
        return self.encoder(ids, attention_mask=seen).last_hidden_state

    def _mlm_loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Mean over the masked words of all processes."""
        asked = gather((batch["mlm_labels"] >= 0).sum().reshape(1)).sum().clamp(min=1) / processes()
        parts = self._chunks(self._mlm_sum, *(batch[name] for name in MASKED_WORDS))
        return torch.stack(parts).sum() / asked

    def _mlm_sum(
        self, input_ids: Tensor, attention_mask: Tensor, lengths: np.ndarray, labels: Tensor, counts: np.ndarray
    ) -> Tensor:
        hidden = self._read(input_ids, attention_mask, lengths)
        # One word in seven: scores over the vocabulary cost most. Their number is known, so a GPU is not waited for.
        labels = labels.flatten()
        asked = torch.nonzero_static(labels >= 0, size=int(counts.sum())).squeeze(1)
        scores = self.words(hidden.flatten(0, 1)[asked])
        return nn.functional.cross_entropy(scores, labels[asked], reduction="sum")

    def _chunks(self, compute: Any, *whole: Any) -> list[Tensor]:
        """Return the results of `compute` on tensors and arrays [B, ...], one for each chunk of pairs."""
        if self.chunk_size is None:
            return [compute(*whole)]
        starts = range(0, len(whole[0]), self.chunk_size)
        chunks = [[one[start : start + self.chunk_size] for one in whole] for start in starts]
        if not torch.is_grad_enabled():
            return [compute(*chunk) for chunk in chunks]
        return [checkpoint(compute, *chunk, use_reentrant=False) for chunk in chunks]


def attention_of(config: Any, mask: Tensor, padded: bool) -> Tensor | None:
    """[n, L] int64, zeros at the padding -> the mask to call an encoder of transformers with.

    transformers checks whether a mask like the given one hides anything, and this check would wait for a GPU. So there
    is no mask without padding. With padding, [n, 1, L, L] bool is made here as transformers would make it, but only for
    types of model that need nothing else.
    """
    if not padded:
        return None
    if config.model_type not in FIRST_POSITION or config._attn_implementation != "sdpa":
        return mask
    return mask.bool()[:, None, None, :].expand(-1, 1, mask.shape[1], -1)


def pool(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """[B, L, H], [B, L] -> [B, H]: the first token's vector (cls), or the mean over all tokens but the padding."""
    if pooling == "cls":
        return hidden[:, 0]
    weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def load_language_model(path: Path, tokenizer: PreTrainedTokenizerBase, mlm: bool) -> PreTrainedModel:
    """Load the encoder at `path` with a masked-language-modelling head, in float32; a missing head starts at random.

    Raises:
        PretrainingError: the tokenizer has more words than the model; with `mlm`, it has no mask token, or the head of
            the model is not supported.
    """
    model: PreTrainedModel = AutoModelForMaskedLM.from_pretrained(path, dtype=torch.float32)
    if len(tokenizer) > model.config.vocab_size:
        raise PretrainingError(
            f"the tokenizer in {path} has {counted(len(tokenizer), 'word')}, the model {model.config.vocab_size}: they "
            "do not belong together; name a folder that holds both"
        )
    if mlm and len(word_heads(model)) != 1:
        raise PretrainingError(
            f"{type(model).__name__} predicts masked words with {len(word_heads(model))} modules instead of one, which "
            "is not supported; set mlm_weight: 0 to train without masked words"
        )
    if mlm and tokenizer.mask_token is None:
        raise PretrainingError(
            f"the tokenizer in {path} has no mask token; set mlm_weight: 0 to train without masked words"
        )
    return model


def compile_layers(model: nn.Module) -> None:
    """Make torch.compile compile the layers of a transformer at their first call. All layers share the compiled code.

    A whole model would be compiled again for every length of its texts; a layer is not, because `dynamic` keeps the
    sizes open.
    """
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList) and len({type(layer) for layer in stack}) == 1:
            for layer in stack:
                layer.compile(dynamic=True)


def word_heads(model: PreTrainedModel) -> list[nn.Module]:
    """A masked language model's modules other than its encoder: one in BERT, RoBERTa, MPNet and others."""
    return [module for name, module in model.named_children() if name != model.base_model_prefix]


def export(model: PairModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save the encoder alone as a plain Hugging Face folder, with the pooling file that sentence-transformers reads."""
    encoder = model.encoder
    assert isinstance(encoder, PreTrainedModel)
    encoder.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        share(weights)
    tokenizer.save_pretrained(folder)
    modes = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    config = {"word_embedding_dimension": encoder.config.hidden_size}
    config |= {flag: mode == model.pooling for mode, flag in modes.items()}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
