"""Assign each event to training, validation or test by cut-off times that are the same for all users."""

from __future__ import annotations

import numpy as np

from blair_rec.config.split import SplitConfig
from blair_rec.errors import DatasetError
from blair_rec.lines.dates import UNITS, seconds_of, span, unit_of

PARTS = ("training", "validation", "test")


def part_of(times: np.ndarray, split: SplitConfig, name: str) -> np.ndarray:
    """Return the part of each event: [M] int64, 0 for training, 1 for validation, 2 for test.

    times: [M] float64, the times of a data set's events, M at least 1; name: the data set's name, for messages.

    Raises:
        DatasetError: a part would be empty, or the cut-offs are dates and the unit of the times is unknown.
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
            f"{of_data}, but {given}, which leaves no {' and no '.join(empty)} event; choose both within these times, "
            "in the same unit, or as dates such as '2024-07-01'"
        )
    return part


def _number(time: float | str, first: float, last: float, of_data: str) -> float:
    """Return a cut-off in the unit of the data."""
    if not isinstance(time, str):
        return time
    unit, seconds = unit_of(first, last), seconds_of(time)
    assert seconds is not None  # SplitConfig has checked it
    if unit is None:
        raise DatasetError(
            f"{of_data}. Read as seconds, milliseconds, microseconds or nanoseconds since 1970, they are not "
            f"between 1990 and 2100, so the date {time!r} can't be compared with them; give numbers in their unit"
        )
    return seconds * UNITS[unit]
