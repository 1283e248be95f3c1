"""Dates and time units, compared with pandas."""

from __future__ import annotations

import datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.lines.dates import UNITS, seconds_of, span, unit_of

MOMENTS = st.datetimes(datetime.datetime(1990, 1, 2), datetime.datetime(2099, 12, 30))


@given(MOMENTS, st.sampled_from(["%Y-%m-%d", "%Y/%m/%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"]))
def test_a_date_is_read_as_pandas_reads_it(moment: datetime.datetime, form: str) -> None:
    text = moment.strftime(form)
    for zone in ("", *(["Z", "+05:30", "-0530"] if "H" in form else [])):
        expected = pd.Timestamp(text + zone)
        expected = expected.tz_localize("UTC") if expected.tzinfo is None else expected
        assert seconds_of(text + zone) == pytest.approx(expected.timestamp(), abs=1e-5)


def test_fractions_of_a_second_may_have_any_number_of_digits() -> None:
    """Python 3.10 alone reads 3 or 6."""
    for digits in ("5", "25", "125", "1234567"):
        expected = pd.Timestamp(f"2024-07-01T10:00:00.{digits}", tz="UTC").timestamp()
        assert seconds_of(f"2024-07-01T10:00:00.{digits}Z") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "text", ["", "May", "2024", "01.07.2024", "07/01/2024", "2024-13-01", "2024-07-01x", "1720000000"]
)
def test_what_is_no_date_is_none(text: str) -> None:
    assert seconds_of(text) is None


@given(MOMENTS, MOMENTS, st.sampled_from(list(UNITS)))
def test_times_show_their_unit(one: datetime.datetime, other: datetime.datetime, unit: str) -> None:
    first, last = sorted(pd.Timestamp(moment, tz="UTC").timestamp() for moment in (one, other))
    assert unit_of(first * UNITS[unit], last * UNITS[unit]) == unit
    days = [str(pd.Timestamp(time, unit="s").date()) for time in (first, last)]
    assert f"({days[0]} to {days[1]}, {unit} since 1970)" in span(first * UNITS[unit], last * UNITS[unit])


def test_other_numbers_have_no_unit() -> None:
    assert unit_of(0, 57) is unit_of(1, 1_700_000_000) is None
    assert span(0, 57) == "0 to 57"
