"""The lists that a teacher gives its student: its best items at every training position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError, ScoringError, unusable_scores
from blair_rec.ranking.ensemble import CONSTANT, Ensemble
from blair_rec.ranking.scorers import Counted
from blair_rec.ranking.scorers.rules import SequentialRules
from blair_rec.ranking.scorers.without_user import Positions, RulesWithoutUser, positions_of
from blair_rec.training.distillation import TaughtLists

CELLS = 1 << 18
"""Scores of a member that are averaged together, 1 MB."""


def refuse_counted(kind: type[Any]) -> None:
    """Check that a class of scorers doesn't count the training split, or can be counted again without a user.

    Raises:
        ConfigError: it counts the split, and can't be counted again without a user.
    """
    if issubclass(kind, Counted) and kind is not SequentialRules:
        raise ConfigError(
            f"{kind.__name__} counts the training split, and of such scorers only sequential_rules can be counted "
            "without a user; leave it out of the teacher"
        )


@torch.no_grad()
def taught_lists(ensemble: Ensemble, sequences: TrainingSequences, width: int, masked: bool, size: int) -> TaughtLists:
    """Return the best `size` items of an ensemble at every training position.

    Sequential rules are counted without the sequence of the position. Models were trained on all positions, so their
    lists are better there than for a new user.

    Args:
        width: the maximum number of history items that a member reads.
        masked: whether the whole history is removed from the candidates.

    Raises:
        ConfigError: a member counts the training split and can't be counted again without a user, or reads more of a
            case than its history. ScoringError: a member's scores are not finite.
    """
    without = {}
    for member in ensemble.members:
        if type(member) is SequentialRules:
            without[member] = RulesWithoutUser(member, sequences)
        else:
            refuse_counted(type(member))
    weighted = [pair for pair in zip(ensemble.members, ensemble.weights.tolist(), strict=True) if pair[1]]
    items, values = [], []
    gain, n_targets = 0.0, 0
    ensemble.eval()
    with ensemble.shared_items():
        for batch in positions_of(sequences):
            scored = []
            for member, weight in weighted:
                if member in without:
                    scores = without[member].scores(batch, width)
                else:
                    scores = member.full_sort_predict(batch.interaction(member, width)).float().cpu()
                scored.append((scores, weight))
            best, score = _best(scored, batch, masked, size)
            hit = (best[:, :10] == batch.items[batch.targets][:, None]) & np.isfinite(score[:, :10])
            gain += float((hit / np.log2(np.arange(2, hit.shape[1] + 2))).sum())
            n_targets += len(hit)
            items.append(best)
            values.append(score)
    return TaughtLists(np.concatenate(items), np.concatenate(values), gain / n_targets)


def _best(
    scored: Sequence[tuple[Tensor, float]], batch: Positions, masked: bool, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return ([B, K] int32 best items, [B, K] float32 their scores), from each member's scores [B, N] and its weight.

    Rows are averaged in parts that fit into the CPU's cache.
    """
    items, values = [], []
    position, place, _ = batch.history(len(batch.items))
    n_rows, n_items = scored[0][0].shape
    step = max(1, CELLS // n_items)
    for begin in range(0, n_rows, step):
        total = torch.zeros(min(step, n_rows - begin), n_items, device="cpu")
        for scores, weight in scored:
            total[:, 1:] += _standardised(scores[begin : begin + step, 1:], weight)
        total[:, 0] = -math.inf
        if masked:
            mine = slice(*np.searchsorted(position, [begin, begin + step]))
            total[torch.from_numpy(position[mine] - begin), torch.from_numpy(batch.items[place[mine]])] = -math.inf
        best = total.topk(min(size, n_items - 1), dim=1)
        items.append(best.indices.numpy().astype(np.int32))
        values.append(best.values.numpy())
    return np.concatenate(items), np.concatenate(values)


def _standardised(scores: Tensor, weight: float) -> Tensor:
    """Return `weight` times what ensemble.standardised returns for [B, N] scores, up to rounding, in half the time."""
    mean = scores.mean(dim=1, keepdim=True)
    off = scores - mean
    deviation = torch.linalg.vector_norm(off, dim=1, keepdim=True) / math.sqrt(scores.shape[1])
    if not_finite := int((~deviation.isfinite()).sum()):
        raise ScoringError(unusable_scores(not_finite, len(scores), "training position", kind="not finite"))
    largest = scores.abs().amax(dim=1, keepdim=True)
    return off.mul_(torch.where(deviation > CONSTANT * largest, weight / deviation, 0))
