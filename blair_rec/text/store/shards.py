"""Encoding in pieces: those of a run that may be killed, and parts of a catalogue made by several processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import ConfigError, StoreError, first_of
from blair_rec.files import replace_file, sha256_of
from blair_rec.text.store.embeddings import BLOCK, ON_DISK, EmbeddingStore, open_store
from blair_rec.text.store.writer import at_work_on, put_store, refuse_replacing
from blair_rec.text.template import text_hash
from blair_rec.text.tokens import NO_DIGESTS, DigestIndex, Digests, digests

logger = logging.getLogger("blair_rec")

SAME = ("revision", "pooling", "max_length", "dtype")
"""What of an encoder decides on its vectors; its name does not."""
SAID_SINCE = ("modules", "prompt", "truncate_dim")
"""The same, in the stores of encoders that have such things; all others stay as older versions made them."""


def deciding(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """What of a store's encoder decides on its vectors, None where the store doesn't say."""
    return {key: encoder.get(key) for key in SAME + SAID_SINCE}


class KnownVectors:
    """Vectors that need not be computed again, found by the digest of their text."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self._digests: list[Digests] = [NO_DIGESTS]
        self._vectors: list[np.ndarray] = []
        self._cut: list[np.ndarray | None] = []

    @property
    def text_dim(self) -> int:
        """Width of the vectors."""
        return int(self._vectors[0].shape[1])

    def add(self, text_digests: Digests, vectors: np.ndarray, cut: np.ndarray | None) -> None:
        """[n, 2] digests, [n, text_dim] vectors as they lie on disk, and [n] bool whose text was cut, if that is known.

        Memory-mapped arrays stay so.
        """
        self._digests.append(text_digests)
        self._vectors.append(vectors)
        self._cut.append(cut)

    def find(self, text_digests: Digests) -> np.ndarray:
        """[len(text_digests)] int64; -1 for a text without a vector, otherwise what `blocks` takes."""
        return DigestIndex.of(np.concatenate(self._digests)).find(text_digests)

    def blocks(self, found: np.ndarray) -> Iterator[np.ndarray]:
        """The vectors that `find` found, block by block."""
        ends = np.cumsum([len(vectors) for vectors in self._vectors])
        for start in range(0, len(found), BLOCK):
            at = found[start : start + BLOCK]
            source = np.searchsorted(ends, at, side="right")
            block = np.empty((len(at), self.text_dim), ON_DISK[self.dtype])
            for number in np.unique(source):
                here = source == number
                block[here] = self._vectors[number][at[here] - (ends[number] - len(self._vectors[number]))]
            yield block

    def cut(self, found: np.ndarray) -> np.ndarray | None:
        """[len(found)] bool: whose text was cut; None if that is unknown of any of them."""
        known = [
            np.full(len(of), 2, np.int8) if cut is None else cut
            for of, cut in zip(self._vectors, self._cut, strict=True)
        ]
        flags = np.concatenate(known)[found]
        return None if (flags == 2).any() else flags.astype(np.bool_)


class Pieces:
    """What a run has encoded so far, in the work folder of a store: files that are whole or not there.

    A piece holds the digest of each text beside its vector, and whether the text was cut; its name holds the mark of
    the encoder's settings and its own SHA-256. Pieces of other settings are left alone: they may be wanted again.
    """

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder, self.mark = folder, mark

    def read(self) -> Iterator[tuple[Digests, np.ndarray, np.ndarray | None]]:
        """(digests, vectors, cut) of all pieces that are there; damaged ones are removed, and that is said."""
        for path in sorted(self.folder.glob(f"{self.mark}-*.npy")):
            if sha256_of(path) == path.stem.partition("-")[2]:
                yield _piece(path)
            else:
                logger.warning("a piece of an earlier run is damaged (%s); its texts are encoded again", path)
                path.unlink()

    def write(
        self, text_digests: Digests, vectors: np.ndarray, cut: np.ndarray
    ) -> tuple[Digests, np.ndarray, np.ndarray | None]:
        """One more piece, [n, 2], [n, text_dim] and [n] bool, and what `read` would give for it."""
        columns = [("digest", text_digests.dtype, (2,)), ("vector", vectors.dtype, vectors.shape[1:]), ("cut", "?")]
        piece = np.empty(len(vectors), columns)
        piece["digest"], piece["vector"], piece["cut"] = text_digests, vectors, cut
        partial = self.folder / "piece.partial"
        with partial.open("wb") as file:
            np.save(file, piece, allow_pickle=False)
        path = self.folder / f"{self.mark}-{sha256_of(partial)}.npy"
        replace_file(partial, path)
        return _piece(path)


def _piece(path: Path) -> tuple[Digests, np.ndarray, np.ndarray | None]:
    piece = np.load(path, mmap_mode="r", allow_pickle=False)
    # An older version may have begun this store: its pieces don't say which texts were cut.
    cut = np.array(piece["cut"]) if "cut" in piece.dtype.names else None
    return np.array(piece["digest"]), piece["vector"], cut


def settings_mark(settings: Mapping[str, Any], dtype: str) -> str:
    """16 hex digits that differ wherever the vectors of one text do."""
    return digests([repr([*marks(settings), dtype])]).tobytes()[:8].hex()


