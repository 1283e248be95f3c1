"""What RecBole's metrics read of a batch of scores, without a second matrix of the scores' shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import blair_rec.border.repaired  # noqa: F401  (repairs RecBole before anything of it is used)

from recbole.evaluator import Collector

TOPK = "rec.topk"
GROUP = 64
"""Columns of scores that are first looked at for their highest one alone."""


class TopKCollector(Collector):
    """RecBole's Collector, in all it collects; the true items among the top-k are found by their numbers alone.

    RecBole marks them in a matrix of cases by items, of which it then sums every row, so that most of an evaluation
    went into writing and reading zeros.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._collects_topk = self.register.need(TOPK)
        setattr(self.register, TOPK, False)  # RecBole's own way of it

    def eval_batch_collect(self, scores: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor) -> None:
        """Keep what the metrics need of B cases.

        Shapes: scores [B, N]; positive_u, positive_i [P] int64, pairs of a case and an item that is true for it.
        """
        super().eval_batch_collect(scores, interaction, positive_u, positive_i)
        if not self._collects_topk:
            return
        cases, n_items = scores.shape
        first = torch.arange(cases, device=scores.device)[:, None] * n_items
        true = torch.unique(positive_u.to(scores.device) * n_items + positive_i.to(scores.device))
        found = torch.isin(first + largest(scores, max(self.topk)), true)
        how_many = torch.bincount(true // n_items, minlength=cases)[:, None]
        self.data_struct.update_tensor(TOPK, torch.cat((found.long(), how_many), dim=1))


def largest(scores: Tensor, k: int) -> Tensor:
    """Columns of the k highest scores of each row, the highest first; equal ones in any order: [B, N] -> [B, k] int64.

    They stand in the k groups of columns whose highest scores are the highest. To look for these first takes less than
    half of the time of torch.topk over whole rows, which it copies to sort them (12,101 columns, two threads).
    """
    groups = scores.shape[1] // GROUP
    if groups <= 2 * k:
        return scores.topk(k).indices
    grouped = groups * GROUP
    chosen = scores[:, :grouped].unflatten(1, (groups, GROUP)).amax(2).topk(k).indices
    columns = (chosen[:, :, None] * GROUP + torch.arange(GROUP, device=scores.device)).flatten(1)
    rest = torch.arange(grouped, scores.shape[1], device=scores.device).expand(len(scores), -1)
    columns = torch.cat((columns, rest), dim=1)
    return columns.gather(1, scores.gather(1, columns).topk(k).indices)
