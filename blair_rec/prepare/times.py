"""Times as people write them to numbers that sort: found from a sample, or told."""

from __future__ import annotations

import datetime

import polars as pl

from blair_rec.errors import SourceError

WHOLE, NANOSECONDS, NUMBER = "whole", "nanoseconds", "number"
DATES = (
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d",
)
"""Tried in this order. 03/04/2023 is not among them: nobody can tell the day from the month."""
EXACT = 2**53
"""The first whole number behind which float64, as which RecBole reads times, has gaps."""


def find_format(sample: pl.Series, where: str) -> str:
    """The way most of these texts are written: WHOLE, NANOSECONDS, NUMBER, or a pattern of strptime.

    Raises:
        SourceError: no known way fits half of them.
    """
    texts = sample.drop_nulls()
    texts = texts.filter(texts.str.strip_chars() != "")
    reads = {form: read_times(texts, form).drop_nulls().len() for form in (WHOLE, NANOSECONDS, NUMBER, *DATES)}
    best = max(reads, key=lambda form: reads[form])  # of equals the first
    if reads[best] * 2 < max(len(texts), 1):
        shown = ", ".join(map(repr, texts.head(3).to_list()))
        raise SourceError(
            f"{where}: no known format fits the times (such as {shown}); tell it with --time-format, "
            f"as {NUMBER} or a pattern such as '%d.%m.%Y %H:%M'"
        )
    return best


def read_times(texts: pl.Series, form: str) -> pl.Series:
    """[n] int64 (float64 for NUMBER): numbers as they are, dates as milliseconds since 1970 (UTC unless they say).

    Null where a text is not written this way. WHOLE and NUMBER go up to where float64 has gaps, NANOSECONDS begins
    there: a sample shows which of them a log has, and a stray number of the other kind is no time. Where whole numbers
    are asked for, they may have been read as such.

    Raises:
        SourceError: a pattern that means nothing.
    """
    is_text = texts.dtype == pl.String
    texts = texts.str.strip_chars() if is_text else texts
    if form in (WHOLE, NANOSECONDS):
        numbers = texts.str.to_integer(strict=False, dtype=pl.Int64) if is_text else texts
        return numbers.set((numbers.abs() < EXACT) != (form == WHOLE), None)
    if form == NUMBER:
        numbers = texts.cast(pl.Float64, strict=False)
        return numbers.set(~(numbers.abs() < EXACT), None)
    try:
        times = texts.str.to_datetime(form, time_unit="ms", time_zone="UTC", strict=False, ambiguous="null")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise SourceError(f"--time-format {form!r} can't be used ({str(error).splitlines()[0]})") from None
    return times.to_physical()


def describe(times: pl.Series, form: str) -> str:
    """'2014-01-03 to 2023-09-14' where that can be told, the bare numbers otherwise."""
    first, last = float(times.min()), float(times.max())  # type: ignore[arg-type]
    if form not in (WHOLE, NANOSECONDS, NUMBER):
        return f"{_day(first / 1000)} to {_day(last / 1000)} ({form})"
    for unit, per_second in (("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)):
        if _1990 <= first / per_second <= last / per_second <= _2100:
            return f"{_day(first / per_second)} to {_day(last / per_second)} ({unit} since 1970)"
    return f"{first:.15g} to {last:.15g}"


_1990, _2100 = 631_152_000, 4_102_444_800
"""Seconds since 1970: a log between them tells its unit."""


def _day(seconds: float) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=seconds // 86400)).isoformat()
