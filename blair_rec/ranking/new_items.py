"""Rank targets that are new items, by a fitted scorer: among all items, and among the new ones alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from blair_rec.data.hidden import NewItemCases
from blair_rec.errors import ConfigError
from blair_rec.evaluate.runs.new_ranks import COUNTS, NewRanks
from blair_rec.models.scorer import Scorer
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.scorers import Popularity
from blair_rec.ranking.scoring import rank


def rank_new_items(
    scorer: Scorer, vectors: Sequence[np.ndarray | None], cases: NewItemCases, batch_size: int
) -> NewRanks:
    """Append the new items to the scorer, as `load(run, extra_items=STORE)` does, and rank them.

    The scorer stays changed, so don't use it for anything else afterwards.

    Args:
        vectors: [new items, E] text vectors as the store has them: one array for the scorer, or one for each member of
            an ensemble; None where no text is used.

    Raises:
        ScoringError: as `rank`.
    """
    try:
        scorer = _with_new_items(scorer, vectors, len(cases.tokens))
    except ConfigError as error:
        return _new_ranks(cases, {name: np.zeros(0, np.int64) for name in COUNTS}, str(error))
    if len(cases.split) == 0:
        return _new_ranks(cases, {name: np.zeros(0, np.int64) for name in COUNTS}, "")
    among_all = rank(scorer, cases.split, batch_size)
    among_new = rank(scorer, cases.split, batch_size, first=cases.known)
    counts = {name: getattr(among_all, name) for name in COUNTS[:4]}
    new = {"higher_new": among_new.higher_unmasked, "equal_new": among_new.equal_unmasked}
    return _new_ranks(cases, {**counts, **new}, "")


def _with_new_items(scorer: Scorer, vectors: Sequence[np.ndarray | None], count: int) -> Scorer:
    """
    Raises:
        ConfigError: the scorer, or a member of it, can't score new items.
    """
    if isinstance(scorer, Popularity):  # the reference: an item without events has a popularity of 0
        scorer.counts = torch.cat([scorer.counts, scorer.counts.new_zeros(count)])
        scorer.n_items += count
        return scorer
    if isinstance(scorer, Ensemble):
        for member, of_member in zip(scorer.members, vectors, strict=True):
            member.append_items(_or_none(of_member, count))
        return Ensemble(scorer.members, scorer.weights.tolist())  # what it has computed from its items is out of date
    (own,) = vectors
    scorer.append_items(_or_none(own, count))
    return scorer


def _or_none(vectors: np.ndarray | None, count: int) -> np.ndarray:
    """The vectors, or vectors without numbers for a scorer that uses no text, which can't take them."""
    return np.zeros((count, 0), np.float32) if vectors is None else vectors


def _new_ranks(cases: NewItemCases, counts: dict[str, np.ndarray], why: str) -> NewRanks:
    split = cases.split
    row, _ = split.histories()
    return NewRanks(
        user=split.inter_feat[split.uid_field].numpy(),
        item=split.inter_feat[split.iid_field].numpy(),
        history_length=torch.bincount(row, minlength=len(split)).numpy(),
        **counts,
        known=np.array(cases.known),
        left_out=np.array(cases.left_out),
        tokens=np.array(cases.tokens, dtype=np.str_),
        why=np.array(why),
    )
