"""The candidates of a second stage: the union of its members' top lists, with each member's score and rank.

A member's top list holds its highest items outside the history. An item of the history is a candidate if it scores at
least as high as the last item of such a list. So the masked candidates don't depend on the history's own scores. A
member from another system may have given lists alone: NaN is the score and the rank of the items that they lack, and
such items are candidates only by other members.

Shapes: K members, B cases, N item ids with the padding row 0, L items of a history at most, P pairs of a case and a
candidate, sorted by case, then by item id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blair_rec.ranking.best import best_columns


@dataclass(frozen=True, eq=False)
class Pool:
    """The candidates of B cases."""

    case: Tensor
    """[P] int64, ascending."""
    item: Tensor
    """[P] int64, ascending within a case."""
    z: Tensor
    """[P, K] float32: the members' z-scores; NaN where another system's list lacks the item."""
    rank: Tensor
    """[P, K] float32: how many items outside the history a member scores higher; at most the length of its list;
    NaN where z is."""
    age: Tensor
    """[P] float32: 1 if it is the last item of the history, 2 for the one before ...; 0 outside the history."""


def candidates(
    scores: Tensor, interaction: Any, item_seq: str, item_seq_len: str, top: int, lists: Sequence[bool] = ()
) -> Pool:
    """Return the candidates of a batch.

    Args:
        scores: [K, B, N] float32, the members' z-scores; NaN where a member from another system has none.
        lists: [K] bool, which members may have NaN.
        interaction: has the fields `item_seq` [B, L], oldest first, padded with 0, and `item_seq_len` [B].
        top: length of each member's list.

    Raises:
        ScoringError: scores that are not a number.
    """
    members, cases, n_items = scores.shape
    top = min(top, n_items - 1)
    age = ages(interaction[item_seq], interaction[item_seq_len], n_items)
    old_case, old_item = torch.nonzero(age, as_tuple=True)
    inside = torch.zeros_like(age, dtype=torch.bool)
    row = torch.arange(cases, device=scores.device).unsqueeze(1).expand(cases, top)
    open_to = torch.empty_like(scores[0])
    lists_of, old_of = [], []
    for member, partial in zip(scores, lists or [False] * members, strict=True):
        open_to.copy_(member.nan_to_num(nan=-torch.inf) if partial else member)
        open_to[:, 0] = -torch.inf
        open_to[old_case, old_item] = -torch.inf
        columns, values = best_columns(open_to, top)
        listed = values > -torch.inf  # fewer than `top` if the history holds nearly all items
        inside[row[listed], columns[listed]] = True
        lists_of.append((listed, columns, higher_in(values)))
        old = member[old_case, old_item]
        above = (values[old_case] > old.unsqueeze(1)).sum(1)
        inside[old_case, old_item] |= (above < top) & ~old.isnan()
        old_of.append(above)
    case, item = torch.nonzero(inside, as_tuple=True)
    pair = torch.zeros_like(inside, dtype=torch.int64)
    pair[case, item] = torch.arange(len(case), device=scores.device)
    old_inside = inside[old_case, old_item]
    old_pair = pair[old_case, old_item][old_inside]
    z = scores[:, case, item]
    rank = torch.full_like(z, top)
    for place, (listed, columns, higher), above in zip(rank, lists_of, old_of, strict=True):
        place[pair[row[listed], columns[listed]]] = higher[listed]
        place[old_pair] = above[old_inside].to(place)
    return Pool(case, item, z.T, rank.masked_fill_(z.isnan(), torch.nan).T, age[case, item])


def higher_in(values: Tensor) -> Tensor:
    """Count the strictly higher values of each row, which falls from left to right: [B, n] -> [B, n] float32."""
    place = torch.arange(values.shape[1], device=values.device, dtype=torch.float32).repeat(len(values), 1)
    place[:, 1:][values[:, 1:] == values[:, :-1]] = 0
    return place.cummax(dim=1).values


def ages(items: Tensor, length: Tensor, n_items: int) -> Tensor:
    """Return how many events ago each item was last in the history, from 1; 0 if it never was: [B, N] float32."""
    age = (length.unsqueeze(1) - torch.arange(items.shape[1], device=items.device)).clamp(min=0)
    found = torch.full((len(items), n_items), torch.inf, device=items.device)
    found.scatter_reduce_(1, items, torch.where(age > 0, age, torch.inf).float(), "amin")
    found[:, 0] = 0
    return found.masked_fill_(found == torch.inf, 0)
