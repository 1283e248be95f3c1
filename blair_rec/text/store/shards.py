"""Encoding in pieces, so that a killed run can be resumed, and in parts of a catalogue, made by several processes."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.device import process_count, process_rank
from blair_rec.errors import ConfigError, StoreError, agreed, counted, first_of, out_of
from blair_rec.files.contents import sha256_of
from blair_rec.files.writing import replace_file
from blair_rec.text.store.embeddings import BLOCK, ON_DISK, EmbeddingStore, open_store
from blair_rec.text.store.writer import at_work_on, put_store, refuse_replacing
from blair_rec.text.template import text_hash
from blair_rec.text.tokens import NO_DIGESTS, DigestIndex, Digests, digests

logger = logging.getLogger("blair_rec")

SAME = ("revision", "pooling", "max_length", "dtype")
"""Settings of an encoder that decide its vectors; its name does not."""
SAID_SINCE = ("modules", "prompt", "truncate_dim")
"""Further such settings, recorded only for encoders that have them, so that older stores stay valid."""


def deciding(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a store's encoder that decide its vectors; None for those that the store doesn't record."""
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
        """Add [n, 2] digests, [n, text_dim] vectors as stored on disk and, if known, [n] bool: which texts were cut.

        Memory-mapped arrays stay memory-mapped.
        """
        self._digests.append(text_digests)
        self._vectors.append(vectors)
        self._cut.append(cut)

    def find(self, text_digests: Digests) -> np.ndarray:
        """[len(text_digests)] int64 positions, as `blocks` takes them; -1 for a text without a vector."""
        return DigestIndex.of(np.concatenate(self._digests)).find(text_digests)

    def blocks(self, found: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the vectors at positions that `find` returned, block by block."""
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
        """[len(found)] bool: which texts were cut; None if that is unknown for any of them."""
        known = [
            np.full(len(of), 2, np.int8) if cut is None else cut
            for of, cut in zip(self._vectors, self._cut, strict=True)
        ]
        flags = np.concatenate(known)[found]
        return None if (flags == 2).any() else flags.astype(np.bool_)


class Pieces:
    """The vectors that a run has encoded so far, in the work folder of a store; each file is complete or missing.

    For each text a piece holds its digest, its vector, and whether it was cut. The file's name holds the mark of the
    encoder's settings and the file's SHA-256. Pieces of other settings are kept: they may be needed again.
    """

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder, self.mark = folder, mark

    def read(self) -> Iterator[tuple[Digests, np.ndarray, np.ndarray | None]]:
        """Yield (digests, vectors, cut) of each piece; damaged pieces are removed, with a warning."""
        for path in sorted(self.folder.glob(f"{self.mark}-*.npy")):
            if sha256_of(path) == path.stem.partition("-")[2]:
                yield _piece(path)
            else:
                logger.warning("a piece of an earlier run is damaged (%s); its texts are encoded again", path)
                path.unlink()

    def write(
        self, text_digests: Digests, vectors: np.ndarray, cut: np.ndarray
    ) -> tuple[Digests, np.ndarray, np.ndarray | None]:
        """Write one piece ([n, 2], [n, text_dim] and [n] bool), and return what `read` would yield for it."""
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
    # An older version may have started this store: its pieces don't say which texts were cut.
    cut = np.array(piece["cut"]) if "cut" in piece.dtype.names else None
    return np.array(piece["digest"]), piece["vector"], cut


def settings_mark(settings: Mapping[str, Any], dtype: str) -> str:
    """16 hex digits that differ whenever the settings would give a text another vector."""
    return digests([repr([*marks(settings), dtype])]).tobytes()[:8].hex()


def marks(settings: Mapping[str, Any]) -> list[Any]:
    """A list that differs whenever the settings would give a text another vector.

    For encoders that older versions supported, it is the same list as in those versions.
    """
    return [settings[key] for key in SAME] + [[key, settings[key]] for key in SAID_SINCE if settings.get(key)]


def parse_shard(text: str) -> tuple[int, int]:
    """'0/4' -> (0, 4): part 0 of 4, counted from 0. Raises ConfigError for anything else."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ConfigError(f"shard is {text!r}; it has to be I/N, where I runs from 0 to N - 1, such as 0/4")
    return int(found[1]), int(found[2])


def shard_from_environment() -> tuple[int, int] | None:
    """This process's part under torchrun; None for a single process. Raises ConfigError as process_rank."""
    parts = process_count()
    return (process_rank(), parts) if parts > 1 else None


def shard_path(path: str | Path, shard: tuple[int, int]) -> Path:
    """The path of part i of n of a store, such as STORE.0of4."""
    return Path(path).with_name(f"{Path(path).name}.{shard[0]}of{shard[1]}")


def merge_stores(parts: Sequence[str | Path], out: str | Path, *, fresh: bool = False) -> EmbeddingStore:
    """Merge several stores into one; every byte of them is verified, and they are not changed.

    Parts of one catalogue (`--shard I/N`) are put in order. All parts are required: the result is then the same as a
    store of the whole catalogue. Stores of different catalogues are joined in the given order. An existing store at
    `out` is replaced only if `fresh`.

    Raises StoreError for stores that don't belong together, OutputError if `out` is a store already, and as open_store,
    at_work_on and put_store do.
    """
    if not fresh:
        refuse_replacing(out)
    stores = [open_store(path) for path in parts]
    if len(stores) < 2:
        raise StoreError(f"merging needs at least two stores; given: {len(stores)}")
    first = stores[0]
    for store in stores[1:]:
        for what, here, there in (
            *((f"encoder's {key}", value, store.encoder.get(key)) for key, value in deciding(first.encoder).items()),
            # Only its name is known of an imported store's encoder.
            *(
                [("encoder", first.encoder.get("name"), store.encoder.get("name"))]
                if store.encoder.get("revision") is None
                else []
            ),
            ("template", first.template, store.template),
            ("dtype", first.dtype, store.dtype),
            ("width", first.text_dim, store.text_dim),
        ):
            if here != there:
                raise StoreError(
                    f"{first.path} and {store.path} can't be merged: {what} is {here} in the first, {there} in the "
                    "second; encode both with the same settings"
                )
    shards = [store.shard for store in stores]
    if any(shards):
        stores = _in_order(stores)
    has_digests = all(len(store.text_digests) == len(store) for store in stores)
    item_tokens = [token for store in stores for token in store.item_tokens]
    textless = [token for store in stores for token in store.textless]
    if repeated := len(item_tokens) + len(textless) - len({*item_tokens, *textless}):
        raise StoreError(
            f"{counted(repeated, 'item')} {agreed(repeated, 'are')} in several of the {len(stores)} "
            "stores; each item may be in one only"
        )
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
    """The parts in order, after a check that they are all parts of one catalogue."""
    by_part = {store.shard: store for store in stores}
    counts = {shard[1] for shard in by_part if shard}
    if None in by_part or len(counts) != 1 or len(by_part) != len(stores):
        names = first_of([f"{store.path}: {store.shard and '/'.join(map(str, store.shard))}" for store in stores], 9)
        raise StoreError(f"these are not the parts of one catalogue ({names}); give each part of one catalogue once")
    (parts,) = counts
    if lacking := [f"{part}/{parts}" for part in range(parts) if (part, parts) not in by_part]:
        raise StoreError(
            f"{out_of(len(lacking), parts, 'part', 'are')} missing ({first_of(lacking)}); encode them, then merge"
        )
    if old := [str(store.path) for store in stores if store.whole is None]:
        raise StoreError(
            f"{out_of(len(old), parts, 'part', 'were')} written by an older version "
            f"({first_of(old)}), which did not note the catalogue; encode again with the same command: all vectors "
            "are kept"
        )
    wholes = {
        f"{store.path} of {counted(store.whole['items'], 'item')}": store.whole for store in stores if store.whole
    }
    if any(whole != stores[0].whole for whole in wholes.values()):
        raise StoreError(
            f"these are parts of different catalogues, or of one that has changed ({first_of(list(wholes), 9)}); "
            "encode every part from the same file"
        )
    return [by_part[part, parts] for part in range(parts)]
