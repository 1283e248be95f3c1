"""Vectors on disk, found again by item token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np

from blair_rec.config.names import MissingText
from blair_rec.errors import (
    ConfigError,
    MissingEmbeddings,
    StoreError,
    TextlessItems,
    agreed,
    counted,
    first_of,
    out_of,
)
from blair_rec.files.contents import sha256_of
from blair_rec.lines.arrays import load_array
from blair_rec.text.tokens import NO_DIGESTS, DigestIndex, Digests, TokenTable

SCHEMA = 2
HEADER, VECTORS, TEXTS = "store.json", "vectors.npy", "text_digests.npy"
TOKENS, ENDS, INDEX = "item_tokens.bin", "item_token_ends.npy", "item_token_index.npy"
FILES = (VECTORS, TEXTS, TOKENS, ENDS, INDEX)
CUT = "text_cut.npy"
"""Which texts were cut; imported stores and those of older versions have no such file."""
MISSING_TEXT = get_args(MissingText)
ON_DISK = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
"""NumPy has no bfloat16: its 16 bits are stored as they are, and the header says what they mean."""
ABOUT_USE = ("asked_for", "fallback", "query_prompt")
"""Keys of the encoder's entry in a header that no vector depends on."""
BLOCK = 65536
"""Rows read or written together, since a store may be larger than the memory."""


@dataclass(frozen=True, eq=False)
class EmbeddingStore:
    """Text vectors of items, one row per item token that has text.

    On disk it is a folder with plain arrays (`vectors.npy`, `text_digests.npy`, `item_token_ends.npy`,
    `item_token_index.npy`), all item tokens in UTF-8 (`item_tokens.bin`), and the header `store.json` with everything
    else and the checksums. Opening a store reads the header only: the other files are memory-mapped.
    """

    tokens: TokenTable = field(repr=False)
    """Items with a vector, in row order, followed by those without text."""
    vectors: np.ndarray = field(repr=False)
    """[rows, text_dim] as stored on disk, not normalised; `table` and `blocks` give float32."""
    dtype: str = "float32"
    """float32, float16, or bfloat16 (then `vectors` are its bits as uint16)."""
    text_digests: Digests = field(default_factory=lambda: NO_DIGESTS, repr=False)
    """[rows, 2] digests of the texts that were encoded; [0, 2] for imported vectors."""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """name, asked_for, fallback, revision, pooling, max_length and dtype of the encoder; modules, prompt, query_prompt
    and truncate_dim if it has them; and its distance from float32."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """name, version and fields of the template that made the lines."""
    text_sha256: str = ""
    """Hash over all item tokens and texts."""
    store_sha256: str = ""
    """Hash of the content: equal for equal vectors made in the same way, on any machine at any time."""
    shard: tuple[int, int] | None = None
    """(i, n): this is part i of n of a catalogue, counted from 0."""
    whole: Mapping[str, Any] | None = None
    """For a part: items and sha256 of the whole catalogue; None for parts that an older version wrote."""
    cut: Mapping[str, Any] | None = None
    """items (number of texts longer than the encoder reads), asked_length and capped_by; None if not counted."""
    cut_rows: np.ndarray | None = field(default=None, repr=False)
    """[rows] bool: which texts these are."""
    code: str = ""
    """Hash of the code that made the vectors; empty if it is unknown."""
    path: Path | None = None
    """The folder, if there is one."""

    @classmethod
    def of(
        cls, item_tokens: Sequence[str], vectors: np.ndarray, textless: Sequence[str] = (), **other: Any
    ) -> EmbeddingStore:
        """A store in memory; `vectors` are [len(item_tokens), text_dim] float32."""
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise StoreError(f"vectors are {vectors.dtype} {vectors.shape}; they have to be float32 [rows, text_dim]")
        if len(item_tokens) != len(vectors):
            raise StoreError(f"{counted(len(item_tokens), 'item token')} for {counted(len(vectors), 'vector')}")
        return cls(token_table(item_tokens, textless), vectors, **other)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def text_dim(self) -> int:
        """Width of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def read(self) -> dict[str, Any]:
        """asked_length and capped_by of the header: the maximum length asked for, and what lowered it."""
        return {key: value for key, value in (self.cut or {}).items() if key in ("asked_length", "capped_by")}

    @cached_property
    def item_tokens(self) -> tuple[str, ...]:
        """Items with a vector, in row order; read when first asked for. `tokens.at(rows)` reads a few."""
        return self.tokens.between(0, len(self))

    @cached_property
    def textless(self) -> tuple[str, ...]:
        """Items of the catalogue whose text is empty: they have no row."""
        return self.tokens.between(len(self), len(self.tokens))

    def blocks(self, rows: int = BLOCK) -> Iterator[np.ndarray]:
        """[at most `rows`, text_dim] float32, one block after the other: the whole store in bounded memory."""
        for start in range(0, len(self), rows):
            yield as_float32(self.vectors[start : start + rows], self.dtype)

    def table(self, item_tokens: Sequence[str], missing_text: str = "error") -> np.ndarray:
        """[len(item_tokens), text_dim] float32, a new array in the order asked for: the text vectors of a data set.

        `missing_text` decides what an item without a vector gets. `error` raises MissingEmbeddings (the item is not in
        the store) or TextlessItems (it is listed without text). `mean` gives the mean vector of those items asked for
        that have one. `zeros` gives zeros.

        Raises as `find` does.
        """
        rows = self.find(item_tokens, missing_text)
        has_vector = rows >= 0
        table = np.zeros((len(rows), self.text_dim), dtype=np.float32)
        table[has_vector] = as_float32(self.vectors[rows[has_vector]], self.dtype)
        if missing_text == "mean":
            table[~has_vector] = table[has_vector].mean(axis=0, dtype=np.float64)
        return table

    def find(self, item_tokens: Sequence[str], missing_text: str = "error") -> np.ndarray:
        """[len(item_tokens)] int64: the row of each item's vector, -1 for an item without one; no vector is read.

        Raises MissingEmbeddings and TextlessItems as `table` does. With any `missing_text`, raises StoreError if the
        store lists less than half of the items (it must belong to another catalogue) or has a vector for none.
        """
        if missing_text not in MISSING_TEXT:
            raise ConfigError(f"missing_text is {missing_text!r}; known: {', '.join(MISSING_TEXT)}")
        rows = self.tokens.find(item_tokens)
        has_vector = (rows >= 0) & (rows < len(self))
        unknown = [item_tokens[at] for at in np.flatnonzero(rows < 0).tolist()]
        if len(unknown) * 2 > len(item_tokens):
            raise StoreError(
                f"{self._where} belongs to another catalogue: it has {len(item_tokens) - len(unknown)} of the "
                f"{counted(len(item_tokens), 'item')} (missing: {first_of(unknown)}; it has: "
                f"{first_of(self.tokens.at(range(min(3, len(self)))))}); encode the data set's own items"
            )
        if missing_text == "error":
            if unknown:
                raise MissingEmbeddings(unknown, wanted=len(item_tokens))
            if textless := [item_tokens[at] for at in np.flatnonzero(rows >= len(self)).tolist()]:
                raise TextlessItems(textless, wanted=len(item_tokens))
        if len(rows) and not has_vector.any():
            raise StoreError(
                f"{self._where} has no vector for any of the {counted(len(rows), 'item')}; choose more text fields"
            )
        return np.where(has_vector, rows, -1)

    @property
    def _where(self) -> str:
        return f"the store {self.path}" if self.path else "the store"


