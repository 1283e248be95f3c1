"""The highest columns of each row of scores; of tied ones the first columns."""

from __future__ import annotations

import torch
from torch import Tensor

from blair_rec.errors import ScoringError, unusable_scores


def best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return columns and values of the k highest scores of each row: [B, C] -> two of [B, k].

    The highest score is first; equal scores are in the order of their columns.

    Raises:
        ScoringError: scores that are not a number.
    """
    found = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    columns, values = found.indices[:, :k], found.values[:, :k]
    if values.isnan().any():
        rows = int(values.isnan().any(dim=1).sum())
        raise ScoringError(unusable_scores(rows, len(scores), "history", "histories"))
    if found.values.shape[1] > k:  # of equal ones at the end, torch keeps any
        last = values[:, -1]
        tied = torch.nonzero((last == found.values[:, k]) & (last > -torch.inf)).squeeze(1)
        if len(tied):
            part, bound = scores[tied], last[tied].unsqueeze(1)
            above, equal = part > bound, part == bound
            missing = k - above.sum(dim=1, keepdim=True)
            chosen = above | (equal & (equal.cumsum(dim=1) <= missing))
            columns = columns.clone()
            columns[tied] = chosen.nonzero()[:, 1].view(len(tied), k)
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return columns.gather(1, order), values
