"""Sequential rules smoothed over nearest neighbours by text.

Shapes: N item ids with the padding row 0, E text_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array, eye_array

from blair_rec.config.steps import Step
from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.models.whitening import fit_checked
from blair_rec.ranking.scorers.neighbours import unit_length
from blair_rec.ranking.scorers.rules import SequentialRules
from blair_rec.ranking.scorers.tables import pruned_product

SIMILAR = 1 << 22
"""Similarities that are in memory together while neighbours are looked up."""


class TextRules(SequentialRules):
    """Sequential rules that texts share: an item also uses the rules of the items with the nearest texts.

    score = sum over the items i of the history of smoothed(i -> item) / age(i)

    smoothed = (I + source_text * T) rules (I + target_text * T)'

    where rules are those of `sequential_rules`, and T(i, j) is the cosine of the texts of i and j if j is one of the
    `neighbours` nearest texts of i and the cosine is above 0, divided by the sum of these cosines. So the first factor
    gives an item the rules from its text neighbours, and the second one gives it the rules to its text neighbours. Only
    the KEPT largest rules from each item are kept. An item without text has no neighbours.

    Source: smoothing of counts over similar contexts, as in Dagan, Lee and Pereira, "Similarity-based models of word
    cooccurrence probabilities" (1999), here with text vectors.
    """

    uses_text = True
    KEPT: ClassVar[int] = 500
    """Rules kept from each item."""
    MOST_ITEMS: ClassVar[int] = 100_000
    """The largest catalogue, because all pairs of texts are compared: twice the items take four times as long."""

    def __init__(
        self,
        vectors: np.ndarray,
        transforms: Sequence[Step],
        item_seq: str,
        item_seq_len: str,
        fitted: Mapping[str, np.ndarray] | None = None,
        *,
        source_power: float = 0.5,
        target_power: float = 0,
        source_text: float = 0.3,
        target_text: float = 0.3,
        neighbours: int = 5,
    ) -> None:
        """
        Args:
            vectors: [N - 1, E] as in the store, without a row for the padding.
            fitted: what the transforms found in an earlier fit; None: fit them now.

        Raises:
            ConfigError: more than MOST_ITEMS items; whitening over too few items.
        """
        if len(vectors) > self.MOST_ITEMS:
            raise ConfigError(
                f"scorer: text_rules compares the texts of all pairs of items, so it takes at most "
                f"{self.MOST_ITEMS:,} items; this data set has {len(vectors):,}; use scorer: sequential_rules"
            )
        super().__init__(len(vectors) + 1, item_seq, item_seq_len, source_power=source_power, target_power=target_power)
        self.source_text, self.target_text, self.neighbours = source_text, target_text, neighbours
        self.fitted_transforms, rows = fit_checked(vectors, transforms, fitted)
        self._unit = unit_length(rows).cpu().numpy()

    def table(self, sequences: TrainingSequences) -> csr_array:
        """Return the smoothed rules, [N, N]."""
        near, own = nearest(self._unit, self.neighbours), eye_array(self.n_items, format="csr")
        from_item = csr_array(own + self.source_text * near)
        to_item = csr_array(own + self.target_text * near).T
        return pruned_product(from_item, csr_array(super().table(sequences) @ to_item), self.KEPT)


def nearest(unit: np.ndarray, most: int) -> csr_array:
    """Return the cosines above 0 of each item to its `most` nearest other ones, divided by their sum: [N, N] float64.

    unit: [N - 1, E] float32 vectors of length 1, without a row for the padding.
    """
    size, most = len(unit), min(most, len(unit) - 1)
    rows, columns, values = [], [], []
    step = max(1, SIMILAR // size)
    for begin in range(0, size, step):
        cosines = unit[begin : begin + step] @ unit.T
        own = np.arange(len(cosines))
        cosines[own, own + begin] = -np.inf
        best = np.argpartition(-cosines, most - 1, axis=1)[:, :most] if most else np.zeros((len(cosines), 0), int)
        rows.append(np.repeat(own + begin + 1, most))
        columns.append(best.ravel() + 1)
        values.append(np.take_along_axis(cosines, best, axis=1).ravel())
    value = np.concatenate(values).astype(np.float64)
    above = value > 0
    place = np.concatenate(rows)[above], np.concatenate(columns)[above]
    total = np.bincount(place[0], weights=value[above], minlength=size + 1)
    return csr_array((value[above] / total[place[0]], place), (size + 1, size + 1))