def token_table(item_tokens: Sequence[str], textless: Sequence[str]) -> TokenTable:
    """The table of items with a vector, followed by those without text.

    Raises:
        StoreError: a token is repeated.
    """
    table = TokenTable.of([*item_tokens, *textless])
    if surplus := len(table) - len(table.index.first_rows()):
        raise StoreError(
            f"{counted(surplus, 'item token')} {agreed(surplus, 'are')} repeated; each item has one "
            "row, or none if it has no text"
        )
    return table


def as_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Vectors as stored on disk -> float32, of the same shape."""
    if dtype == "bfloat16":  # the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)


def as_stored(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """float32 vectors -> vectors as stored on disk, of the same shape; rounded to nearest, ties to even."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return np.where(np.isnan(vectors), 0x7FC0, rounded).astype("<u2")
    with np.errstate(over="ignore"):  # too large for float16 becomes infinite, which is rejected later
        return vectors.astype(ON_DISK[dtype])


def open_store(path: str | Path, verify: bool = True) -> EmbeddingStore:
    """Open a store; its arrays are memory-mapped.

        store = blair_rec.open_store("stores/mine")
        store.vectors  # [items, text_dim], one row for each of store.item_tokens

    Args:
        path: the folder of the store.
        verify: read everything once, to check the checksums of all files and that all vectors are finite. Without it
            only schema, dtypes, shapes and sizes are checked, in the same time for any number of rows.

    Raises:
        StoreError: the store is missing, damaged, or of another version.
    """
    path = Path(path)
    header = _read_header(path)
    if verify:
        _verify_checksums(path, header)
    rows, count = header["rows"], header["rows"] + header["textless"]
    vectors = _mapped(path / VECTORS, ON_DISK.get(header["dtype"], "none"), (rows, header["text_dim"]), header["dtype"])
    text_digests = _mapped(path / TEXTS, "<u8", (header["text_digests"], 2))
    ends = _mapped(path / ENDS, "<i8", (count + 1,))
    index = _mapped(path / INDEX, "<u8", (3, count))
    try:
        size = (path / TOKENS).stat().st_size
    except OSError as error:
        raise StoreError(f"{path / TOKENS} can't be read ({error.strerror}); encode again") from error
    if size != ends[-1]:
        raise StoreError(
            f"{path / TOKENS} is cut off or damaged ({counted(size, 'byte')}, not {ends[-1]:,}); encode again"
        )
    cut = header.get("cut")
    cut_rows = None if cut is None else _mapped(path / CUT, "|b1", (rows,))
    blob = np.memmap(path / TOKENS, np.uint8, "r") if size else np.empty(0, np.uint8)
    store = EmbeddingStore(
        tokens=TokenTable(blob, ends, DigestIndex(index)),
        vectors=vectors,
        dtype=header["dtype"],
        text_digests=text_digests,
        encoder=header["encoder"],
        template=header["template"],
        text_sha256=header["text_sha256"],
        store_sha256=header["store_sha256"],
        shard=tuple(header["shard"]) if header["shard"] else None,
        whole=header.get("whole"),
        cut=cut,
        cut_rows=cut_rows,
        code=header.get("code", ""),
        path=path,
    )
    if verify and (broken := sum(int((~np.isfinite(block).all(axis=1)).sum()) for block in store.blocks())):
        raise StoreError(f"{path}: {out_of(broken, len(store), 'vector', 'hold')} NaN or infinity; encode again")
    return store


