"""Writing a store: by one process at a time, and complete or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from blair_rec.errors import ConfigError, OutputError, StoreError, counted, out_of
from blair_rec.files.contents import sha256_of
from blair_rec.files.locks import work_beside
from blair_rec.files.places import real_place, refuse_foreign
from blair_rec.files.writing import partial_of, put_in_place, tidy
from blair_rec.text.store.embeddings import (
    BLOCK,
    CUT,
    ENDS,
    FILES,
    HEADER,
    INDEX,
    ON_DISK,
    SCHEMA,
    TEXTS,
    TOKENS,
    VECTORS,
    EmbeddingStore,
    as_float32,
    as_stored,
    identity_of,
    open_store,
    token_table,
)
from blair_rec.text.tokens import NO_DIGESTS, Digests

WORK = "work"
"""Ending of the hidden folder next to a store in which its pieces are written."""


@contextlib.contextmanager
def at_work_on(path: str | Path) -> Iterator[Path]:
    """Lock a store for writing, and return a hidden folder next to it for unfinished pieces.

    Only one process at a time gets the folder. Files that a killed process left half-written are removed first. The
    folder is removed at the end; after an error it stays if it holds pieces, so that the next process can resume.

    Raises OutputError if `path` can't become a store or can't be written, or if another process is writing it.
    """
    check_replaceable(path)  # before the work, not after it
    target = real_place(Path(path))
    with work_beside(target, WORK, f"the store {path}") as work:
        yield work


def has_leftovers(path: str | Path) -> bool:
    """Whether a process is writing a store, or was killed while writing; at_work_on finds out which, and cleans up."""
    target = real_place(Path(path))
    return target.with_name(f".{target.name}.{WORK}").exists()  # created first, removed last


def check_dtype(dtype: str) -> None:
    """Check the name of a store's precision.

    Raises:
        ConfigError: no precision that a store can have.
    """
    if dtype not in ON_DISK:
        raise ConfigError(f"store_dtype is {dtype!r}; known: {', '.join(ON_DISK)}")


def write_store(
    path: str | Path,
    item_tokens: Sequence[str],
    vectors: np.ndarray,
    *,
    textless: Sequence[str] = (),
    encoder: Mapping[str, Any],
    template: Mapping[str, Any],
    text_sha256: str = "",
    dtype: str = "float32",
) -> EmbeddingStore:
    """Write [len(item_tokens), text_dim] float32 vectors as a store, in `dtype`, and open it.

    Raises as at_work_on and put_store do.
    """
    check_dtype(dtype)
    EmbeddingStore.of(item_tokens, vectors, textless)  # the same checks as for reading
    blocks = (as_stored(vectors[start : start + BLOCK], dtype) for start in range(0, len(vectors), BLOCK))
    header = {"encoder": dict(encoder), "template": dict(template), "text_sha256": text_sha256, "shard": None}
    with at_work_on(path):
        return put_store(path, item_tokens, textless, NO_DIGESTS, blocks, vectors.shape[1], dtype, header)


def put_store(
    path: str | Path,
    item_tokens: Sequence[str],
    textless: Sequence[str],
    text_digests: Digests,
    blocks: Iterable[np.ndarray],
    text_dim: int,
    dtype: str,
    said: Mapping[str, Any],
    cut: np.ndarray | None = None,
    read: Mapping[str, Any] | None = None,
) -> EmbeddingStore:
    """Write a store, inside at_work_on, and open it. An old store at `path` is replaced.

    `blocks` are the vectors as stored on disk, block by block. `said` holds the header's encoder, template,
    text_sha256, shard and, for a part, whole. `cut` ([rows] bool) says which texts are longer than the encoder reads,
    None if unknown; `read` holds asked_length and capped_by. The folder gets its name only when it is complete, so that
    no process opens half a store. POSIX can't swap two folders: while an old store is replaced, there is none for an
    instant. After a crash in that instant, the next process that writes restores the old store.

    Raises StoreError for vectors that aren't finite, repeated tokens, or a full disk.
    """
    if not len(item_tokens):
        raise StoreError("there is no vector to store; at least one item needs text")
    tokens = token_table(item_tokens, textless)
    target = real_place(Path(path))
    fresh = partial_of(target)
    fresh.mkdir(parents=True)
    try:
        shape = (len(item_tokens), text_dim)
        header: dict[str, Any] = {
            "schema": SCHEMA,
            "rows": shape[0],
            "textless": len(textless),
            "text_dim": text_dim,
            "dtype": dtype,
            "text_digests": len(text_digests),
            **said,
            "sha256": {
                VECTORS: _write_vectors(fresh / VECTORS, blocks, shape, dtype),
                TOKENS: _write(fresh / TOKENS, lambda file: file.write(tokens.blob.tobytes())),
            },
        }
        for name, array in ((TEXTS, text_digests), (ENDS, tokens.ends), (INDEX, tokens.index.table)):
            header["sha256"][name] = _write(fresh / name, lambda file, array=array: np.save(file, array, False))  # type: ignore[misc]
        if cut is not None:
            checksum = _write(fresh / CUT, lambda file: np.save(file, cut.astype(np.bool_), False))
            header["cut"] = {"items": int(cut.sum()), **(read or {}), "sha256": checksum}
        header["store_sha256"] = identity_of(header)
        _write(fresh / HEADER, lambda file: file.write((json.dumps(header, indent=2) + "\n").encode()))
        put_in_place(target)
    except OSError as error:
        cannot_write(path, error)
    finally:
        tidy(target.parent, target.name)
    return open_store(path, verify=False)


def cannot_write(path: str | Path, error: OSError) -> NoReturn:
    """Raise StoreError for an error of the operating system during a write."""
    raise StoreError(
        f"the store {path} can't be written ({error.strerror}); finished vectors are kept: free some disk space or "
        "choose another folder, then run the same command again"
    ) from error


def _write(path: Path, write: Callable[[Any], object]) -> str:
    """Write one file, and return the SHA-256 of its content on disk."""
    with path.open("wb") as file:
        write(file)
    return sha256_of(path)


def _write_vectors(path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int], dtype: str) -> str:
    written, broken = 0, []

    def write(file: Any) -> None:
        nonlocal written, broken
        # Written, not memory-mapped: on a full disk a write raises an error, but a mapping kills the process.
        header = {"descr": ON_DISK[dtype], "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            finite = np.isfinite(as_float32(block, dtype)).all(axis=1)
            broken += (written + np.flatnonzero(~finite)).tolist()
            file.write(np.ascontiguousarray(block).data)
            written += len(block)

    checksum = _write(path, write)
    if broken:
        raise StoreError(
            f"{out_of(len(broken), shape[0], 'vector', 'hold')} NaN or infinity (first rows: {broken[:3]})"
        )
    if written != shape[0]:
        raise StoreError(f"{counted(written, 'vector')} for {counted(shape[0], 'item token')}")
    return checksum


def check_replaceable(path: str | Path) -> None:
    """Raise OutputError unless `path` is missing, empty, or only a store: no other file is ever removed."""
    refuse_foreign(Path(path), {HEADER}, {*FILES, CUT, "item_tokens.json"})  # the last one is in stores of schema 1


def refuse_replacing(path: str | Path) -> None:
    """Raise OutputError if a store is at `path`, or anything else that must not be lost."""
    check_replaceable(path)
    if (Path(path) / HEADER).exists():
        raise OutputError(f"{path} is a store already; choose another place, or replace it with `fresh` (--fresh)")
