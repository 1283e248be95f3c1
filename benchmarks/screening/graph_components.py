"""Rec-PCA: components of the text that are penalised by the co-occurrence graph, with a trained delta.

Source: Zhu and Zhang, Break the Optimization Barrier of LLM-Enhanced Recommenders: A Theoretical Analysis and Practical
Framework, 2026 (arXiv 2604.20490). Without its code, this follows the abstract: item vectors of length 1, and a
reduction of the width that keeps the text and penalises the total variation over a graph of items that occur together.
How the two are weighed, the edges and the delta are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from blair_rec.models.items import ItemSide

if TYPE_CHECKING:
    from blair_rec.data.sequences import TrainingSequences


class GraphComponents(ItemSide):
    """content_i + delta_i as in `items: text_delta`, where other components of the text are the content.

    content_i is (x_i - mean) W, scaled to one length for all items. W [E, H] are the H eigenvectors with the largest
    eigenvalues of S - graph_weight T:

        S = 1/n sum_i (x_i - mean) (x_i - mean)^T
        T = 1/(2 sum_ij w_ij) sum_ij w_ij (x_i - x_j) (x_i - x_j)^T

    The edge w_ij counts how often i and j are neighbours in a training sequence. Along a direction v, v^T T v / v^T S v
    is near 0 if neighbours agree, and near 1 if they differ as much as random items do. graph_weight 0 is plain PCA.
    delta_i is trained and at most max_delta times as long as the content. A new item has delta = 0.

    Shapes: E text_dim, H hidden_size, n items: table [n, E], content and delta [n, H], directions [E, H].
    """

    content: Tensor
    """[n, H] float32, each row of length 1; zero for an item whose text is the mean."""
    directions: Tensor
    """[E, H] float32, W; zero columns if H > E."""
    mean: Tensor
    """[E] float32."""
    length: Tensor
    """Length of every content, a scalar."""

    def __init__(
        self, vectors: Tensor, replaced: nn.Embedding, graph_weight: float = 1.0, max_delta: float = 1.0
    ) -> None:
        """
        Args:
            vectors: [n, E] float32 text vectors.
            replaced: [N, H] as the model initialised it.
            graph_weight: weight of the total variation, from 0 on.
            max_delta: longest delta, as a share of the content's length.
        """
        super().__init__(vectors, replaced)
        self.keep_frozen(vectors)
        self.graph_weight, self.max_delta = graph_weight, max_delta
        self.delta = nn.Parameter(torch.zeros(len(vectors), self.embedding_dim))
        self.register_buffer("length", torch.tensor(self._start * self.embedding_dim**0.5))
        self.register_buffer("mean", vectors.mean(dim=0))
        self.register_buffer("directions", torch.zeros(vectors.shape[1], self.embedding_dim))
        self.register_buffer("content", torch.zeros(len(vectors), self.embedding_dim))
        self._choose(np.zeros((0, 2), dtype=np.int64))  # plain PCA until the graph is known

    def count(self, sequences: TrainingSequences) -> None:
        """Build the graph from the neighbours in the training sequences, and choose the components."""
        items, offsets = sequences.items, sequences.offsets
        sequence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        together = sequence[:-1] == sequence[1:]
        pairs = np.stack([items[:-1], items[1:]], axis=1)[together] - 1  # rows count from 0, without the padding
        self._choose(pairs[pairs[:, 0] != pairs[:, 1]])

    def _choose(self, pairs: np.ndarray) -> None:
        """Set the directions and the content; pairs [P, 2] int64: the rows of two neighbours, once for each time."""
        centred = self.table.cpu().numpy().astype(np.float64)
        centred = centred - centred.mean(axis=0)
        objective = centred.T @ centred / len(centred)
        if len(pairs):  # the sum over pairs is X^T (D - A - A^T) X, with D the number of pairs of each item
            joined = csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(centred),) * 2)
            degree = np.bincount(pairs.ravel(), minlength=len(centred))
            along = centred.T @ (joined @ centred)
            apart = (centred.T * degree) @ centred - along - along.T
            objective -= self.graph_weight * apart / (2 * len(pairs))
        _, vectors = np.linalg.eigh(objective)  # in rising order of the eigenvalues
        kept = np.flip(vectors, axis=1)[:, : self.embedding_dim].copy()
        self.directions[:, : kept.shape[1]] = torch.from_numpy(kept).to(self.directions)
        self.content.copy_(self._content_of(self.table))

    def _content_of(self, rows: Tensor) -> Tensor:
        """[m, E] -> [m, H], each row of length 1."""
        return nn.functional.normalize((rows - self.mean) @ self.directions, dim=1)

    def rows(self, which: Tensor | None = None) -> Tensor:
        """Return [n, H] float32, or [K, H] for `which` [K]."""
        bound = self.max_delta * self.length
        content, delta = self.some_of(self.content, which), self.some_of(self.delta, which)
        size = delta.norm(dim=1, keepdim=True)
        return self.length * content + delta * (bound / size.clamp(min=bound))

    def _append(self, rows: Tensor) -> None:
        super()._append(rows)
        content = self._content_of(rows)
        self.content = torch.cat([self.content, content])
        self.delta = nn.Parameter(torch.cat([self.delta.detach(), torch.zeros_like(content)]))