HEADER_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("rows", "textless", "text_dim", "text_digests"), int),
    **dict.fromkeys(("encoder", "template", "sha256"), dict),
    **dict.fromkeys(("dtype", "text_sha256", "store_sha256"), str),
    "shard": (list, type(None)),
}
"""The keys that a header needs, with the types of their values."""


def _read_header(path: Path) -> dict[str, Any]:
    if not (path / HEADER).is_file():
        raise StoreError(f"{path} is not an embedding store (it has no {HEADER}); run `blair-rec encode` to make one")
    try:
        header = json.loads((path / HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path / HEADER} can't be read ({error}); encode again") from error
    if not isinstance(header, dict) or "schema" not in header:
        raise StoreError(f"{path / HEADER} is not a store header; encode again")
    if header["schema"] != SCHEMA:
        which = "an older version wrote it" if header["schema"] == 1 else "another version wrote it"
        raise StoreError(f"{path} has schema {header['schema']!r} ({which}); this version reads {SCHEMA}; encode again")
    if lacking := [key for key in HEADER_KINDS if key not in header]:
        raise StoreError(f"{path / HEADER} lacks {', '.join(lacking)}; encode again")
    kinds = {**HEADER_KINDS, "cut": (dict, type(None)), "whole": (dict, type(None)), "code": str}
    if wrong := [key for key, kind in kinds.items() if key in header and not isinstance(header[key], kind)]:
        raise StoreError(f"{path / HEADER} was changed: {', '.join(wrong)} can't be {header[wrong[0]]!r}; encode again")
    return header


def _mapped(path: Path, dtype: str, shape: tuple[int, ...], name: str = "") -> np.ndarray:
    """Memory-map an array file, and check that it is what the header says."""
    try:
        array: np.ndarray = load_array(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} can't be read ({error}); encode again") from error
    if array.dtype.str != dtype or array.shape != shape:
        said = f"{name or dtype} {shape}"
        raise StoreError(f"{path} holds {array.dtype} {array.shape}, but the header says {said}; encode again")
    return array


def _verify_checksums(path: Path, header: Mapping[str, Any]) -> None:
    expected = {name: header["sha256"].get(name) for name in FILES}
    if "cut" in header:
        expected[CUT] = header["cut"].get("sha256")
    for name, written in expected.items():
        try:
            checksum = sha256_of(path / name)
        except OSError as error:
            raise StoreError(f"{path / name} can't be read ({error.strerror}); encode again") from error
        if checksum != written:
            raise StoreError(
                f"{path / name} was changed or damaged since it was written (checksum differs); encode again"
            )
    if identity_of(header) != header["store_sha256"]:
        raise StoreError(f"{path / HEADER} was changed since it was written (checksum differs); encode again")


def identity_of(header: Mapping[str, Any]) -> str:
    """SHA-256 of a header, without this hash itself and without the keys that don't decide the vectors.

    These keys are the name that was asked for and whether it is a fallback's (both concern the run), the prompt for
    queries (it concerns searches), which texts were cut (it follows from texts and encoder), and the hash of the code.
    So stores without these keys keep their hash.
    """
    content = {key: value for key, value in header.items() if key not in ("store_sha256", "cut", "code")}
    content["encoder"] = {key: value for key, value in header["encoder"].items() if key not in ABOUT_USE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
