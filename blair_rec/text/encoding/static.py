"""Static embeddings: one vector per token, and their mean for a text. They encode thousands of texts per second."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from blair_rec.errors import ConfigError, UnknownEncoder
from blair_rec.text.encoding.encoder import Encoded, SentenceEncoder, TextsDone
from blair_rec.text.encoding.layers import load_steps, shortened
from blair_rec.text.encoding.modules import read_recipe, steps_of
from blair_rec.text.encoding.source import EncoderSource
from blair_rec.text.encoding.tokens import check_room

BLOCK = 256
"""Texts whose tokens are looked up together: few enough that the vectors fit into the caches."""


class StaticEncoder(SentenceEncoder):
    """An encoder in model2vec's format, or a StaticEmbedding of sentence-transformers.

    A folder that model2vec wrote is used as model2vec uses it: unknown tokens don't count, and a long text is cut to
    the number of characters that max_length tokens usually have. A text without a known token gets zeros.
    """

    def __init__(self, source: EncoderSource, device: str = "cpu") -> None:
        """Load the table in float32 onto `device`; a CPU is as fast as a GPU.

        Raises UnknownEncoder if the table and the tokenizer don't belong together, ConfigError for another dtype.
        """
        if source.dtype != "float32":
            raise ConfigError(f"dtype is {source.dtype}, but {source.name} only looks vectors up; leave dtype out")
        self.source, self.device = source, torch.device(device)
        recipe = read_recipe(source.path, source.name)
        self._tokenizer = _tokenizer(recipe.folder)
        check_room(lambda prompt: len(self._tokenizer.encode(prompt, add_special_tokens=False).ids), source)
        table, model2vec = _table(recipe.folder)
        ids = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if len(table) < ids:
            raise UnknownEncoder(
                f"{recipe.folder} has {len(table)} token vectors for {ids} tokens; the files don't belong together: "
                "get the model again"
            )
        steps, width = load_steps(steps_of(recipe, source.modules), table.shape[1])
        if source.truncate_dim and source.truncate_dim > width:
            raise ConfigError(
                f"truncate_dim is {source.truncate_dim}, but {source.name} makes vectors of width {width}"
            )
        self._table, self._steps = table.to(self.device), steps.to(self.device)
        self._width = min(width, source.truncate_dim or width)
        self._unknown = _unknown_token(self._tokenizer) if model2vec else None
        lengths = [len(token) for token in self._tokenizer.get_vocab()]
        self._letters = source.max_length * int(np.median(lengths)) if model2vec else None

    @property
    def text_dim(self) -> int:
        """Width of the vectors."""
        return self._width

    def encode_chunks(self, chunks: Sequence[Sequence[str]], progress: TextsDone | None = None) -> Iterator[Encoded]:
        """Yield the vectors of each chunk as soon as it is done; they depend only on that chunk, bit for bit.

        Raises EncodingError for vectors that aren't finite.
        """
        done, total = 0, sum(map(len, chunks))
        for chunk in chunks:
            tokens, cut = self._tokens(chunk)
            vectors = np.empty((len(chunk), self.text_dim), dtype=np.float32)
            for start in range(0, len(chunk), BLOCK):
                vectors[start : start + BLOCK] = self._means(tokens[start : start + BLOCK])
            done += len(chunk)
            if progress is not None:
                progress(done, total)
            self._refuse_broken(chunk, vectors)
            yield Encoded(vectors, cut)

    def _tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Token ids of each text with its prompt in front, cut at max_length; and [texts] bool: which were cut."""
        whole = [self.source.prompt + text for text in texts]
        looked_at = [text[: self._letters] for text in whole]
        read = [one.ids for one in self._tokenizer.encode_batch_fast(looked_at, add_special_tokens=False)]
        most = self.source.max_length
        cut = np.array([len(ids) > most for ids in read], dtype=np.bool_)
        cut |= np.array([len(a) > len(b) for a, b in zip(whole, looked_at, strict=True)], dtype=np.bool_)
        return [[token for token in ids[:most] if token != self._unknown] for ids in read], cut

    def _means(self, tokens: list[list[int]]) -> np.ndarray:
        """[len(tokens), text_dim] float32."""
        starts = np.cumsum([0, *map(len, tokens[:-1])])
        ids = np.fromiter((token for text in tokens for token in text), np.int64)
        with torch.inference_mode():
            flat, offsets = (torch.from_numpy(array).to(self.device) for array in (ids, starts))
            means = torch.nn.functional.embedding_bag(flat, self._table, offsets, mode="mean")
            vectors: np.ndarray = shortened(self._steps(means), self.source).cpu().numpy()
        return vectors


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UnknownEncoder(f"{folder} holds no tokenizer.json; get the model again")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _unknown_token(tokenizer: Tokenizer) -> int | None:
    """The id of the tokenizer's unknown token, or None if it has none."""
    model = tokenizer.model
    if not hasattr(model, "unk_token"):  # Unigram has it only in its file
        said: int | None = json.loads(tokenizer.to_str())["model"].get("unk_id")
        return said
    return None if model.unk_token is None else tokenizer.token_to_id(model.unk_token)


def _table(folder: Path) -> tuple[torch.Tensor, bool]:
    """The [tokens, width] float32 table, expanded if model2vec stored it compactly; and whether model2vec wrote it."""
    path = folder / "model.safetensors"
    try:
        with safe_open(str(path), framework="pt") as file:
            held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise UnknownEncoder(f"{path} can't be read ({error}); get the model again") from error
    if "embedding.weight" in held:
        return held["embedding.weight"].float(), False
    if "embeddings" not in held:
        raise UnknownEncoder(f"{path} holds no token vectors (embeddings or embedding.weight); get the model again")
    table = held["embeddings"].float()
    if "mapping" in held:
        table = table[held["mapping"].long()]
    if "weights" in held:
        table = table * held["weights"].float()[:, None]
    return table.contiguous(), True
