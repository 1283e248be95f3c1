"""Times in files, compared with Python's datetime and decimal: what is read or refused and why, and the order."""

from __future__ import annotations

import csv
import datetime
import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blair_rec.errors import RejectedLines, SourceError, agreed, counted
from blair_rec.prepare.own import OwnData, prepare_own
from blair_rec.prepare.times import (
    DATES,
    EXACT,
    NANOSECONDS,
    NUMBER,
    WHOLE,
    WITH_ZONE,
    describe,
    find_format,
    other_unit,
    read_times,
    read_widely,
    why_not,
)

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MOMENTS = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2250, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0)
)
FRACTIONS = st.one_of(st.just(""), st.text("0123456789", min_size=1, max_size=9))
NUMBERS = st.tuples(st.integers(0, 2_000_000_000), FRACTIONS).map(lambda pair: ".".join(filter(None, map(str, pair))))


def nanoseconds(moment: datetime.datetime, fraction: str = "") -> int:
    """Return the nanoseconds since 1970, with Python alone; a time without a zone is in UTC."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)
    return (moment - EPOCH) // datetime.timedelta(seconds=1) * 10**9 + int(fraction.ljust(9, "0"))


def as_text(moment: datetime.datetime, form: str, fraction: str, minutes: int) -> str:
    """Return a time as Python writes it, in a zone this many minutes from UTC."""
    zoned = moment.replace(tzinfo=datetime.timezone.utc).astimezone(
        datetime.timezone(datetime.timedelta(minutes=minutes))
    )
    shown = zoned if form in WITH_ZONE[:2] else moment
    fraction = f".{fraction}" if fraction else ""
    return shown.strftime(form.replace("%.f", fraction).replace("%#z", "%z").replace("%Z", "UTC"))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(DATES), st.lists(st.tuples(MOMENTS, FRACTIONS), min_size=1, max_size=9), st.integers(-720, 720))
def test_dates_are_read_to_the_nanosecond(
    form: str, moments: list[tuple[datetime.datetime, str]], minutes: int
) -> None:
    texts = pl.Series([as_text(moment, form, fraction, minutes) for moment, fraction in moments])
    if "%H" not in form:
        moments = [(moment.replace(hour=0, minute=0, second=0), "") for moment, _ in moments]
    elif "%S" not in form:
        moments = [(moment.replace(second=0), "") for moment, _ in moments]
    assert read_times(texts, form).to_list() == [nanoseconds(*moment) for moment in moments]


@pytest.mark.parametrize(
    "form, text, expected",
    [
        ("%Y-%m-%d %H:%M:%S %Z", "2023-04-01 10:00:00 UTC", 0),
        ("%Y-%m-%d %H:%M:%S %Z", "2023-04-01 10:00:00 gmt", 0),
        ("%Y-%m-%d %H:%M:%S %Z", "2023-04-01 10:00:00 +0200", -7200 * 10**9),
        ("%Y-%m-%d %H:%M:%S %z", "2023-04-01 10:00:00 -0500", 18000 * 10**9),
        ("%Y-%m-%d %H:%M:%S.%f", "2023-04-01 10:00:00.06", 60_000_000),
        ("%Y-%m-%d %H:%M:%S,%3f", "2023-04-01 10:00:00,060", 60_000_000),
        ("%d.%m.%Y %H%%%M", "01.04.2023 10%00", 0),
    ],
)
def test_patterns_mean_what_they_mean_in_python(form: str, text: str, expected: int) -> None:
    assert read_times(pl.Series([text]), form)[0] == nanoseconds(datetime.datetime(2023, 4, 1, 10)) + expected


@pytest.mark.parametrize("zone", ["EST", "CET", "PM", "Europe/Berlin", "UTC+2", "GMT-5", ""])
def test_the_name_of_a_time_zone_is_never_taken_for_utc(zone: str) -> None:
    text = f"2023-04-01 10:00:00 {zone}".strip()
    for form in ("%Y-%m-%d %H:%M:%S %Z", "%Y-%m-%d %H:%M:%S%Z"):
        assert zone in ("", "PM") or read_times(pl.Series([text]), form)[0] is None
    assert read_times(pl.Series([text]), "%Y-%m-%d %H:%M:%S %Z").null_count() == 1
    assert "%Z reads UTC and GMT only" in why_not(text, "%Y-%m-%d %H:%M:%S %Z")


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f%#z"])
@pytest.mark.parametrize(
    "year, fits", [(1, False), (1500, False), (1678, True), (2261, True), (2263, False), (9999, False)]
)
def test_dates_that_int64_can_not_hold_are_not_times(form: str, year: int, fits: bool) -> None:
    """In Polars itself they overflow silently, so the year 9999 comes before 1970."""
    text = form.replace("%Y", f"{year:04d}").replace("%m", "03").replace("%d", "01").replace("%#z", "Z")
    text = text.replace("%H:%M:%S%.f", "10:00:00.5")
    assert (read_times(pl.Series([text]), form)[0] is not None) == fits
    assert "between 1678 and 2261" in why_not(text, form)


def test_a_fraction_that_would_be_misread_is_refused() -> None:
    with pytest.raises(SourceError, match=r"%f works only after a point; write %3f, %6f or %9f"):
        read_times(pl.Series(["2023-04-01 10:00:00,123"]), "%Y-%m-%d %H:%M:%S,%f")


@settings(max_examples=100, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=9))
def test_numbers_keep_all_digits(texts: list[str]) -> None:
    assert read_times(pl.Series(texts), NUMBER).to_list() == [Decimal(text) for text in texts]


@given(st.lists(st.floats(-1e15, 1e15).filter(lambda number: number == 0 or abs(number) > 1e-4), min_size=1))
def test_floats_come_back_as_they_were(numbers: list[float]) -> None:
    times = read_times(pl.Series(map(repr, numbers), dtype=pl.String), NUMBER)
    assert times.cast(pl.String).cast(pl.Float64).to_list() == [number + 0.0 for number in numbers]


def test_a_format_found_in_a_sample_reads_similar_later_lines() -> None:
    days = read_widely(pl.Series(["2023-04-01 10:00:00", "2023-04-01", "2023/04/02", "01.02.2023"]), DATES[4])
    expected = [datetime.datetime(2023, 4, 1, 10), datetime.datetime(2023, 4, 1), datetime.datetime(2023, 4, 2)]
    assert days.to_list() == [*map(nanoseconds, expected), None]
    assert read_widely(pl.Series(["3", "1.5", "x"]), WHOLE).to_list() == [3, Decimal("1.5"), None]
    assert read_widely(pl.Series(["3", "4", "x"]), WHOLE).dtype == pl.Int64
    zoned = read_widely(pl.Series(["2023-04-01T10:00:00Z", "2023-04-01 10:00:00 UTC", "2023-04-01 10:00:00"]), DATES[0])
    assert zoned.null_count() == 1, "a time without a zone among others may be in any zone"


def test_a_sample_in_several_formats_that_go_together_is_enough() -> None:
    texts = ["2023-04-01", "2023-04-01 10:00", "2023/04/01", "2023-04-01 10:00:00", "2023-04-01T10:00:00"]
    assert find_format(pl.Series(texts), "x") in DATES
    with pytest.raises(SourceError, match="x: no known format fits the times .*--time-format"):
        find_format(pl.Series(["01.02.2023", "02.02.2023", "2023-04-01"]), "x")


@pytest.mark.parametrize(
    "text, form, why",
    [
        (None, WHOLE, "it is empty"),
        ("  ", DATES[4], "it is empty"),
        ("x", NUMBER, "it is not a number"),
        ("nan", NUMBER, "not a finite number"),
        ("1e400", NUMBER, r"it is 2\^53 or larger"),
        ("9e9999999", WHOLE, r"it is 2\^53 or larger"),
        ("1.5", WHOLE, "--time-format number reads it"),
        (str(EXACT), WHOLE, r"it is 2\^53 or larger"),
        ("5", NANOSECONDS, "not a count of nanoseconds"),
        ("yesterday", "%Y", "not written as '%Y', .*--time-format"),
    ],
)
def test_an_unreadable_time_gets_a_reason(text: str | None, form: str, why: str) -> None:
    assert read_times(pl.Series([text], dtype=pl.String), form)[0] is None
    with pytest.raises(ValueError, match=why):
        raise ValueError(why_not(text, form))


SECONDS = st.lists(st.integers(1_400_000_000, 1_700_000_000), min_size=3, max_size=30)


@given(SECONDS, st.sets(st.integers(0, 29)), st.sampled_from([1000, 10**6]), st.sampled_from([1, 1000]))
def test_times_in_another_unit_than_most_are_found(seconds: list[int], odd: set[int], factor: int, unit: int) -> None:
    odd = {row for row in odd if row < (len(seconds) + 1) // 2 - 1}
    times = pl.Series([time * unit * (factor if row in odd else 1) for row, time in enumerate(seconds)])
    found = other_unit(times)
    assert (set() if found is None else set(found.rows.nonzero()[0].tolist())) == odd


@pytest.mark.parametrize(
    "times",
    [
        [],
        [1, 2, 3],
        list(range(0, 10**12, 10**9)),  # microseconds from the start of a session
        [0, 1_600_000_000, 1_600_000_001],
        [7_000_000, *range(1_500_000_000_000, 1_500_000_000_900)],
        [-5, 10**15],
    ],
)
def test_counters_and_single_odd_times_are_not_another_unit(times: list[int]) -> None:
    assert other_unit(pl.Series(times, dtype=pl.Int64)) is None


def test_the_unit_of_a_log_is_reported() -> None:
    assert describe(pl.Series([1_600_000_000, 1_600_086_400]), WHOLE) == "2020-09-13 to 2020-09-14 (seconds since 1970)"
    assert describe(pl.Series([3, 5]), WHOLE) == "3 to 5"
    assert describe(pl.Series([Decimal("1.5")], dtype=pl.Decimal(38, 22)), NUMBER) == "1.5 to 1.5"


# In a whole preparation


def prepared(folder: Path, times: list[str], **asked: object) -> tuple[list[tuple[str, float]], list[str]]:
    """Return the items of one user with their written times, and the summary; item i0 comes first in the file."""
    with (folder / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("u", "i", "t"), *(("ann", f"i{row}", time) for row, time in enumerate(times))])
    told: list[str] = []
    prepare_own(OwnData(folder / "log.csv", "u", "i", "t", **asked), folder / "out", told.append)  # type: ignore[arg-type]
    lines = (folder / "out" / "out.inter").read_text("utf-8").splitlines()[1:]
    return [(line.split("\t")[1], float(line.split("\t")[2])) for line in lines], told


KINDS = {
    "dates": st.tuples(st.integers(0, 3), FRACTIONS).map(
        lambda pair: f"2024-03-01 10:00:0{pair[0]}{'.' if pair[1] else ''}{pair[1]}"
    ),
    "numbers": st.tuples(st.integers(1_700_000_000, 1_700_000_002), FRACTIONS).map(
        lambda pair: f"{pair[0]}{'.' if pair[1] else ''}{pair[1]}"
    ),
    "nanoseconds": st.integers(17 * 10**17, 17 * 10**17 + 5000).map(str),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_events_come_in_the_order_of_all_digits_that_are_written(kind: str, data: st.DataObject) -> None:
    times = data.draw(st.lists(KINDS[kind], min_size=1, max_size=30))

    def exactly(time: str) -> Fraction:
        if kind != "dates":
            return Fraction(time)
        whole, _, fraction = time.partition(".")
        return Fraction(nanoseconds(datetime.datetime.fromisoformat(whole), fraction), 10**6)

    with TemporaryDirectory() as folder:
        events, told = prepared(Path(folder), times)
    order = sorted(range(len(times)), key=lambda row: exactly(times[row]))
    assert [item for item, _ in events] == [f"i{row}" for row in order]
    written = [time for _, time in events]
    assert written == sorted(written)
    unit, within = {"dates": (1, 2e-3), "numbers": (1, 1e-6), "nanoseconds": (1000, 1)}[kind]
    for row, time in zip(order, written, strict=True):
        assert abs(float(exactly(times[row]) / unit - Fraction(time))) <= within
    pairs = [(exactly(times[one]), exactly(times[other])) for one, other in zip(order, order[1:], strict=False)]
    ties = sum(a < b and x == y for (a, b), x, y in zip(pairs, written, written[1:], strict=False))
    assert any(
        f"times: after rounding, {counted(ties, 'event')} {agreed(ties, 'have')} the same" in line for line in told
    ) == (ties > 0)


def test_milliseconds_stay_whole_and_microseconds_are_a_fraction_of_them(tmp_path: Path) -> None:
    first = 1709287200000
    for number, (second, expected) in enumerate([(".001", first + 1), (".000001", first + 0.001)]):
        (folder := tmp_path / str(number)).mkdir()
        events, _ = prepared(folder, ["2024-03-01 10:00:00" + second, "2024-03-01 10:00:00"])
        assert events == [("i1", first), ("i0", expected)]
    assert "\t1709287200001\n" in (tmp_path / "0" / "out" / "out.inter").read_text()


def test_a_fraction_after_a_thousand_whole_numbers_is_read(tmp_path: Path) -> None:
    events, _ = prepared(tmp_path, [*map(str, range(2000, 3100)), "2000.5", "7"])
    assert events[:3] == [("i1101", 7.0), ("i0", 2000.0), ("i1100", 2000.5)] and len(events) == 1102
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["found"]["time_format"] == NUMBER


def test_seconds_among_milliseconds_are_an_error_or_skipped_and_counted(tmp_path: Path) -> None:
    times = [str(1_680_000_000_000 + number) for number in range(199)]
    with pytest.raises(RejectedLines, match=r"3 of 202 lines.*1680000000 can't be used: it looks like seconds, but"):
        prepared(tmp_path, [*times, *["1680000000"] * 3])
    events, told = prepared(tmp_path, [*times, "1680000000"])
    assert len(events) == 199 and any("lines that can't be used: 1 (first: log.csv, line 201" in line for line in told)


def test_a_given_format_is_followed_exactly(tmp_path: Path) -> None:
    with pytest.raises(
        RejectedLines, match="'1.5' can't be used: it is not written as a whole number; --time-format number reads it"
    ):
        prepared(tmp_path, ["1", "1.5"], time_format=WHOLE)
    assert prepared(tmp_path, ["2", "1.5"], time_format=NUMBER)[0] == [("i1", 1.5), ("i0", 2.0)]
