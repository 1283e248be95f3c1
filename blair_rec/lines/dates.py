"""Dates as text, and the unit in which a data set counts time."""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a config is read without it
    import numpy as np

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""Units per second; a span of times fits one of them at most."""
_1990, _2100 = 631_152_000, 4_102_444_800
"""Seconds since 1970: times between these two show their unit."""


def seconds_of(date: str) -> float | None:
    """Seconds since 1970 of '2024-07-01' or '2024-07-01T10:00:00+02:00', UTC unless it says; None for what is no date.

    Year, month and day come in this order, with - or / between them.
    """
    if not re.fullmatch(r"\d{4}([-/])\d\d\1\d\d([T ].+)?", text := date.strip()):
        return None
    try:
        moment = datetime.datetime.fromisoformat(text.replace("/", "-").replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)).timestamp()


def unit_of(first: float, last: float) -> str | None:
    """One of UNITS, counted since 1970, that puts both times between 1990 and 2100; None where none does."""
    return next((unit for unit, size in UNITS.items() if _1990 <= first / size <= last / size <= _2100), None)


def outside_unit(times: np.ndarray) -> str:
    """What to say of numbers [n] that can't be times in the unit of most, such as 0 for a missing one; "" if all can.

    Times in another unit, milliseconds among seconds, are such numbers, too.
    """
    fits = {unit: (times >= _1990 * size) & (times <= _2100 * size) for unit, size in UNITS.items()}
    usual = max(fits, key=lambda unit: int(fits[unit].sum()))
    odd = times[~fits[usual]]
    if not len(odd) or 2 * len(odd) >= len(times):
        return ""
    return (
        f"{len(odd):,} of {len(times):,} times are before 1990 or after 2100 if they are {usual} since 1970, as most "
        f"seem to be (first: {odd[0]:.15g}); check whether they are missing times, or in another unit"
    )


def span(first: float, last: float) -> str:
    """'1680307200 to 1681128000 (2023-04-01 to 2023-04-10, seconds since 1970)'; bare numbers without a unit."""
    numbers = f"{first:.19g} to {last:.19g}"
    unit = unit_of(first, last)
    return numbers if unit is None else f"{numbers} ({_day(first, unit)} to {_day(last, unit)}, {unit} since 1970)"


def _day(time: float, unit: str) -> str:
    return datetime.datetime.fromtimestamp(time / UNITS[unit], datetime.timezone.utc).date().isoformat()
