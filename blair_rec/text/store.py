"""Vectors on disk, found again by item token."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import ConfigError, MissingEmbeddings, StoreError, TextlessItems, first_of

SCHEMA = 1
HEADER, VECTORS, TOKENS = "store.json", "vectors.npy", "item_tokens.json"
MISSING_TEXT = ("error", "mean", "zeros")


@dataclass(frozen=True, eq=False)
class EmbeddingStore:
    """Text vectors of items, one row per item token that has text.

    On disk a folder: `vectors.npy`, `item_tokens.json` (a JSON list, since tokens may hold any character) and the
    header `store.json`, which carries everything else and the checksums of the two.
    """

    item_tokens: tuple[str, ...] = field(repr=False)
    """Items with a vector, in row order."""
    vectors: np.ndarray = field(repr=False)
    """[len(item_tokens), text_dim] float32, as the encoder gave them (not normalised); memory-mapped when opened."""
    textless: tuple[str, ...] = field(default=(), repr=False)
    """Items of the catalogue whose text is empty: they have no row."""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """name, asked_for, revision, pooling, max_length of the encoder."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """name, version and fields of the template that made the lines."""
    text_sha256: str = ""
    """Over all (item token, text) pairs."""
    store_sha256: str = ""
    """Identity of the content: equal for equal vectors made in the same way, wherever and whenever."""
    path: Path | None = None
    """The folder, if there is one."""

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            what = f"{self.vectors.dtype} {self.vectors.shape}"
            raise StoreError(f"vectors are {what}; they have to be float32 [rows, text_dim]")
        if len(self.item_tokens) != len(self.vectors):
            raise StoreError(f"{len(self.item_tokens)} item tokens for {len(self.vectors)} vectors")
        if surplus := len(self.item_tokens) + len(self.textless) - len({*self.item_tokens, *self.textless}):
            raise StoreError(f"{surplus} item tokens are repeated; each item has one row, or none if it has no text")

    def __len__(self) -> int:
        return len(self.item_tokens)

    @property
    def text_dim(self) -> int:
        """Width of the vectors."""
        return int(self.vectors.shape[1])

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each item token."""
        return {item_token: row for row, item_token in enumerate(self.item_tokens)}

    def rows(self, item_tokens: Sequence[str]) -> np.ndarray:
        """[len(item_tokens), text_dim] float32, in the order asked for.

        Raises MissingEmbeddings for items the store doesn't know, TextlessItems for those it knows to have no text.
        """
        return self.table(item_tokens, missing_text="error")

    def table(self, item_tokens: Sequence[str], missing_text: str = "error") -> np.ndarray:
        """[len(item_tokens), text_dim] float32, a new array in the order asked for: the text vectors of a data set.

        `missing_text` says what an item without a vector gets: `error` raises MissingEmbeddings (unknown to the store)
        or TextlessItems (known to have no text); `mean` is the mean of the items asked for that have one; `zeros`.

        Raises StoreError, whatever `missing_text` is, if the store knows less than half of the items, since it can't be
        theirs, or has a vector for none.
        """
        if missing_text not in MISSING_TEXT:
            raise ConfigError(f"missing_text is {missing_text!r}; known: {', '.join(MISSING_TEXT)}")
        known_textless = set(self.textless)
        textless = [token for token in item_tokens if token in known_textless]
        unknown = [token for token in item_tokens if token not in self.row_of and token not in known_textless]
        if len(unknown) * 2 > len(item_tokens):
            raise StoreError(
                f"{self._where} belongs to another catalogue: it knows {len(item_tokens) - len(unknown)} of the "
                f"{len(item_tokens)} items (unknown: {first_of(unknown)}; its own: {first_of(self.item_tokens)}); "
                "encode the data set's own items"
            )
        if missing_text == "error":
            if unknown:
                raise MissingEmbeddings(unknown, wanted=len(item_tokens))
            if textless:
                raise TextlessItems(textless, wanted=len(item_tokens))
        rows = np.array([self.row_of.get(token, -1) for token in item_tokens], dtype=np.int64)
        has_vector = rows >= 0
        table = np.zeros((len(rows), self.text_dim), dtype=np.float32)
        table[has_vector] = self.vectors[rows[has_vector]]
        if len(rows) and not has_vector.any():
            raise StoreError(f"{self._where} has no vector for any of the {len(rows)} items; choose more text fields")
        if missing_text == "mean":
            table[~has_vector] = table[has_vector].mean(axis=0, dtype=np.float64)
        return table

    @property
    def _where(self) -> str:
        return f"the store {self.path}" if self.path else "the store"


