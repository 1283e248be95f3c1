"""New items: which items training and selection don't see, and the test cases that have one of them as target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blair_rec.config.names import NEW_ITEMS_DRAW
from blair_rec.data.log import LOG_POSITION, EventLog


def drawn_items(items: Sequence[str], share: float) -> list[str]:
    """Return a share of these items, at least one, at random by their ids alone; order and text change nothing."""
    ordered = sorted(items)
    count = max(1, round(share * len(ordered)))
    return [ordered[place] for place in np.random.default_rng(NEW_ITEMS_DRAW).permutation(len(ordered))[:count]]


@dataclass(frozen=True, eq=False)
class CaseLog(EventLog):
    """Sequences that share events: one for each case, its history first and then its target.

    Shapes: M events, those of one case next to each other.
    """

    starts: Tensor
    """[M] int64: where the sequence of each event begins."""

    def before(self, position: Tensor) -> Tensor:
        """How many events of the same case come before: [...] int64 positions in the log -> [...] int64."""
        return position - self.starts[position]


@dataclass(frozen=True, eq=False)
class NewItemCases:
    """Test cases whose target is a new item; their histories hold known items alone."""

    known: int
    """Known items, the padding included: new item number j, from 0, has the id known + j."""
    tokens: list[str]
    """The new items."""
    split: Any
    """A TextSequentialDataset over known and new items, as `rank` takes it; it may hold no case."""
    left_out: int
    """Number of cases that are skipped, because no known item comes before the target."""


def new_item_cases(known: Any, whole: Any) -> NewItemCases:
    """The test cases of `whole` whose target is an item that `known` doesn't have.

    Args:
        known: the test split of the data set without its new items; whole: with them. Both are TextSequentialDatasets
            with a log.
    """
    field, n_known = known.iid_field, len(known.field2id_token[known.iid_field])
    new_id = _numbers(known, whole, field)
    new = np.flatnonzero(new_id == 0)[1:]  # the first one is the padding
    new_id[new] = n_known + np.arange(len(new))
    numbers = {field: torch.from_numpy(new_id)}

    position = whole.inter_feat[LOG_POSITION]
    position = position[numbers[field][whole.log.item[position]] >= n_known]
    case, event = whole.log.earlier(position)
    read = numbers[field][whole.log.item[event]] < n_known
    case, event = case[read], event[read]

    has_history = torch.bincount(case, minlength=len(position)) > 0
    kept = torch.nonzero(has_history).squeeze(1)
    event, case = torch.cat([event, position[kept]]), torch.cat([case, kept])
    order = torch.argsort(event, stable=True)
    order = order[torch.argsort(case[order], stable=True)]
    event, case = event[order], case[order]
    size = torch.bincount(case, minlength=len(position))[kept]

    fields = {}
    for name, values in whole.log.fields.items():
        if name not in numbers and name in known.field2id_token:
            numbers[name] = torch.from_numpy(_numbers(known, whole, name))
        fields[name] = numbers[name][values[event]] if name in numbers else values[event]
    split = with_cases(known, fields, size)
    tokens = [str(token) for token in whole.field2id_token[field][new]]
    split.field2id_token = {**split.field2id_token, field: np.append(split.field2id_token[field], tokens)}
    return NewItemCases(n_known, tokens, split, len(position) - len(kept))


def with_cases(split: Any, fields: Mapping[str, Tensor], size: Tensor) -> Any:
    """Return a copy of a split with these cases: `size` [R] int64 events of each, its history and then its target."""
    ends = torch.cumsum(size, 0)
    offsets, starts = torch.cat([ends.new_zeros(1), ends]), torch.repeat_interleave(ends - size, size)
    rows = split.inter_feat.select(slice(0))
    rows.log, rows.position = CaseLog(fields, split.uid_field, split.iid_field, offsets, starts), ends - 1
    cases = split.copy(rows)
    cases.log = rows.log
    return cases


def _numbers(known: Any, whole: Any, field: str) -> np.ndarray:
    """[numbers of a field in `whole`] int64: the number of the same token in `known`, 0 where it has none."""
    ids = known.field2token_id[field]
    return np.array([ids.get(str(token), 0) for token in whole.field2id_token[field]], dtype=np.int64)
