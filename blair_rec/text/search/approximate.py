"""Approximate search for the nearest vectors of a large store, with faiss."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.extras import need
from blair_rec.files.contents import sha256_of
from blair_rec.files.writing import write_text
from blair_rec.text.search.nearest import Found, check_metric, checked_queries, exact_scores
from blair_rec.text.store.embeddings import EmbeddingStore, as_float32
from blair_rec.text.unit import unit_rows

SCHEMA = 1
"""Version of the JSON file next to an index."""
logger = logging.getLogger("blair_rec")

CELLS_PER_ROOT = 4
"""Cells: four times the square root of the number of vectors, as faiss's guidelines advise."""
TRAINING_ROWS = 40
"""Rows per cell, taken evenly from the store, that the cells are trained on; faiss asks for at least 39."""
SHARE_PROBED = 1 / 16
"""Share of the cells that a query searches."""
OVERSAMPLING = 4
"""Candidates per item asked for: faiss keeps only 8 bits of each number, so the store's vectors rank them again."""


class ApproximateIndex:
    """A search that looks only into the cells nearest to a query, and scores what it finds by the store's own vectors.

    The index is an inverted file with one byte for each number (faiss IVF, SQ8), saved next to the store as
    STORE.HASH.METRIC.faiss. It is built on first use, which takes `text_dim` bytes of memory for each item, and then
    memory-mapped. A JSON file next to it holds the SHA-256 of the index and of the store: an index that was changed is
    not used. The scores of the rows found are those of ExactIndex, bit for bit.
    """

    def __init__(self, store: EmbeddingStore, metric: str = "cosine", probed: float = SHARE_PROBED) -> None:
        """`probed` is the share of cells to search; 1 searches all.

        An index that was changed since it was written, or that is of another store, is built again, with a warning. An
        index that can't be written is used in memory, with a warning.

        Raises MissingExtra without faiss.
        """
        need("faiss", "faiss", "approximate search")
        import faiss

        check_metric(metric)
        self.store, self.metric = store, metric
        path = index_path(store, metric)
        saved = path if path is not None and path.is_file() else None
        if saved is not None and not _is_ours(saved, store, metric):  # faiss trusts what it reads: it reads only ours
            logger.warning("the search index %s is of another store, or was changed: building it again", path)
            saved = None
        if saved is not None:
            self._index: Any = faiss.read_index(str(saved), faiss.IO_FLAG_MMAP)
        else:
            logger.info("building a search index of %d vectors", len(store))
            self._index = _build(store, metric)
            if path is not None:
                _write(self._index, path, store, metric)
        self._index.nprobe = max(1, round(self._index.nlist * probed))

    def search(self, queries: np.ndarray, k: int) -> Found:
        """Search like ExactIndex.search, but rows in cells that are not searched are missed."""
        queries = checked_queries(queries, self.store, self.metric, k)
        k = min(k, len(self.store))
        rows, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf)
        _, candidates = self._index.search(queries.astype(np.float32), min(k * OVERSAMPLING, len(self.store)))
        for at, (query, found) in enumerate(zip(queries, candidates, strict=True)):
            found = np.sort(found[found >= 0])
            exact = exact_scores(self.store, found, query, self.metric)
            order = np.argsort(-exact, kind="stable")[:k]
            rows[at, : len(order)], scores[at, : len(order)] = found[order], exact[order]
        return Found(rows, scores)


def index_path(store: EmbeddingStore, metric: str) -> Path | None:
    """The path of a store's index, which depends on the store's content; None for a store in memory."""
    if store.path is None:
        return None
    folder = store.path.resolve()
    return folder.with_name(f"{folder.name}.{store.store_sha256[:12]}.{metric}.faiss")


def _build(store: EmbeddingStore, metric: str) -> Any:
    import faiss

    cells = max(1, min(round(CELLS_PER_ROOT * len(store) ** 0.5), len(store) // TRAINING_ROWS))
    index = faiss.index_factory(store.text_dim, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = np.linspace(0, len(store) - 1, min(cells * TRAINING_ROWS, len(store))).astype(np.int64)
    index.train(_prepared(as_float32(store.vectors[sample], store.dtype), metric))
    for vectors in store.blocks():
        index.add(_prepared(vectors, metric))
    return index


def _prepared(vectors: np.ndarray, metric: str) -> np.ndarray:
    return np.ascontiguousarray(vectors) if metric == "dot" else unit_rows(vectors)


def _header(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _said(path: Path, store: EmbeddingStore, metric: str) -> dict[str, str]:
    """The content of the JSON file next to an index (plus "schema"): the hashes of the index and of its store."""
    return {"store_sha256": store.store_sha256, "metric": metric, "sha256": sha256_of(path)}


def _is_ours(path: Path, store: EmbeddingStore, metric: str) -> bool:
    """Whether an index is, byte for byte, the one that was written for this store."""
    try:
        said = json.loads(_header(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # missing or broken: the index can't be checked
        return False
    return isinstance(said, dict) and {**said, "schema": SCHEMA} == {"schema": SCHEMA, **_said(path, store, metric)}


def _write(index: Any, path: Path, store: EmbeddingStore, metric: str) -> None:
    import faiss

    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        faiss.write_index(index, str(partial))
        write_text(_header(path), json.dumps({"schema": SCHEMA, **_said(partial, store, metric)}, indent=1) + "\n")
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # faiss has one kind of error for all
        logger.warning(
            "the search index %s can't be written (%s), so it is used in memory and built again each time; free some "
            "disk space, or copy the store to a folder that can be written",
            path,
            " ".join(str(error).split()),
        )
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
