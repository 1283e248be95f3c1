"""The text half of gpu.py: an encoder of RoBERTa-base's shape with random weights, encoding and pre-training."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blair_rec.pretrain import train as training
from blair_rec.pretrain.model import compile_layers
from blair_rec.pretrain.settings import PretrainConfig
from blair_rec.text.encoding.encoder import TextEncoder
from blair_rec.text.encoding.source import resolve_encoder

Found = dict[str, Any]
FULL = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def made_up_words(count: int, seed: int) -> list[str]:
    """Return distinct words of two to four syllables."""
    generator = np.random.default_rng(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(generator.choice(syllables, generator.integers(2, 5)))] = None
    return list(words)


def made_up_texts(count: int, words: int, seed: int) -> list[str]:
    """Return texts of about the given number of words, some much shorter or longer, with frequent and rare words."""
    generator, known = np.random.default_rng(seed), made_up_words(2000, 0)
    lengths = np.clip(generator.lognormal(np.log(words), 0.5, count), 3, 6 * words).astype(int)
    picked = (len(known) * generator.random(lengths.sum()) ** 3).astype(int)
    parts = np.split(picked, np.cumsum(lengths)[:-1])
    return [" ".join(known[word] for word in part) for part in parts]


def build_encoder(folder: Path, small: bool) -> Path:
    """RoBERTa-base as transformers describes it, random weights, a byte-level BPE tokenizer; made once."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM

    if folder.is_dir():
        return folder
    folder.mkdir(parents=True)
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(made_up_texts(2000, 50, 1), vocab_size=4000, special_tokens=special, show_progress=False)
    bpe.save_model(str(folder))
    torch.manual_seed(0)
    vocabulary = bpe.get_vocab_size() if small else 50265
    config = RobertaConfig(
        vocab_size=vocabulary, max_position_embeddings=514, type_vocab_size=1, **(SMALL if small else FULL)
    )
    RobertaForMaskedLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def operations(lengths: np.ndarray, shape: dict[str, int]) -> float:
    """Return the multiplications and additions of a forward pass over texts of these token counts, without padding."""
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    per_token = 2 * (4 * width**2 + 2 * width * inner)
    return float(shape["num_hidden_layers"] * (per_token * lengths.sum() + 4 * width * (lengths**2).sum()))


def rates(bench: Any, product_rate: Callable[..., float]) -> Found:
    """Return the operations per second of bfloat16 products: of large squares, and of the encoder's shapes."""
    shape, square = (SMALL if bench.small else FULL), bench.size(8192, 512)
    width, inner, rows = shape["hidden_size"], shape["intermediate_size"], bench.size(65536, 1024)
    return {
        "squares": product_rate(bench, square, square, square, torch.bfloat16),
        "the encoder's shapes": product_rate(bench, rows, width, inner, torch.bfloat16),
    }


def encoding(bench: Any, product_rate: Callable[..., float]) -> Found:
    """Return the seconds from texts to vectors, and of the model alone, for texts of about 90 tokens."""
    shape = SMALL if bench.small else FULL
    folder = build_encoder(bench.folder / "encoder", bench.small)
    texts = made_up_texts(bench.size(24_000, 60), 80, 2)
    encoder = TextEncoder(resolve_encoder(str(folder), pooling="cls", dtype="bfloat16"), str(bench.device))
    lengths = np.array([len(text) for text in encoder._tokens(texts)[0]])
    found: Found = {"texts": len(texts), "tokens": int(lengths.sum()), "products": rates(bench, product_rate)}
    found["operations"] = operations(lengths, shape)
    found["seconds"] = {
        "texts to vectors": bench.seconds(lambda: encoder.encode(texts), 2),
        "tokenizer alone": bench.seconds(lambda: encoder._tokens(texts), 2),
    }
    found["distance from the CPU"] = far(encoder, texts[: bench.size(64, 8)])
    if bench.device.type != "cuda":
        return found
    compile_layers(encoder._model)
    begin = time.perf_counter()
    encoder.encode(texts[: len(texts) // 10])
    found["seconds"]["first batches, layers compiled"] = time.perf_counter() - begin
    found["seconds"]["texts to vectors, layers compiled"] = bench.seconds(lambda: encoder.encode(texts), 2)
    found["distance from the CPU, layers compiled"] = far(encoder, texts[: bench.size(64, 8)])
    return found


def far(encoder: TextEncoder, texts: list[str]) -> Found:
    """Return the cosines of this encoder's vectors with those of float32 on the CPU."""
    import dataclasses

    exact = TextEncoder(dataclasses.replace(encoder.source, dtype="float32"), "cpu").encode(texts).astype(np.float64)
    ours = encoder.encode(texts).astype(np.float64)
    cosines = (exact * ours).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(ours, axis=1)
    return {"texts": len(texts), "cosine_min": float(cosines.min())}


def pretraining(bench: Any, product_rate: Callable[..., float]) -> Found:
    """Return the seconds of a step of `blair-rec pretrain`: 384 pairs of texts of 64 tokens, and masked words."""
    shape = SMALL if bench.small else FULL
    folder = build_encoder(bench.folder / "encoder", bench.small)
    pairs, batch, steps, skip = bench.folder / "pairs.csv", bench.size(384, 8), bench.size(30, 4), bench.size(10, 1)
    texts = made_up_texts(2 * batch * 20, 200, 3)  # long enough to fill 64 tokens
    with pairs.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "meta"])
        rows.writerows(zip(texts[::2], texts[1::2], strict=True))
    config = PretrainConfig(
        pairs=str(pairs), encoder=str(folder), batch_size=batch, held_out=0.0, max_steps=steps, epochs=10.0,
        precision="bfloat16",
    )  # fmt: skip
    found: Found = {"pairs a step": batch, "steps": steps - skip, "products": rates(bench, product_rate)}
    lengths = np.full(2 * batch, config.max_length)
    vocabulary = 4000 if bench.small else 50265
    words = 0.15 * lengths.sum() * 2 * shape["hidden_size"] * (shape["hidden_size"] + vocabulary)
    # Both texts are read once unchanged and once with masked words; a backward pass costs two forward passes.
    found["operations a step"] = 3 * (2 * operations(lengths, shape) + words)
    found["seconds a step"] = {}
    ways = {"as it is": False, **({"layers compiled": True} if bench.device.type == "cuda" else {})}
    for name, compiled in ways.items():
        at: dict[int, float] = {}

        def progress(done: int, total: int, loss: float, at: dict[int, float] = at) -> None:
            if done in (skip, total):
                bench.wait()
                at[done] = time.perf_counter()

        with bench.peak(found, f"peak bytes, {name}"):
            way = config.model_copy(update={"compile": compiled})
            training.pretrain(way, folder, "cls", bench.folder / name, progress=progress)
        found["seconds a step"][name] = (at[steps] - at[skip]) / (steps - skip)
        print("pretraining", name, found["seconds a step"], flush=True)
    return found
