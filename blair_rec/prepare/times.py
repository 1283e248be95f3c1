"""Convert written times to numbers that sort; the format is given, or found in a sample."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from blair_rec.errors import SourceError, agreed, counted
from blair_rec.lines.dates import FROM_1990, TO_2100, UNITS, fits_units, unit_of

WHOLE, NANOSECONDS, NUMBER = "whole", "nanoseconds", "number"
WITH_ZONE = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %Z")
WITHOUT_ZONE = (
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d",
)
DATES = (*WITH_ZONE, *WITHOUT_ZONE)
"""Formats, tried in this order. 03/04/2023 is not among them, because it is unclear which number is the day."""
EXACT = 2**53
"""float64, RecBole's type for times, can't hold every whole number above this one."""
DIGITS = pl.Decimal(38, 22)
"""The type of NUMBER: all digits of a number below EXACT, and 22 decimal places. float64 has about 15 digits in all."""


def find_format(sample: pl.Series, where: str) -> str:
    """Return the format of most of these texts: WHOLE, NANOSECONDS, NUMBER, or a pattern of strptime.

    Raises:
        SourceError: no known format fits half of the texts.
    """
    texts = sample.drop_nulls()
    texts = texts.filter(texts.str.strip_chars() != "")
    if len(sample) and not len(texts):
        raise SourceError(
            f"{where}: the first {counted(len(sample), 'time')} {agreed(len(sample), 'are')} empty; name another "
            "column with --time"
        )
    reads = {form: read_times(texts, form).drop_nulls().len() for form in (WHOLE, NANOSECONDS, NUMBER, *DATES)}
    best = max(reads, key=lambda form: reads[form])  # ties go to the first format
    if read_widely(texts, best).drop_nulls().len() * 2 < max(len(texts), 1):
        shown = ", ".join(map(repr, texts.head(3).to_list()))
        raise SourceError(
            f"{where}: no known format fits the times (such as {shown}); name the format with --time-format, "
            f"as {NUMBER} or a pattern such as '%d.%m.%Y %H:%M'"
        )
    return best


def read_times(texts: pl.Series, form: str) -> pl.Series:
    """Read [n] texts as times: numbers as int64, or DIGITS for NUMBER; dates as int64 nanoseconds since 1970.

    Dates without a zone are in UTC. A text in another format becomes null. WHOLE and NUMBER end at EXACT, and
    NANOSECONDS begins there: a sample shows which of them a log uses, and a stray number of the other kind is not a
    time. For WHOLE and NANOSECONDS, `texts` may already be integers.

    Raises:
        SourceError: a pattern is invalid, or would be misread.
    """
    is_text = texts.dtype == pl.String
    texts = texts.str.strip_chars() if is_text else texts
    if form in (WHOLE, NANOSECONDS):
        numbers = texts.str.to_integer(strict=False, dtype=pl.Int64) if is_text else texts
        return numbers.set((numbers.abs() < EXACT) != (form == WHOLE), None)
    if form == NUMBER:
        numbers = texts.cast(pl.Float64, strict=False)
        return texts.cast(DIGITS, strict=False).set(~(numbers.abs() < EXACT).fill_null(False), None)
    return _read_dates(texts, form)


def read_widely(texts: pl.Series, form: str) -> pl.Series:
    """Read times in a format found in a sample; other texts are tried in formats that can't be confused with it.

    Examples: 2023-04-01 after 2023-04-01 10:00:00, or 1680904800.5 after whole numbers (then all become DIGITS).
    """
    times = read_times(texts, form)
    near: tuple[str, ...] = (NUMBER,) if form == WHOLE else ()
    near += next((group for group in (WITH_ZONE, WITHOUT_ZONE) if form in group), ())
    for other in near:
        if missing := times.is_null().arg_true().to_list():
            more = read_times(texts.gather(missing), other)
            if more.null_count() < len(more):
                times = times.cast(more.dtype).scatter(missing, more)
    return times


def _read_dates(texts: pl.Series, form: str) -> pl.Series:
    """Return [n] int64 nanoseconds; null if the pattern doesn't fit, or outside the range of int64 (1677 to 2262)."""
    pattern = re.sub(r"%%|\.%f|%f|%Z", lambda found: _for_polars(found[0], form), form)
    if pattern != form and "%Z" in form:
        texts = texts.str.replace_all("(?i)UTC|GMT", "+0000")
    try:
        micros = _parsed(texts, pattern, "us")
        # In Polars nanoseconds overflow silently, so microseconds decide which dates fit; most dates need no more.
        is_fine = "9f" in pattern or texts.str.contains(".", literal=True).any()
        nanos = _parsed(texts, pattern, "ns") if is_fine else micros * 1000
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise SourceError(f"--time-format {form!r} can't be used ({str(error).splitlines()[0]})") from None
    limit = np.iinfo(np.int64).max // 1000 - 1
    return nanos.set(~micros.is_between(-limit, limit), None)


