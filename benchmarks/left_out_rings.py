"""A scorer that scorers.py measures and that the package leaves out: rings in the graph of co-occurrence.

Shapes: N item ids with the padding row 0.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from blair_rec.data.sequences import TrainingSequences
from blair_rec.ranking.scorers.rules import Rules
from blair_rec.ranking.scorers.tables import divided_by_degree, pairs_within, pruned, pruned_product


class Rings(Rules):
    """Items one, two or three hops away in the graph of co-occurrence; each item counts only in its nearest ring.

    score = sum over the items i of the history of rings(i, item) / age(i)

    rings = first * S + second * (S S outside of ring 1) + third * (S S S outside of rings 1 and 2)

    S(i, j) = C(i, j) / (degree(i) ^ power * degree(j) ^ power), where C(i, j) is the sum of 1 / d over all times that i
    and j occurred d <= 10 events apart in training, in any order, and the degree of an item is the sum of its row of C.
    Ring k contains the items that are reached in k hops but not in fewer. The item itself is in no ring. Hops start
    from the HOPS strongest edges of each item, and only the KEPT strongest items of each ring are kept. Popularity,
    times 1e-4, ranks the items in no ring.

    Source: rings around the last items are those of "An Embarrassingly Simple Graph Heuristic Reveals Shortcut-Solvable
    Benchmarks for Sequential Recommendation" (arXiv 2605.07125), which fills a fixed number of places from each ring
    and orders a ring by text. Here one formula scores all rings, without text.
    """

    REACH: ClassVar[int] = 10
    """Two items co-occur if they are at most this many events apart."""
    HOPS: ClassVar[int] = 30
    """Edges of an item that hops follow."""
    KEPT: ClassVar[int] = 500
    """Items kept in each ring around an item."""

    def __init__(
        self,
        n_items: int,
        item_seq: str,
        item_seq_len: str,
        *,
        first: float = 0,
        second: float = 1,
        third: float = 0,
        power: float = 0.5,
    ) -> None:
        super().__init__(n_items, item_seq, item_seq_len)
        self.first, self.second, self.third, self.power = first, second, third, power

    def table(self, sequences: TrainingSequences) -> csr_array:
        """Return the weighted rings, [N, N]."""
        later = pairs_within(sequences, self.REACH, self.n_items)
        both = csr_array(later + later.T)
        both.setdiag(0)
        both.eliminate_zeros()
        near = divided_by_degree(both, self.power, self.power)
        edges = pruned(near, self.HOPS)
        total = csr_array(self.first * near)
        inside, ring = _with_itself(near), edges
        for weight in (self.second, self.third) if self.third else (self.second,):
            ring = pruned_product(ring, edges, self.KEPT, inside)
            total, inside = csr_array(total + weight * ring), csr_array(inside + ring)
            ring = pruned(ring, self.HOPS)
        total.eliminate_zeros()
        return total


def _with_itself(table: csr_array) -> csr_array:
    """Return the table with a diagonal of ones, so that its entries are all items up to the first ring."""
    number = np.arange(table.shape[0])
    return csr_array(table + csr_array((np.ones(len(number)), (number, number)), table.shape))
