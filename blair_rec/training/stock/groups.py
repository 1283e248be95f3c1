"""Groups of rows of similar length, each cut to its longest, so that less is computed for padding.

Shapes: B rows of a batch, L slots of a history (padded), G rows of a group, W slots of a cut history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def group_ends(lengths: np.ndarray, per_group: int) -> list[int]:
    """Return where each group ends, for rows sorted by length: the division that costs least.

    A group costs its rows times its longest length, plus `per_group`.

    Args:
        lengths: [B] int, ascending, B of 1 or more.
        per_group: the fixed cost of a group, counted in slots.
    """
    widths, counts = np.unique(lengths, return_counts=True)
    rows = np.concatenate([[0], np.cumsum(counts)])
    cost, start = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    for end in range(1, len(rows)):  # the least cost of all rows up to here, by where the last group starts
        costs = cost[:end] + (rows[end] - rows[:end]) * widths[end - 1] + per_group
        start[end] = costs.argmin()
        cost[end] = costs[start[end]]
    ends, end = [], len(rows) - 1
    while end > 0:
        ends.append(int(rows[end]))
        end = int(start[end])
    return ends[::-1]


def groups_of(lengths: np.ndarray, per_group: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield each group's rows [G] int64 and its longest length; lengths [B] int in any order."""
    order = np.argsort(lengths, kind="stable")
    begin = 0
    for end in group_ends(lengths[order], per_group):
        yield order[begin:end], int(lengths[order[end - 1]])
        begin = end


@contextmanager
def forward_in_groups(
    model: Any, whole: Callable[..., Tensor], least: int, padded_left: bool, per_group: int
) -> Iterator[None]:
    """Within this block, the model's forward runs group by group; its output is that of the whole batch.

    Only this one model changes, not its class.

    Args:
        model: the arguments of its forward are tensors with a row per case; one of them holds the histories [B, L].
        whole: what runs for each group, with a cut history: the model's forward, or one that computes the same.
        least: the smallest number of slots that its forward can take.
        padded_left: whether the padding is before a history's items instead of after them.
        per_group: see group_ends.
    """
    longest = model.max_seq_length

    def forward(*inputs: Tensor) -> Tensor:
        history = next(each for each in inputs if each.ndim == 2 and each.shape[1] == longest)
        lengths = _lengths(history, padded_left).clip(min=least)
        parts, rows = [], []
        for some, width in groups_of(lengths, per_group):
            index = torch.from_numpy(some).to(history.device)
            cut = slice(longest - width, None) if padded_left else slice(width)
            given = [each[index][:, cut].contiguous() if each is history else each[index] for each in inputs]
            state = whole(*given)
            if state.ndim == 3 and width < longest:  # a state for every slot; nothing reads those of the padding
                state = torch.nn.functional.pad(state, (0, 0, 0, longest - width))
            parts.append(state)
            rows.append(index)
        return torch.cat(parts)[torch.cat(rows).argsort()]

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


def _lengths(history: Tensor, padded_left: bool) -> np.ndarray:
    """Return the number of slots [B] int64 from the side without padding to the item farthest from it."""
    filled = history.cpu().numpy() != 0
    if padded_left:
        filled = filled[:, ::-1]
    return np.asarray(filled.shape[1] - filled[:, ::-1].argmax(1))
