"""The features of a candidate in a second stage: members' scores and ranks, the item, the history, similar text.

Shapes: K members, B cases, N item ids with the padding row 0, L items of a history at most, P pairs of a case and a
candidate (pool.py), F features, E text_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from blair_rec.ranking.rerank.pool import Pool

AVERAGE = 0
"""The column of the members' weighted average."""
READ = 10
"""Number of last items of a history whose text is compared with a candidate's."""
BEHIND = 1e30
"""A rank after all lists; its negative is a score below all others."""
CASES = 32
"""Cases whose texts are compared together, so that their vectors fit into a processor's caches."""


class Feature(NamedTuple):
    """The name of one column: what it is about, and what it is."""

    about: str
    """A member's name, or "average", "item", "history"."""
    kind: str


@dataclass(frozen=True, eq=False)
class ItemTable:
    """The features of items that no history changes: numbers and vectors of each item."""

    popularity: Tensor
    """[N] float32: the logarithm of 1 + training events."""
    recency: Tensor | None
    """[N] float32: the share of training events up to the item's last one; None without times."""
    texts: Mapping[str, Tensor]
    """[N, E] float32 vectors of length 1, by the member that reads them first; empty if no member uses text."""


def feature_names(members: Sequence[str], items: ItemTable) -> list[Feature]:
    """Return the names of the columns of `features`."""
    timed = ["recency"] if items.recency is not None else []
    of_members = [Feature(member, kind) for member in members for kind in ("score", "rank")]
    of_item = [Feature("item", kind) for kind in ("popularity", "events ago", *timed)]
    of_history = [Feature("history", kind) for kind in ("length", "popularity of last item", "mean popularity")]
    of_history += [Feature("history", f"{kind} of last item") for kind in timed]
    kinds = ("text: last item", "text: item before", "text: history", "text: nearest item")
    of_text = [Feature(name, kind) for name in items.texts for kind in kinds]
    return [Feature("average", "score"), *of_members, *of_item, *of_history, *of_text]


def behind_lists(lists: Sequence[bool]) -> dict[int, float]:
    """Return what an item behind a list has in the columns of `features`, by column.

    Args:
        lists: [K] which members gave top lists.
    """
    found = {}
    for place, partial in enumerate(lists):
        if partial:
            score = AVERAGE + 1 + 2 * place
            found[score], found[score + 1] = -BEHIND, BEHIND
    return found


def features(pool: Pool, weights: Tensor, items: ItemTable, seq: Tensor, length: Tensor) -> Tensor:
    """Return the features of all candidates, [P, F] float32.

    Args:
        weights: [K] of the members' average, 0 for those that gave top lists.
        seq, length: [B, L] item ids, oldest first, padded with 0, and [B] their number.
    """
    of_members = torch.stack([pool.z, pool.rank], dim=2).flatten(1)
    columns = [
        (pool.z.nan_to_num(nan=0.0) @ weights).unsqueeze(1),
        of_members,
        _of_items(pool, items),
        _of_histories(pool, items, seq, length),
    ]
    columns += [_of_text(pool, vectors, seq, length) for vectors in items.texts.values()]
    return torch.cat(columns, dim=1)


def _of_items(pool: Pool, items: ItemTable) -> Tensor:
    timed = [items.recency[pool.item]] if items.recency is not None else []
    return torch.stack([items.popularity[pool.item], pool.age, *timed], dim=1)


def _of_histories(pool: Pool, items: ItemTable, seq: Tensor, length: Tensor) -> Tensor:
    """[P, 3 or 4] The same for all candidates of a case: trees combine it with the other features."""
    last = seq.gather(1, length.unsqueeze(1) - 1).squeeze(1)
    popular = items.popularity[seq].masked_fill(seq == 0, 0)
    columns = [length.float(), items.popularity[last], popular.sum(1) / length]
    columns += [items.recency[last]] if items.recency is not None else []
    return torch.stack(columns, dim=1)[pool.case]


def _of_text(pool: Pool, vectors: Tensor, seq: Tensor, length: Tensor) -> Tensor:
    """[P, 4] cosines to the last item, the one before, the history (mean weighted by 1 / age), and the nearest item."""
    age = torch.arange(READ, device=seq.device)
    place = length.unsqueeze(1) - 1 - age
    recent = torch.where(place >= 0, seq.gather(1, place.clamp(min=0)), 0)  # [B, READ], the newest first
    share = torch.where(place >= 0, 1 / (age + 1), 0)
    share = share / share.sum(1, keepdim=True)
    size = torch.bincount(pool.case, minlength=len(seq))
    start = torch.cumsum(size, 0) - size
    found = []
    for cases in torch.arange(len(seq), device=seq.device).split(CASES):
        pairs = slice(int(start[cases[0]]), int(start[cases[-1]] + size[cases[-1]]))
        row, column = pool.case[pairs] - cases[0], torch.arange(pairs.stop - pairs.start, device=seq.device)
        column = column - (start[pool.case[pairs]] - pairs.start)
        padded = torch.zeros(len(cases), int(size[cases].max()), dtype=torch.int64, device=seq.device)
        padded[row, column] = pool.item[pairs]
        cosine = torch.bmm(vectors[padded], vectors[recent[cases]].transpose(1, 2))[row, column]
        found.append(
            torch.stack(
                [
                    cosine[:, 0],
                    cosine[:, 1],
                    (cosine * share[cases][row]).sum(1),
                    cosine.masked_fill((recent[cases] == 0)[row], -1).amax(1),
                ],
                dim=1,
            )
        )
    return torch.cat(found)
