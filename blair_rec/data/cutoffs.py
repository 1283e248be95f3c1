"""Cut-off times for all users: which part of a split each event belongs to."""

from __future__ import annotations

import numpy as np

from blair_rec.config.split import SplitConfig
from blair_rec.errors import DatasetError
from blair_rec.lines.dates import UNITS, seconds_of, span, unit_of

PARTS = ("training", "validation", "test")


def part_of(times: np.ndarray, split: SplitConfig, name: str) -> np.ndarray:
    """[M] int64: 0 for training, 1 for validation, 2 for test.

    times: [M] float64 of a data set's events, M at least 1; name: of the data set, for messages.

    Raises:
        DatasetError: a part would be empty, or dates are given and the unit of the times can't be known.
    """
    first, last = float(times.min()), float(times.max())
    of_data = f"data set {name!r}: its times run from {span(first, last)}"
    cutoffs = [_number(time, first, last, of_data) for time in (split.valid_from, split.test_from)]
    part = np.searchsorted(cutoffs, times, side="right")
    empty = [what for number, what in enumerate(PARTS) if not (part == number).any()]
    if empty:
        given = f"valid_from is {split.valid_from} and test_from {split.test_from}"
        if not isinstance(split.valid_from, str):
            given = f"valid_from and test_from are {span(*cutoffs)}".replace(" to ", " and ")
        raise DatasetError(
            f"{of_data}, but {given}, which leaves no {' and no '.join(empty)} event; give both within these times, in "
            "the same unit, or as dates such as '2024-07-01'"
        )
    return part


def _number(time: float | str, first: float, last: float, of_data: str) -> float:
    """A cut-off in the unit of the data."""
    if not isinstance(time, str):
        return time
    unit, seconds = unit_of(first, last), seconds_of(time)
    assert seconds is not None  # SplitConfig has read it
    if unit is None:
        raise DatasetError(
            f"{of_data}, which as seconds, milliseconds, microseconds or nanoseconds since 1970 don't lie between 1990 "
            f"and 2100, so it can't be known where the date {time!r} is; give numbers in the unit of the times"
        )
    return seconds * UNITS[unit]
