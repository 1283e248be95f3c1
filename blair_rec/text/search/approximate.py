"""The nearest vectors of a large store, nearly all of them found, by faiss."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import OutputError
from blair_rec.extras import need
from blair_rec.files import sha256_of, write_text
from blair_rec.text.search.nearest import Found, check_metric, checked_queries, exact_scores
from blair_rec.text.store.embeddings import EmbeddingStore, as_float32

logger = logging.getLogger("blair_rec")

CELLS_PER_ROOT = 4
"""Cells: four times the square root of the number of vectors, as faiss's guidelines advise."""
TRAINING_ROWS = 40
"""Rows of the store, taken evenly, that the place of a cell is learnt from; faiss asks for 39 at least."""
SHARE_PROBED = 1 / 16
"""Of all cells, how many a query looks into."""
OVERSAMPLING = 4
"""Candidates for each item asked for, since faiss keeps 8 bits of each number; the store then decides."""


class ApproximateIndex:
    """A query looks into the cells nearest to it alone; what it finds there is scored by the store's own vectors.

    An inverted file of one byte for each number (faiss IVF, SQ8), which lies beside the store as
    STORE.HASH.METRIC.faiss: made when it is first asked for, which takes `text_dim` bytes of memory for each item, and
    memory-mapped from then on, as long as it is the file that was written: its SHA-256, with the store's, is in a JSON
    file beside it. The scores of what is found are those of ExactIndex, to the bit.
    """

    def __init__(self, store: EmbeddingStore, metric: str = "cosine", probed: float = SHARE_PROBED) -> None:
        """`probed` is the share of cells to look into; 1 looks into all.

        An index that was changed since it was written, or that is of another store, is made again, and that is said.

        Raises MissingExtra without faiss, OutputError if the index can't be written.
        """
        need("faiss", "faiss", "approximate search")
        import faiss

        check_metric(metric)
        self.store, self.metric = store, metric
        path = index_path(store, metric)
        if path is not None and path.is_file():
            if not _is_ours(path, store, metric):  # faiss trusts what it reads, so it reads nothing else
                logger.warning("the search index %s was not written for this store, or was changed since", path)
                path.unlink()
        if path is None or not path.is_file():
            logger.info("making a search index of %d vectors", len(store))
            self._index = _build(store, metric)
            if path is not None:
                _write(self._index, path, store, metric)
        else:
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        self._index.nprobe = max(1, round(self._index.nlist * probed))

    def search(self, queries: np.ndarray, k: int) -> Found:
        """As ExactIndex.search; a row of another cell may be missed."""
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
    """Where a store's index lies; another store at the same place has another one. None for a store in memory."""
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
    if metric == "dot":
        return np.ascontiguousarray(vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _header(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _said(path: Path, store: EmbeddingStore, metric: str) -> dict[str, str]:
    """What the file beside an index says of it and of the store that it was made for."""
    return {"store_sha256": store.store_sha256, "metric": metric, "sha256": sha256_of(path)}


def _is_ours(path: Path, store: EmbeddingStore, metric: str) -> bool:
    """Whether an index is, to the byte, the one that was written for this store."""
    try:
        said = json.loads(_header(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or no JSON: nobody vouches for the index
        return False
    return bool(said == _said(path, store, metric))


def _write(index: Any, path: Path, store: EmbeddingStore, metric: str) -> None:
    import faiss

    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        faiss.write_index(index, str(partial))
        write_text(_header(path), json.dumps(_said(partial, store, metric), indent=1) + "\n")
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # faiss has one kind of error for all
        raise OutputError(
            f"the search index {path} can't be written ({error}); make room, or copy the store"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