def text_hash(pairs: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over (item token, text) pairs, in order; JSON keeps apart what plain joining would confuse."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(json.dumps(pair).encode() + b"\n")
    return digest.hexdigest()


def write_store(
    path: str | Path,
    item_tokens: Sequence[str],
    vectors: np.ndarray,
    *,
    textless: Sequence[str],
    encoder: Mapping[str, Any],
    template: Mapping[str, Any],
    text_sha256: str,
) -> EmbeddingStore:
    """Write a store and open it. What stood at `path` is replaced if it was a store (see check_replaceable).

    The folder is complete before it gets its name, so that nobody ever opens half a store. POSIX has no exchange of two
    folders: while an old store is replaced there is an instant without any, and if that step fails the old one returns.

    Raises StoreError for vectors that aren't finite, or don't fit the tokens.
    """
    check_replaceable(path)
    EmbeddingStore(tuple(item_tokens), vectors, tuple(textless))  # the same checks as on reading
    if not len(vectors):
        raise StoreError("there is no vector to store; at least one item needs text")
    if broken := _broken_rows(vectors):
        raise StoreError(f"{len(broken)} of {len(vectors)} vectors hold NaN or infinity (first rows: {broken[:3]})")
    target = Path(path).resolve()  # a link keeps pointing to where the store is
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    fresh, old = target.with_name(f".{target.name}.{mark}.new"), target.with_name(f".{target.name}.{mark}.old")
    fresh.mkdir()
    try:
        np.save(fresh / VECTORS, vectors, allow_pickle=False)
        (fresh / TOKENS).write_text(json.dumps(list(item_tokens)), encoding="utf-8")
        header: dict[str, Any] = {
            "schema": SCHEMA,
            "rows": len(vectors),
            "text_dim": int(vectors.shape[1]),
            "dtype": str(vectors.dtype),
            "encoder": dict(encoder),
            "template": dict(template),
            "text_sha256": text_sha256,
            "textless": list(textless),
            "sha256": {name: _file_sha256(fresh / name) for name in (VECTORS, TOKENS)},
        }
        header["store_sha256"] = _identity(header)
        (fresh / HEADER).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        _swap(fresh, target, old)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return open_store(path, verify=False)


def check_replaceable(path: str | Path) -> None:
    """Raise StoreError unless `path` is free, empty, or a store and nothing else: no other file is ever removed."""
    path = Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise StoreError(f"{path} is a file; a store is a folder: choose another place")
    if foreign := sorted({file.name for file in path.iterdir()} - {HEADER, VECTORS, TOKENS}):
        raise StoreError(f"{path} holds files no store has (first: {first_of(foreign)}); choose another place")


def open_store(path: str | Path, verify: bool = True) -> EmbeddingStore:
    """Open a store; its vectors are memory-mapped.

    `verify` reads everything once: the checksums of both files and of the header, and that all vectors are finite.
    Without it only schema, dtype, shape and counts are checked.

    Raises StoreError that says which of these failed.
    """
    path = Path(path)
    if not (path / HEADER).is_file():
        raise StoreError(f"{path} is not an embedding store (it has no {HEADER}); run `blair-rec encode` to make one")
    again = "encode again"
    header = _read_json(path / HEADER)
    if not isinstance(header, dict) or "schema" not in header:
        raise StoreError(f"{path / HEADER} is no store header; {again}")
    if header["schema"] != SCHEMA:
        raise StoreError(f"{path} has schema {header['schema']!r}, this version reads {SCHEMA}; {again}")
    wanted = ("rows", "text_dim", "dtype", "encoder", "template", "text_sha256", "textless", "sha256", "store_sha256")
    if lacking := [key for key in wanted if key not in header]:
        raise StoreError(f"{path / HEADER} lacks {', '.join(lacking)}; {again}")
    try:
        vectors = np.load(path / VECTORS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path / VECTORS} can't be read ({error}); {again}") from error
    said = (header["dtype"], (header["rows"], header["text_dim"]))
    if (str(vectors.dtype), vectors.shape) != said:
        found = f"{vectors.dtype} {vectors.shape}"
        raise StoreError(f"{path}: vectors are {found}, but the header says {said[0]} {said[1]}; {again}")
    item_tokens = _read_json(path / TOKENS)
    if not isinstance(item_tokens, list) or len(item_tokens) != len(vectors):
        raise StoreError(f"{path / TOKENS} does not list {len(vectors)} item tokens, one per vector; {again}")
    if verify:
        for name in (VECTORS, TOKENS):
            if _file_sha256(path / name) != header["sha256"].get(name):
                raise StoreError(
                    f"{path / name} was changed or damaged since it was written (checksum differs); {again}"
                )
        if _identity(header) != header["store_sha256"]:
            raise StoreError(f"{path / HEADER} was changed since it was written (checksum differs); {again}")
        if broken := _broken_rows(vectors):
            raise StoreError(f"{path}: {len(broken)} of {len(vectors)} vectors hold NaN or infinity; {again}")
    return EmbeddingStore(
        item_tokens=tuple(item_tokens),
        vectors=vectors,
        textless=tuple(header["textless"]),
        encoder=header["encoder"],
        template=header["template"],
        text_sha256=header["text_sha256"],
        store_sha256=header["store_sha256"],
        path=path,
    )


def _swap(fresh: Path, path: Path, old: Path) -> None:
    """Give `fresh` the name `path`, and remove what had it before."""
    if not path.exists():
        os.rename(fresh, path)
        return
    os.rename(path, old)
    try:
        os.rename(fresh, path)
    except OSError:
        os.rename(old, path)
        raise
    shutil.rmtree(old)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} can't be read ({error}); encode again") from error


def _identity(header: Mapping[str, Any]) -> str:
    """SHA-256 of a header, without itself and without the name that was asked for, which is about a run."""
    content = {key: value for key, value in header.items() if key != "store_sha256"}
    content["encoder"] = {key: value for key, value in header["encoder"].items() if key != "asked_for"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _broken_rows(vectors: np.ndarray, block: int = 65536) -> list[int]:
    """Rows that are not finite; found block by block, since a store may be larger than the memory."""
    broken: list[int] = []
    for start in range(0, len(vectors), block):
        finite = np.isfinite(vectors[start : start + block]).all(axis=1)
        broken += (start + np.flatnonzero(~finite)).tolist()
    return broken