def marks(settings: Mapping[str, Any]) -> list[Any]:
    """What differs wherever the vectors of one text do: the same list as ever for encoders that older versions knew."""
    return [settings[key] for key in SAME] + [[key, settings[key]] for key in SAID_SINCE if settings.get(key)]


def parse_shard(text: str) -> tuple[int, int]:
    """'0/4' -> (0, 4): part 0 of 4, counted from 0. Raises ConfigError for anything else."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise ConfigError(f"shard is {text!r}; it has to be i/n, where i runs from 0 to n - 1, such as 0/4")
    return int(part), int(parts)


def shard_from_environment() -> tuple[int, int] | None:
    """This process's part under torchrun, which sets RANK and WORLD_SIZE; None for a process on its own."""
    parts = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ["RANK"]), parts) if parts > 1 and "RANK" in os.environ else None


def shard_path(path: str | Path, shard: tuple[int, int]) -> Path:
    """Where part i of n of a store lies: STORE.0of4."""
    return Path(path).with_name(f"{Path(path).name}.{shard[0]}of{shard[1]}")


def merge_stores(parts: Sequence[str | Path], out: str | Path, *, fresh: bool = False) -> EmbeddingStore:
    """One store of several, with every byte of them verified; they stay as they are.

    Parts of one catalogue (`--shard i/n`) are put in order, and all have to be there: the result then counts as made
    from the whole catalogue. Stores of different catalogues are joined in the order given. A store that is at `out` is
    replaced only if `fresh`.

    Raises StoreError for stores that don't belong together, OutputError for a store that is at `out` already, and as
    open_store, at_work_on and put_store do.
    """
    if not fresh:
        refuse_replacing(out)
    stores = [open_store(path) for path in parts]
    if len(stores) < 2:
        raise StoreError(f"{len(stores)} stores are given; to merge takes at least two")
    first = stores[0]
    for store in stores[1:]:
        for what, here, there in (
            *((f"encoder's {key}", value, store.encoder.get(key)) for key, value in deciding(first.encoder).items()),
            ("template", first.template, store.template),
            ("dtype", first.dtype, store.dtype),
            ("width", first.text_dim, store.text_dim),
        ):
            if here != there:
                raise StoreError(f"{first.path} and {store.path} can't be merged: {what} is {here} there, {there} here")
    shards = [store.shard for store in stores]
    if any(shards):
        stores = _in_order(stores)
    has_digests = all(len(store.text_digests) == len(store) for store in stores)
    item_tokens = [token for store in stores for token in store.item_tokens]
    textless = [token for store in stores for token in store.textless]
    if repeated := len(item_tokens) + len(textless) - len({*item_tokens, *textless}):
        raise StoreError(f"{repeated} items stand in more than one of the {len(stores)} stores; each belongs into one")
    text_digests = np.concatenate([store.text_digests for store in stores]) if has_digests else first.text_digests[:0]
    made_from = text_hash(digests(item_tokens), text_digests, digests(textless)) if has_digests else ""
    blocks = (store.vectors[at : at + BLOCK] for store in stores for at in range(0, len(store), BLOCK))
    worst = min(stores, key=lambda store: store.encoder.get("from_float32", {}).get("cosine_min", 1.0))
    said = {"encoder": dict(worst.encoder), "template": dict(first.template), "text_sha256": made_from, "shard": None}
    flags = [store.cut_rows for store in stores]
    cut = None if any(of is None for of in flags) else np.concatenate([of for of in flags if of is not None])
    with at_work_on(out):
        return put_store(
            out, item_tokens, textless, text_digests, blocks, first.text_dim, first.dtype, said, cut, first.read
        )


def _in_order(stores: Sequence[EmbeddingStore]) -> list[EmbeddingStore]:
    """Parts by number, if all of one catalogue are there."""
    by_part = {store.shard: store for store in stores}
    counts = {shard[1] for shard in by_part if shard}
    if None in by_part or len(counts) != 1 or len(by_part) != len(stores):
        names = first_of([f"{store.path}: {store.shard and '/'.join(map(str, store.shard))}" for store in stores], 9)
        raise StoreError(f"these are not parts of one whole ({names}); give each part of one catalogue once")
    (parts,) = counts
    if lacking := [f"{part}/{parts}" for part in range(parts) if (part, parts) not in by_part]:
        raise StoreError(f"{len(lacking)} of {parts} parts are missing ({first_of(lacking)}); encode them, merge all")
    if old := [str(store.path) for store in stores if store.whole is None]:
        raise StoreError(
            f"{len(old)} of {parts} parts were written by an older version ({first_of(old)}) and don't say which "
            "catalogue they are part of; encode them again with the same command: their vectors are kept"
        )
    wholes = {f"{store.path} of {store.whole['items']} items": store.whole for store in stores if store.whole}
    if any(whole != stores[0].whole for whole in wholes.values()):
        raise StoreError(
            f"these are parts of different catalogues, or of one that has changed ({first_of(list(wholes), 9)}); "
            "encode every part from the same file"
        )
    return [by_part[part, parts] for part in range(parts)]
