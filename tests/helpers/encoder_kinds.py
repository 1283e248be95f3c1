"""Small models of every kind that is read, with random weights, saved by sentence-transformers or model2vec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TEXTS = [
    "a red lamp",
    "lamp",
    "the small red lamp is a lamp for reading in bed " * 9,  # longer than any of these reads
    "a RED Lamp for Reading",
    "for reading\nin bed",
    "a small lamp for the bed, red and small",
    "bed bed bed",
]
POSITIONS = 64
SIZES = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
INNER = {"intermediate_size": 64}
LONG = {"max_position_embeddings": POSITIONS}
SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}

# Model type -> settings of its config. Large random weights: with the usual small ones all vectors would be similar.
ENCODERS: dict[str, dict[str, Any]] = {
    "albert": {**SIZES, **INNER, **LONG, "embedding_size": 16},
    "bert": {**SIZES, **INNER, **LONG},
    "deberta-v2": {**SIZES, **INNER, **LONG, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {"vocab_size": 320, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, **LONG},
    "electra": {**SIZES, **INNER, **LONG, "embedding_size": 16},
    "modernbert": {**SIZES, **INNER, **LONG, "cls_token_id": 0, "sep_token_id": 2, "local_attention": 8},
    "mpnet": {**SIZES, **INNER, "max_position_embeddings": POSITIONS + 2},
    "roberta": {**SIZES, **INNER, "max_position_embeddings": POSITIONS + 2},
    "t5": {"vocab_size": 320, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "xlm-roberta": {**SIZES, **INNER, "max_position_embeddings": POSITIONS + 2},
}
DECODERS: dict[str, dict[str, Any]] = {
    "gemma3_text": {**SIZES, **INNER, **LONG, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8},
    "llama": {**SIZES, **INNER, **LONG, "num_key_value_heads": 2},
    "mistral": {**SIZES, **INNER, **LONG, "num_key_value_heads": 2, "sliding_window": 8},
    "qwen2": {**SIZES, **INNER, **LONG, "num_key_value_heads": 2},
    "qwen3": {**SIZES, **INNER, **LONG, "num_key_value_heads": 2, "head_dim": 8},
}


def tokenizer_of(kind: str, **settings: Any) -> Any:
    """Trained on the spot; a decoder's ends each text with </s>, the others have <s> in front of it, too."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(TEXTS, vocab_size=320, min_frequency=1, special_tokens=names, show_progress=False)
    single = "$A </s>" if kind in DECODERS else "<s> $A </s>"
    bpe._tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, model_max_length=POSITIONS, bos_token="<s>", pad_token="<pad>",
        eos_token="</s>", unk_token="<unk>", cls_token="<s>", sep_token="</s>", mask_token="<mask>", **settings,
    )  # fmt: skip


def transformer(folder: Path, kind: str, padding_side: str = "right", **settings: Any) -> Any:
    """sentence-transformers' Transformer of a small model of this kind, which is saved in `folder`."""
    import torch
    from sentence_transformers.base.modules import Transformer
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**ENCODERS, **DECODERS}[kind], **SPECIAL)
    config.initializer_range = 0.3
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer_of(kind, padding_side=padding_side).save_pretrained(folder)
    return Transformer(str(folder), **settings)


def save(folder: Path, modules: Sequence[Any], **settings: Any) -> Path:
    """A model of these modules as sentence-transformers writes it."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=list(modules), device="cpu", **settings).save(str(folder), create_model_card=False)
    return folder


def sentence_model(
    folder: Path,
    kind: str = "bert",
    pooling: str | tuple[str, ...] = "mean",
    behind: Callable[[int], Sequence[Any]] = lambda width: (),
    padding_side: str = "right",
    transformer_settings: dict[str, Any] | None = None,
    pooling_settings: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A Transformer, its pooling, and the modules that `behind` makes for vectors of a width."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    first = transformer(folder.with_name(f"{folder.name}-plain"), kind, padding_side, **(transformer_settings or {}))
    pooled = Pooling(32, pooling, **(pooling_settings or {}))
    return save(folder, [first, pooled, *behind(pooled.get_embedding_dimension())], **settings)


def static_tokenizer(words: Sequence[str] = ()) -> Any:
    """Whole words, and [UNK] for all others."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    known = ["[UNK]", *(words or sorted({word for text in TEXTS for word in text.split()} - {"small"}))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer
