"""Dates written as text, and the time unit of a data set."""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING

from blair_rec.errors import out_of

if TYPE_CHECKING:  # reading a config must not import numpy
    import numpy as np

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""Units per second; a range of times fits at most one of them."""
FROM_1990, TO_2100 = 631_152_000, 4_102_444_800
"""Seconds since 1970. Times are assumed to be between these two, which reveals their unit."""


def seconds_of(date: str) -> float | None:
    """Return the seconds since 1970 of '2024-07-01' or '2024-07-01T10:00:00+02:00'; None if the text is not a date.

    A date without a time zone is in UTC. Year, month and day come in this order, with - or / between them.
    """
    if not re.fullmatch(r"\d{4}([-/])\d\d\1\d\d([T ].+)?", text := date.strip()):
        return None
    text = text.replace("/", "-").replace("Z", "+00:00")
    # Python 3.10 reads only fractions of 3 or 6 digits, and only offsets with a colon.
    text = re.sub(r"\.(\d{1,6})\d*", lambda fraction: f".{fraction[1]:0<6}", text)
    text = re.sub(r"(:.*[+-]\d\d)(\d\d)$", r"\1:\2", text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)).timestamp()


def unit_of(first: float, last: float) -> str | None:
    """Return the unit in which both times, counted since 1970, are between 1990 and 2100; None if there is none."""
    return next((unit for unit, size in UNITS.items() if FROM_1990 <= first / size <= last / size <= TO_2100), None)


def fits_units(times: np.ndarray) -> dict[str, np.ndarray]:
    """For each unit: [n] bool, which of these times [n] are between 1990 and 2100 in it."""
    return {unit: (times >= FROM_1990 * size) & (times <= TO_2100 * size) for unit, size in UNITS.items()}


def outside_unit(times: np.ndarray) -> str:
    """Return a warning about numbers [n] that are not plausible times in the most common unit; "" if all are.

    Such numbers may be 0 for a missing time, or times in another unit, such as milliseconds among seconds.
    """
    fits = fits_units(times)
    usual = max(fits, key=lambda unit: int(fits[unit].sum()))
    odd = times[~fits[usual]]
    if not len(odd) or 2 * len(odd) >= len(times):
        return ""
    return (
        f"{out_of(len(odd), len(times), 'time', 'are')} before 1990 or after 2100 if read as {usual} since 1970, the "
        f"unit of most times (first: {odd[0]:.15g}); check whether a time is missing, or in another unit"
    )


def span(first: float, last: float) -> str:
    """Return '1680307200 to 1681128000 (2023-04-01 to 2023-04-10, seconds since 1970)', or numbers if no unit fits."""
    numbers = f"{first:.19g} to {last:.19g}"
    unit = unit_of(first, last)
    return numbers if unit is None else f"{numbers} ({_day(first, unit)} to {_day(last, unit)}, {unit} since 1970)"


def _day(time: float, unit: str) -> str:
    return datetime.datetime.fromtimestamp(time / UNITS[unit], datetime.timezone.utc).date().isoformat()
