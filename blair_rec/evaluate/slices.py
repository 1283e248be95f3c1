"""Slices of the test cases: by popularity of the target, by history length, and by repetition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blair_rec.errors import counted
from blair_rec.evaluate.runs.run_files import RunRanks

TAIL = 5
"""Items with 1 to 5 training events are the tail."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of the test cases."""

    name: str
    """The name of the slice, such as "tail"."""
    by: str
    """The property that defines it: "popularity", "history" or "repetition". Each one divides all test cases."""
    label: str
    """For a reader: "tail items (1 to 5 training events)"."""
    cases: NDArray[np.bool_]
    """[cases] whether the case belongs to the slice."""


def slices(ranks: RunRanks) -> tuple[Slice, ...]:
    """All slices, including empty ones.

    Histories are divided into thirds, as far as tied lengths allow, because data sets differ in length.
    """
    count, length, repeated = ranks.target_count, ranks.history_length, ranks.target_in_history
    low, high = (int(np.floor(cut)) for cut in np.quantile(length, [1 / 3, 2 / 3]))
    return (
        Slice("cold", "popularity", "cold items (no training events)", count == 0),
        Slice("tail", "popularity", f"tail items (1 to {TAIL} training events)", (count >= 1) & (count <= TAIL)),
        Slice("head", "popularity", f"head items ({TAIL + 1} training events or more)", count > TAIL),
        Slice("short", "history", f"short histories (up to {counted(low, 'event')})", length <= low),
        Slice(
            "medium", "history", f"medium histories ({low + 1:,} to {high:,} events)", (length > low) & (length <= high)
        ),
        Slice("long", "history", f"long histories (more than {counted(high, 'event')})", length > high),
        Slice("repeated", "repetition", "targets in the user's history", repeated),
        Slice("new", "repetition", "targets new to the user", ~repeated),
    )
