"""Fit a second stage on the validation split: candidates, weights of the average, trees, and honest validation ranks.

Every case is measured by trees that were fitted on other users: its held-out fold. Shapes: C cases of the split, P
pairs of a case and a candidate, K members, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import TrainingError, agreed, counted, out_of
from blair_rec.ranking.ensemble import Ensemble, Measure, climbed
from blair_rec.ranking.rerank.features import AVERAGE, behind_lists
from blair_rec.ranking.rerank.second_stage import Reranker
from blair_rec.ranking.rerank.trees import FOLDS, check_candidates, fit_trees
from blair_rec.ranking.scoring import Ranks


@dataclass(eq=False)
class PooledCases:
    """The candidates of the cases whose target is among them."""

    case: np.ndarray
    """[P] int64, ascending."""
    is_target: np.ndarray
    """[P] bool; one for each case."""
    in_history: np.ndarray
    """[P] bool: whether the item is in the case's history, which masking removes."""
    features: np.ndarray
    """[P, F] float32"""
    user: np.ndarray
    """[C] int64"""
    item: np.ndarray
    """[C] int64, the targets."""
    history_length: np.ndarray
    """[C] int64"""
    target_in_history: np.ndarray
    """[C] bool"""
    sizes: Mapping[bool, float]
    """Mean number of candidates of a case, over all cases: True for those outside its history, False for all."""
    n_items: int
    """N, the padding included."""

    def counts(self, masked: bool, *keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count the candidates that are higher than the target and those tied with it: two of [C] int64.

        `keys` [P] order the pairs, the first one first. A target that is not a candidate counts as the last item: its
        exact rank isn't known here, and is worse than that of all candidates.
        """
        higher, equal = np.full(len(self.item), self.n_items - 2), np.zeros(len(self.item), dtype=np.int64)
        own, begin, size = self._segments
        above, tied = np.zeros(len(self.case), dtype=bool), np.ones(len(self.case), dtype=bool)
        for key in keys:
            target = np.repeat(key[own], size)
            above |= tied & (key > target)
            tied &= key == target
        for total, flags in ((higher, above), (equal, tied)):
            flags &= self._open_masked if masked else ~self.is_target
            total[self.case[own]] = np.add.reduceat(flags, begin, dtype=np.int32) if len(begin) else 0
        return higher, equal

    def recall(self, masked: bool) -> float:
        """Return the share of cases whose target is a candidate; with `masked`, a candidate outside the history."""
        found = self.is_target & ~self.in_history if masked else self.is_target
        return float(found.sum() / len(self.item))

    @cached_property
    def _segments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The places of the targets, of the first candidate of their cases, and the number of candidates there."""
        begin = np.flatnonzero(np.diff(self.case, prepend=-1))
        return np.flatnonzero(self.is_target), begin, np.diff(begin, append=len(self.case))

    @cached_property
    def _open_masked(self) -> np.ndarray:
        """[P] bool: the candidates that a target is compared with when the history is masked."""
        return ~self.is_target & ~self.in_history


class FittedStage(NamedTuple):
    """A second stage and how it was measured."""

    stage: Reranker
    ranks: Ranks
    """The ranks of the validation split: each case is ranked by trees that were fitted on other users."""
    pool_recall: float
    """Share of validation cases whose target is a candidate; with `masked`, a candidate outside the history."""
    pool_size: float
    """Mean number of candidates of a validation case; with `masked`, of those outside the history."""


@torch.no_grad()
def fit_stage(
    stage: Reranker, split: TextSequentialDataset, masked: bool, measure: Measure, batch_size: int
) -> FittedStage:
    """Fit a second stage that has no trees yet, on a split that its members were not trained on.

    Args:
        masked: whether the history is removed from the candidates, for the weights of the average and the trees.
        measure: the metric that chooses the weights of the average.

    Raises:
        TrainingError: too few cases have their target among the candidates.
    """
    stage.eval()
    with stage.shared_items():
        examples = collect(stage, split, batch_size)
    read, case = examples.features, examples.case
    scores = read[:, 1 : 1 + 2 * len(stage.weights) : 2]
    if any(stage.lists):
        scores = scores[:, stage.full]
    weights = best_weights(examples, scores, masked, measure)
    of_all = np.zeros(len(stage.lists))
    of_all[stage.full] = weights
    stage = Reranker(Ensemble(stage.ensemble.members, of_all.tolist()), stage.items, stage.top, lists=stage.lists)
    read[:, AVERAGE] = scores @ np.asarray(weights, dtype=np.float32)
    learnt = ~(examples.in_history | examples.target_in_history[case]) if masked else np.ones(len(case), dtype=bool)
    fold = folds_of(examples.user, np.unique(case[learnt]))
    cases, size = np.unique(case[learnt], return_counts=True)
    fitted = fit_trees(read[learnt], examples.is_target[learnt], size, fold[cases])
    held_out = np.zeros(len(case))
    for number, trees in enumerate(fitted.by_fold):
        mine = fold[case] == number
        held_out[mine] = trees.scores(read[mine], behind_lists(stage.lists))
    stage.trees = fitted.trees
    ranks: dict[str, np.ndarray] = {}
    for name in ("unmasked", "masked"):
        found = examples.counts(name == "masked", held_out, read[:, AVERAGE])
        ranks |= {f"higher_{name}": found[0], f"equal_{name}": found[1]}
    nothing = np.zeros((len(examples.item), 0), dtype=np.int64)
    return FittedStage(
        stage,
        Ranks(
            user=examples.user,
            item=examples.item,
            **ranks,
            target_in_history=examples.target_in_history,
            history_length=examples.history_length,
            topk_unmasked=nothing,
            topk_masked=nothing,
        ),
        pool_recall=examples.recall(masked),
        pool_size=examples.sizes[masked],
    )


def collect(stage: Reranker, split: TextSequentialDataset, batch_size: int) -> PooledCases:
    """Return the candidates of a split's cases, batch by batch, without those whose target is not among them."""
    parts: list[tuple[np.ndarray, ...]] = []
    outside = pairs = done = 0
    target_of = split.inter_feat[split.iid_field].cpu().numpy()
    row, seen = (pairs.cpu().numpy() for pairs in split.histories())
    n_items = len(stage.popularity)
    history = np.unique(row * n_items + seen)
    for begin in range(0, len(split), batch_size):
        batch = split[slice(begin, begin + batch_size)].to(stage.device)
        for part, _, pool in stage.pools(batch):
            case, item = pool.case.cpu().numpy() + done, pool.item.cpu().numpy()
            done += len(part[stage.ITEM_SEQ_LEN])
            key = case * n_items + item
            in_history = history[np.searchsorted(history, key).clip(max=len(history) - 1)] == key
            outside, pairs = outside + int((~in_history).sum()), pairs + len(item)
            is_target = item == target_of[case]
            found = np.isin(case, case[is_target])
            read = stage.features(pool, part)[torch.from_numpy(found).to(stage.device)].cpu().numpy()
            parts.append((case[found], is_target[found], in_history[found], read))
    case_of, is_target_of, in_history_of, read_of = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return PooledCases(
        case=case_of,
        is_target=is_target_of,
        in_history=in_history_of,
        features=read_of,
        user=split.inter_feat[split.uid_field].cpu().numpy(),
        item=target_of,
        history_length=np.bincount(row, minlength=len(split)),
        target_in_history=split.targets_in_history(),
        sizes={True: outside / len(split), False: pairs / len(split)},
        n_items=n_items,
    )


def best_weights(examples: PooledCases, scores: np.ndarray, masked: bool, measure: Measure) -> tuple[float, ...]:
    """Return the weights of the average that are best among the candidates; `scores` [P, K] are the members'."""
    miss = examples.target_in_history if masked else None
    scores = np.ascontiguousarray(scores)

    def value(weights: np.ndarray) -> float:
        return measure(*examples.counts(masked, scores @ weights), miss)

    return climbed(lambda grid: [value(np.asarray(one, dtype=np.float32)) for one in grid], scores.shape[1])[0]


def check_split(split: TextSequentialDataset, masked: bool, top: int, n_items: int) -> None:
    """Check before members are trained that a second stage can be fitted on a split.

    Args:
        masked: whether cases whose target is in their history are left out, because the trees can't learn from them.
        top: length of the members' lists of candidates.
        n_items: N, the padding included.

    Raises:
        TrainingError: too few users for the held-out folds, or lists that are too long for LightGBM.
    """
    user, row = split.inter_feat[split.uid_field].cpu().numpy(), split.histories()[0].cpu().numpy()
    learnt = ~split.targets_in_history() if masked else np.ones(len(user), dtype=bool)
    if len(np.unique(_folds(user)[learnt])) < FOLDS:
        users, why = len(np.unique(user[learnt])), " whose target is outside the history" if masked else ""
        raise TrainingError(
            f"{counted(users, 'user')} {agreed(users, 'have')} validation cases{why}, too few for the "
            f"{FOLDS} held-out folds of a second stage; leave it out, or use a data set with more users"
        )
    check_candidates(min(top, n_items - 1 - int(np.bincount(row, minlength=len(user)).min())))  # of one member alone


def folds_of(user: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """Return the fold of every case, [C] int64. All cases of a user are in the same fold.

    Args:
        cases: those that trees can be fitted on.

    Raises:
        TrainingError: they have too few users.
    """
    found = _folds(user)
    if len(np.unique(found[cases])) < FOLDS:
        raise TrainingError(
            f"only {out_of(len(cases), len(user), 'validation case', 'have')} their "
            f"target among the candidates of the "
            f"second stage, too few for {FOLDS} held-out folds; raise its key `candidates`, or choose other members"
        )
    return found


def _folds(user: np.ndarray) -> np.ndarray:
    users, of_case = np.unique(user, return_inverse=True)
    found: np.ndarray = (np.random.default_rng(0).permutation(len(users)) % FOLDS)[of_case]
    return found
