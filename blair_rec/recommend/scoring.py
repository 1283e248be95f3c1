"""A model and the cases of a split -> how many candidates score above and the same as the true item, and the top-k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blair_rec.errors import ScoringError
from blair_rec.recommend.dataset import TextSequentialDataset
from blair_rec.recommend.models import shared_items


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the true items of a split ended up among all items.

    `unmasked`: the history stays among the candidates (RecBole's habit); `masked`: it doesn't (RecTools' and
    S3-Rec's). A true item that stands in its own history is no candidate under masking.

    Shapes: B cases, in the order of the split; all int64 but where said.
    """

    user: np.ndarray
    item: np.ndarray
    higher_unmasked: np.ndarray
    """[B] other candidates that score above the true item."""
    equal_unmasked: np.ndarray
    """[B] other candidates that score the same."""
    higher_masked: np.ndarray
    equal_masked: np.ndarray
    target_in_history: np.ndarray
    """[B] bool."""
    history_length: np.ndarray
    """[B] events before the true item."""
    topk_unmasked: np.ndarray
    """[B, k] item ids, best first."""
    topk_masked: np.ndarray
    """[B, k] item ids, best first; 0 where fewer candidates are left."""


@torch.no_grad()
def rank(model: Any, split: TextSequentialDataset, batch_size: int, k: int = 0) -> Ranks:
    """Score every case of a split against all items, `batch_size` cases at a time.

    Raises:
        ScoringError: scores that are not a number, or not one per item.
    """
    model.eval()
    n_items = split.item_num
    k = min(k, n_items - 1)
    history_row, history_item = split.histories()
    bounds = torch.searchsorted(history_row, torch.arange(len(split) + 1))
    parts: list[dict[str, Tensor]] = []
    with shared_items(model):
        for begin in range(0, len(split), batch_size):
            rows = torch.arange(begin, min(begin + batch_size, len(split)))
            interaction = split[rows]
            scores = model.full_sort_predict(interaction.to(model.device)).float().cpu()
            if scores.shape != (len(rows), n_items):
                raise ScoringError(
                    f"{type(model).__name__} gave scores of shape {tuple(scores.shape)} for {n_items} items"
                )
            if not_numbers := int(torch.isnan(scores).any(dim=1).sum()):
                raise ScoringError(f"{not_numbers} of {len(rows)} cases have scores that are not a number")
            seen = torch.zeros(len(rows), n_items, dtype=torch.bool)
            of_batch = slice(int(bounds[begin]), int(bounds[rows[-1] + 1]))
            seen[history_row[of_batch] - begin, history_item[of_batch]] = True
            parts.append(_rank_batch(scores, interaction[split.iid_field].cpu(), seen, k))
            parts[-1]["user"] = interaction[split.uid_field].cpu()
    joined = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    return Ranks(**joined, history_length=(bounds[1:] - bounds[:-1]).numpy())


def _rank_batch(scores: Tensor, item: Tensor, seen: Tensor, k: int) -> dict[str, Tensor]:
    """Counts and top-k of one batch: scores [B, N] with the padding in column 0, item [B], seen [B, N] bool."""
    row = torch.arange(len(item))
    scores[:, 0] = -torch.inf
    own = scores[row, item].unsqueeze(1)
    above, same = scores > own, scores == own
    above[:, 0] = same[:, 0] = False
    result = {
        "item": item,
        "target_in_history": seen[row, item],
        "higher_unmasked": above.sum(1),
        "equal_unmasked": same.sum(1) - 1,
        "higher_masked": (above & ~seen).sum(1),
        "topk_unmasked": scores.topk(k, dim=1).indices,
    }
    same &= ~seen
    same[row, item] = False
    result["equal_masked"] = same.sum(1)
    best = scores.masked_fill_(seen, -torch.inf).topk(k, dim=1)
    result["topk_masked"] = torch.where(best.values > -torch.inf, best.indices, 0)
    return result
