"""The scorer of a second stage: trees order the candidates, the members' average orders all other items.

Shapes: K members, B cases, N item ids with the padding row 0, P pairs of a case and a candidate, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.models.scorer import refuse_new_items
from blair_rec.models.transforms import FittedTransforms
from blair_rec.ranking.ensemble import Ensemble, standardised, standardised_lists
from blair_rec.ranking.rerank.features import ItemTable, behind_lists, features
from blair_rec.ranking.rerank.pool import Pool, candidates
from blair_rec.ranking.rerank.trees import Trees

CELLS = 1 << 24
"""Members' scores in memory together, 64 MiB."""


class Reranker(nn.Module):
    """A second stage over finished scorers. Its weights and the items' numbers are tensors, its trees are text.

    A score is only a place in the ranking. Candidates come before all other items, which the members' average orders.
    The average also orders candidates to which the trees give the same score.
    Members that gave top lists have no part in the average, because most items have no score of theirs.
    """

    weights: Tensor
    popularity: Tensor
    recency: Tensor
    scores_by_product = False
    fitted_transforms: FittedTransforms | None = None
    """None, because the members' transforms are saved with the members."""

    def __init__(
        self,
        ensemble: Ensemble,
        items: ItemTable,
        top: int,
        trees: Trees | None = None,
        lists: Sequence[bool] = (),
    ) -> None:
        """
        Args:
            ensemble: the members with the weights of their average; the weight of a member with lists is not used.
            top: length of the members' lists of candidates.
            trees: None while they are fitted.
            lists: [K] which members are another system's top lists, with NaN for absent items; none if not given.
        """
        super().__init__()
        self._parts = (ensemble,)  # a tuple, so that torch doesn't save the members' weights a second time
        self.top, self.trees = top, trees
        self.lists = tuple(lists) or (False,) * len(ensemble.members)
        self.full = [place for place, partial in enumerate(self.lists) if not partial]
        """[M] the places of the members that score all items."""
        weights = ensemble.weights.clone()
        weights[[place for place, partial in enumerate(self.lists) if partial]] = 0
        self.register_buffer("weights", weights)
        self.register_buffer("popularity", items.popularity)
        self.register_buffer("recency", torch.zeros(0) if items.recency is None else items.recency)
        self.ITEM_SEQ, self.ITEM_SEQ_LEN = ensemble.ITEM_SEQ, ensemble.ITEM_SEQ_LEN
        self.device = ensemble.device
        self._texts = {name: vectors.to(self.device) for name, vectors in items.texts.items()}
        self.to(self.device)

    @property
    def ensemble(self) -> Ensemble:
        """The members. Use `weights` of the second stage, not the ensemble's."""
        return self._parts[0]

    @property
    def items(self) -> ItemTable:
        """The features of items that the trees read."""
        return ItemTable(self.popularity, self.recency if len(self.recency) else None, self._texts)

    def eval(self) -> Reranker:
        """Like torch's `eval`, for the members, too."""
        self.ensemble.eval()
        return super().eval()

    def shared_items(self) -> AbstractContextManager[Any]:
        """See Scorer.shared_items; for all members."""
        return self.ensemble.shared_items()

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return scores [B, N] float32; ignore column 0, the padding.

        Raises:
            ScoringError: a member's scores that are not finite.
        """
        return torch.cat([self._places(part, scores, pool) for part, scores, pool in self.pools(interaction)])

    def pools(self, interaction: Any) -> Iterator[tuple[Any, Tensor, Pool]]:
        """Iterate over a few cases at a time: (their part of the interaction, the members' z-scores, the candidates).

        Shapes: [K, b, N]. A batch is never scored as a whole, because that would need K matrices [B, N].
        """
        cases, n_items = len(interaction[self.ITEM_SEQ_LEN]), len(self.popularity)
        size = max(1, CELLS // (len(self.weights) * n_items))
        for begin in range(0, cases, size):
            part = _rows(interaction, slice(begin, begin + size))
            scores = self._member_scores(part)
            yield part, scores, candidates(scores, part, self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.top, self.lists)

    def _member_scores(self, interaction: Any) -> Tensor:
        """[K, b, N] z-scores; NaN for items that a list lacks."""
        if not any(self.lists):
            return self.ensemble.member_scores(interaction)
        found = []
        for member, partial in zip(self.ensemble.members, self.lists, strict=True):
            scores = member.full_sort_predict(interaction)
            found.append(standardised_lists(scores) if partial else standardised(scores))
        return torch.stack(found)

    def features(self, pool: Pool, interaction: Any) -> Tensor:
        """Return what the trees read of the candidates, [P, F] float32."""
        return features(pool, self.weights, self.items, interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def _places(self, interaction: Any, scores: Tensor, pool: Pool) -> Tensor:
        """[b, N] float32"""
        assert self.trees is not None
        weights, full = (self.weights[self.full], scores[self.full]) if any(self.lists) else (self.weights, scores)
        average = torch.einsum("k,kbn->bn", weights, full)
        read = self.features(pool, interaction).cpu().numpy()
        by_average = average[pool.case, pool.item]
        place = places(
            pool.case.cpu().numpy(), self.trees.scores(read, behind_lists(self.lists)), by_average.cpu().numpy()
        )
        highest = average.amax(dim=1)
        average[pool.case, pool.item] = highest[pool.case] + torch.from_numpy(place).to(average)
        return average

    def user_vectors(self, interaction: Any) -> Tensor:
        """Refuse: trees have no vectors.

        Raises:
            TypeError: always.
        """
        raise TypeError("a second stage does not score by product")

    def item_matrix(self) -> Tensor:
        """Refuse: trees have no vectors.

        Raises:
            TypeError: always.
        """
        raise TypeError("a second stage does not score by product")

    def append_items(self, vectors: np.ndarray) -> None:
        """See Scorer.append_items.

        Raises:
            ConfigError: always; the trees read numbers that a new item doesn't have.
        """
        refuse_new_items("a second stage (rerank) reads how often an item occurs in training")


def places(case: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return each pair's place among those of its case, from 1 for the lowest; tied pairs have the same place.

    Pairs are ordered by `first`, then by `second`. Shapes: [P], [P], [P] -> [P] int64; `case` is ascending.
    """
    order = np.lexsort((second, first, case))
    ordered = case[order], first[order], second[order]
    begins, higher = (np.zeros(len(case), dtype=bool) for _ in range(2))
    begins[:1], begins[1:] = True, ordered[0][1:] != ordered[0][:-1]
    higher[1:] = (ordered[1][1:] != ordered[1][:-1]) | (ordered[2][1:] != ordered[2][:-1])
    counted = np.cumsum(begins | higher)
    place = np.empty(len(case), dtype=np.int64)
    place[order] = counted - np.repeat(counted[begins], np.diff(np.append(np.flatnonzero(begins), len(case)))) + 1
    return place


def _rows(interaction: Any, rows: slice) -> Any:
    """Some cases of an interaction, which is RecBole's or a mapping."""
    if isinstance(interaction, Mapping):
        return {name: values[rows] for name, values in interaction.items()}
    return interaction[rows]