def _parsed(texts: pl.Series, pattern: str, unit: Literal["us", "ns"]) -> pl.Series:
    times = texts.str.to_datetime(pattern, time_unit=unit, time_zone="UTC", strict=False, ambiguous="null")
    return times.to_physical()


def _for_polars(directive: str, form: str) -> str:
    """Replace a directive that Polars reads differently from Python.

    Polars ignores the name of a time zone, as if all were UTC, and reads %f as a number of nanoseconds.
    """
    if directive == "%f":
        raise SourceError(
            f"--time-format {form!r}: %f works only after a point; write %3f, %6f or %9f for that many digits"
        )
    return {"%Z": "%#z", ".%f": "%.f"}.get(directive, directive)


def why_not(text: object, form: str) -> str:
    """Return why read_times can't read this text as a time."""
    said = "" if text is None else str(text).strip()
    if not said:
        return "it is empty"
    if form not in (WHOLE, NANOSECONDS, NUMBER):
        if "%Z" in form:
            return f"it is not written as {form!r}; %Z reads UTC and GMT only: write other zones as +0100, for %z"
        wrong = f"it is not written as {form!r}, or not between 1678 and 2261"
        return f"{wrong}; write all times in one pattern, which --time-format can name"
    try:
        number = Decimal(said)
    except InvalidOperation:
        return "it is not a number"
    if not number.is_finite():
        return "it is not a finite number"
    if form == NANOSECONDS:
        return "it is not a count of nanoseconds, unlike the first times; write all in one unit"
    if number.copy_abs() >= EXACT:
        return "it is 2^53 or larger, unlike the first times; write all in one unit"
    if form == NUMBER:
        return "it is written in an unusual way"
    return f"it is not written as a whole number; --time-format {NUMBER} reads it"


class OtherUnit(NamedTuple):
    """Times that seem to be in another unit than most times of their column."""

    rows: np.ndarray
    """[n] bool"""
    usual: str
    """The unit of most times, such as seconds."""

    def why(self, time: object) -> str:
        """Return why one of these times can't be used."""
        number = float(time)  # type: ignore[arg-type]
        return f"it looks like {unit_of(number, number)}, but most times are {self.usual}; write all in one unit"


def other_unit(times: pl.Series) -> OtherUnit | None:
    """Return the times in another unit than most, such as milliseconds among seconds; None if there are none.

    A time fits a unit if it is between 1990 and 2100 in that unit. Times that run from one range into the next without
    a gap, as counters do, are in one unit.
    """
    first, last = (float(times.min()), float(times.max())) if len(times) else (0.0, 0.0)  # type: ignore[arg-type]
    if last < FROM_1990 or unit_of(first, last) is not None:
        return None
    numbers = times.cast(pl.Float64).to_numpy()
    ranges = fits_units(numbers)
    counts = {unit: int(rows.sum()) for unit, rows in ranges.items()}
    seen = [unit for unit in UNITS if counts[unit]]
    if len(seen) < 2:
        return None
    usual = max(seen, key=lambda unit: counts[unit])
    lowest, highest = UNITS[seen[0]] * TO_2100, UNITS[seen[-1]] * FROM_1990
    between = int(((numbers > lowest) & (numbers < highest)).sum()) - sum(counts[unit] for unit in seen[1:-1])
    if between >= sum(counts[unit] for unit in seen if unit != usual):
        return None
    return OtherUnit(np.logical_or.reduce([ranges[unit] for unit in seen if unit != usual]), usual)


def describe(times: pl.Series, form: str) -> str:
    """Return '2014-01-03 to 2023-09-14' with the format or unit; only the numbers if the unit is unknown."""
    first, last = float(times.min()), float(times.max())  # type: ignore[arg-type]
    if form not in (WHOLE, NANOSECONDS, NUMBER):
        return f"{_day(first / 10**9)} to {_day(last / 10**9)} ({form})"
    if (unit := unit_of(first, last)) is not None:
        return f"{_day(first / UNITS[unit])} to {_day(last / UNITS[unit])} ({unit} since 1970)"
    return f"{first:.15g} to {last:.15g}"


def _day(seconds: float) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=seconds // 86400)).isoformat()
