"""The lists that a teacher gives its student: its best items at every training position."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.ranking.ensemble import Ensemble, standardised
from blair_rec.ranking.scorers import Counted
from blair_rec.ranking.scorers.rules import SequentialRules
from blair_rec.ranking.scorers.without_user import RulesWithoutUser, positions_of
from blair_rec.training.distillation import TaughtLists


@torch.no_grad()
def taught_lists(
    ensemble: Ensemble, sequences: TrainingSequences, width: int, masked: bool, size: int
) -> TaughtLists:
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
        elif isinstance(member, Counted):
            raise ConfigError(
                f"{type(member).__name__} counts the training split, and of such scorers only sequential_rules can be "
                "counted without a user; leave it out of the teacher"
            )
    found: list[tuple[np.ndarray, np.ndarray]] = []
    gain, n_targets = 0.0, 0
    ensemble.eval()
    with ensemble.shared_items():
        for batch in positions_of(sequences):
            total: Any = 0
            for member, weight in zip(ensemble.members, ensemble.weights.tolist(), strict=True):
                if weight == 0:
                    continue
                if member in without:
                    scores = without[member].scores(batch, width)
                else:
                    scores = member.full_sort_predict(batch.interaction(member, width)).float().cpu()
                total = total + weight * standardised(scores)
            total[:, 0] = -math.inf
            if masked:
                position, place, _ = batch.history(len(batch.items))
                total[torch.from_numpy(position), torch.from_numpy(batch.items[place])] = -math.inf
            best = total.topk(min(size, total.shape[1] - 1), dim=1)
            found.append((best.indices.numpy().astype(np.int32), best.values.numpy()))
            hit = best.indices.numpy()[:, :10] == batch.items[batch.targets][:, None]
            hit &= np.isfinite(best.values.numpy()[:, :10])
            gain += float((hit / np.log2(np.arange(2, hit.shape[1] + 2))).sum())
            n_targets += len(hit)
    listed, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return TaughtLists(listed, values, gain / n_targets)
