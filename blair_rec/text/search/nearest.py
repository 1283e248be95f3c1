"""Exact search for the nearest vectors of a store, block by block, in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from blair_rec.errors import ConfigError, StoreError, check_whole, out_of
from blair_rec.text.store.embeddings import EmbeddingStore, as_float32
from blair_rec.text.unit import unit_rows

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("cosine", "dot")
BLOCK_ROWS = 4096
"""Rows multiplied together: few enough that they fit into the caches as float32."""
QUERIES = 1024
"""Queries that share one pass over the store."""
HALF = (2.0**-7, 2.0**15)
"""Range of vector lengths in which float16 holds the product with a unit vector to its full 11 bits."""
TINY = 1e-30
"""Used instead of a length of 0 as a divisor."""


@dataclass(frozen=True, eq=False)
class Found:
    """The best rows of a store for several queries."""

    rows: np.ndarray
    """[queries, k] int64, the best first, tied rows in row order; -1 where there is none."""
    scores: np.ndarray
    """[queries, k] float64; -inf where there is no row."""


class Index(Protocol):
    """A search for the rows nearest to query vectors."""

    def search(self, queries: np.ndarray, k: int) -> Found:
        """[queries, text_dim] -> the best k rows of each."""


class ExactIndex:
    """Exact search: compares every query with every vector.

    The store is multiplied in float32, block by block, whatever the dtype on disk. Rows that could still be among the
    best, given the rounding error, are scored again in float64, one by one. So the result is the same as in float64
    throughout, bit for bit, for any block size, number of threads and number of queries.
    """

    def __init__(self, store: EmbeddingStore, metric: str = "cosine", block_rows: int = BLOCK_ROWS) -> None:
        """`metric` is cosine, or dot for the product of the vectors as they are. The first search measures lengths."""
        import torch

        check_metric(metric)
        self.store, self.metric, self.block_rows = store, metric, block_rows
        with warnings.catch_warnings():  # a memory-mapped store is read-only, and nothing writes to it
            warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
            self._vectors = torch.from_numpy(store.vectors)
        if store.dtype == "bfloat16":
            self._vectors = self._vectors.view(torch.bfloat16)
        self._lengths: dict[int, tuple[Tensor, float, float]] = {}
        # Largest rounding error, as a share of a vector's length: from the sum of text_dim products, the division by
        # the length, and the rounding of the query.
        self._rounding = (2 * store.text_dim + 16) * 2.0**-24

    def search(self, queries: np.ndarray, k: int) -> Found:
        """The k rows with the highest scores for each of [queries, text_dim]; all rows if there are fewer than k.

        Raises StoreError for queries of another width, or that aren't finite; ConfigError for k below 1.
        """
        queries = checked_queries(queries, self.store, self.metric, k)
        passes = [self._pass(queries[start : start + QUERIES], k) for start in range(0, len(queries), QUERIES)]
        best = [best for one in passes for best in one]
        width = min(k, len(self.store))
        return Found(
            np.array([rows for rows, _ in best], np.int64).reshape(len(queries), width),
            np.array([scores for _, scores in best], np.float64).reshape(len(queries), width),
        )

    def _pass(self, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(rows, scores) of each query, after one pass over the store."""
        import torch

        best = [(np.empty(0, np.int64), np.empty(0))] * len(queries)
        kth = np.full(len(queries), -np.inf)  # the score that a row has to reach
        with torch.inference_mode():
            for start, scores, off in self._scores(queries):
                within = np.flatnonzero(scores.max(axis=1) >= kth - off)
                for query in within.tolist():
                    rows = start + _promising(scores[query], k, kth[query] - off[query], 2 * off[query])
                    best[query] = self._better(best[query], rows, queries[query], k)
                    kth[query] = best[query][1][-1] if len(best[query][1]) == k else -np.inf
        return best

    def _scores(self, queries: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (first row, [queries, rows] float32 scores, [queries] largest error of a score), block by block."""
        import torch

        of_query = np.linalg.norm(queries, axis=1)
        wanted = torch.from_numpy(unit_rows(queries).astype(np.float32))
        buffer = torch.empty(self.block_rows, self.store.text_dim, device="cpu")
        for start in range(0, len(self.store), self.block_rows):
            block = self._vectors[start : start + self.block_rows]
            lengths, shortest, longest = self._lengths_of(start, block)
            if block.dtype == torch.float16 and len(wanted) == 1 and HALF[0] < shortest and longest < HALF[1]:
                # Without conversion this is nearly as fast as memory. Query and product are rounded to 11 bits each.
                products, off = torch.mv(block, wanted[0].half())[None].float(), self._rounding + 2.0**-10
            else:
                vectors = block if block.dtype == torch.float32 else buffer[: len(block)].copy_(block)
                # With one vector, mv is several times faster than mm.
                products = torch.mv(vectors, wanted[0])[None] if len(wanted) == 1 else wanted @ vectors.T
                off = self._rounding
            if self.metric == "cosine":
                products /= lengths
                yield start, products.numpy(), np.full(len(queries), off)
            else:
                yield start, products.numpy() * of_query[:, None], off * longest * of_query

    def _lengths_of(self, start: int, block: Tensor) -> tuple[Tensor, float, float]:
        """([rows] float32 lengths of a block's vectors, the shortest, the longest); measured once."""
        import torch

        if start not in self._lengths:
            lengths = torch.linalg.vector_norm(block.float(), dim=1)
            self._lengths[start] = lengths.clamp(min=TINY), float(lengths.min()), float(lengths.max())
        return self._lengths[start]

    def _better(
        self, best: tuple[np.ndarray, np.ndarray], rows: np.ndarray, query: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k among the rows found so far and new rows; all new rows come later in the store."""
        rows = np.concatenate([best[0], rows])
        scores = np.concatenate([best[1], exact_scores(self.store, rows[len(best[0]) :], query, self.metric)])
        order = np.argsort(-scores, kind="stable")[:k]
        return rows[order], scores[order]


def _promising(products: np.ndarray, k: int, floor: float, apart: float) -> np.ndarray:
    """Positions whose product reaches the floor, without those that k others of the block certainly exceed."""
    at = np.flatnonzero(products >= floor)
    if len(at) > k:
        at = at[products[at] >= np.partition(products[at], -k)[-k] - apart]
    return at


def exact_scores(store: EmbeddingStore, rows: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """[len(rows)] float64 scores of one query, each from its row alone: equal vectors have equal scores.

    `query` is [text_dim] float64, of length 1 for cosine.
    """
    vectors = as_float32(store.vectors[rows], store.dtype).astype(np.float64)
    scores: np.ndarray = (vectors * query).sum(axis=1)
    if metric == "cosine":
        lengths = np.sqrt((vectors * vectors).sum(axis=1))
        scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    return scores


def check_metric(metric: str) -> None:
    """Raise ConfigError for an unknown metric."""
    if metric not in METRICS:
        raise ConfigError(f"metric is {metric!r}; known: {', '.join(METRICS)}")


def checked_queries(queries: np.ndarray | Sequence[Any], store: EmbeddingStore, metric: str, k: int) -> np.ndarray:
    """[queries, text_dim] float64, of length 1 for cosine. Raises as ExactIndex.search does."""
    found: np.ndarray = np.asarray(queries, np.float64)
    if found.ndim != 2 or found.shape[1] != store.text_dim:
        raise StoreError(f"queries have the shape {list(found.shape)}; this store needs [queries, {store.text_dim}]")
    if broken := int((~np.isfinite(found).all(axis=1)).sum()):
        raise StoreError(f"{out_of(broken, len(found), 'query', 'hold', 'queries')} NaN or infinity")
    check_whole("k", k, least=1)
    return unit_rows(found) if metric == "cosine" else found
