"""Encoders of other packages: a class whose objects have `encode(texts) -> vectors`, as sentence-transformers' have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec import registry
from blair_rec.errors import ConfigError, EncodingError, counted
from blair_rec.text.encoding.encoder import Encoded, SentenceEncoder, TextsDone
from blair_rec.text.encoding.source import EncoderSource

OWN = "own"
"""The pooling that a store's header records for such an encoder."""


def outside_source(
    name: str, revision: str | None, pooling: str, max_length: int, dtype: str, more: Mapping[str, Any]
) -> EncoderSource:
    """The encoder registered under this name; its revision is its package's version and a hash of its code.

    Raises:
        ConfigError: a setting is given that such an encoder doesn't read, or its package has no file.
        UntrustedCode: as registry.load.
    """
    unread = {"revision": revision not in (None, ""), "pooling": pooling not in ("auto", OWN)}
    unread |= {key: value is not None for key, value in more.items()}
    if wrong := [key for key, given in {**unread, "dtype": dtype != "float32"}.items() if given]:
        raise ConfigError(f"the encoder {name} comes from another package and doesn't read {', '.join(wrong)}")
    ((label, digest),) = registry.source_hash("encoders", name).items()
    return EncoderSource(
        name, name, Path(), f"{label} {digest}", OWN, max_length, asked_length=max_length, outside=True
    )


class OutsideEncoder(SentenceEncoder):
    """An encoder of another package: `Class(device=..., max_length=...)`, with `encode(texts)` -> [texts, text_dim]."""

    def __init__(self, source: EncoderSource, device: str = "cpu") -> None:
        """Make the encoder on `device`.

        Raises:
            ConfigError: its code can't be imported, doesn't take these two keys, or has no `encode`.
            UntrustedCode: as registry.load.
        """
        kind = registry.load("encoders", source.name)
        settings: dict[str, Any] = {"device": device, "max_length": source.max_length}
        registry.check_call("encoders", source.name, kind, 0, settings)
        self.source, self._encoder = source, kind(**settings)
        if not callable(getattr(self._encoder, "encode", None)):
            raise ConfigError(f"the encoder {source.name} has no method encode(texts)")

    @cached_property
    def _width(self) -> int:
        return self._vectors(["text"]).shape[1]

    @property
    def text_dim(self) -> int:
        """Width of the vectors, found by encoding a word."""
        return self._width

    def encode_chunks(self, chunks: Sequence[Sequence[str]], progress: TextsDone | None = None) -> Iterator[Encoded]:
        """Yield the vectors of each chunk as soon as it is done; whether a text was cut is unknown and given as False.

        Raises:
            EncodingError: the encoder did not return one row of finite numbers for each text.
        """
        done, total = 0, sum(map(len, chunks))
        for chunk in chunks:
            vectors = self._vectors(chunk)
            self._refuse_broken(chunk, vectors)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
            yield Encoded(vectors, np.zeros(len(chunk), dtype=np.bool_))

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, text_dim] float32."""
        vectors = np.asarray(self._encoder.encode(list(texts)), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise EncodingError(
                f"{self.source.name} returned an array of shape {list(vectors.shape)} for "
                f"{counted(len(texts), 'text')}; `encode` has to return one row for each text"
            )
        return vectors
