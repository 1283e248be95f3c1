"""Event logs: order, repeats, k-cores and splits, compared with the published rules in plain Python."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_rules import Review, in_plain_python, splits_in_plain_python

from blair_rec.errors import RejectedLines, SourceError
from blair_rec.lines.rejected import Rejected
from blair_rec.prepare.collect import collect, numbered
from blair_rec.prepare.events import (
    VALID_FROM,
    RawLog,
    benchmark_rules,
    by_time,
    first_of_each_pair,
    in_order,
    k_core,
    last_out,
    position_and_length,
    tied_by_rounding,
    without_doubles,
    written_times,
)
from blair_rec.prepare.names import MISSING
from blair_rec.prepare.reading.kept import Chunk

NAMES = st.sampled_from([f"n{number}" for number in range(6)])
REVIEWS = st.lists(
    st.tuples(NAMES, NAMES, st.sampled_from([1.0, 4.5]), st.integers(VALID_FROM - 2, VALID_FROM + 3)),
    min_size=1,
    max_size=60,
)


def log_of(reviews: list[Review], rejected: Rejected | None = None, form: str | None = None) -> RawLog:
    """Collect a log from chunks of three text rows, as the reader gives them."""
    table = pl.DataFrame(
        [[str(cell) for cell in review] for review in reviews], schema=["user", "item", "rating", "time"], orient="row"
    )
    chunks = [
        (Path("x.csv"), Chunk(table[begin : begin + 3], range(begin + 2, begin + 2 + table[begin : begin + 3].height)))  # type: ignore[arg-type]
        for begin in range(0, table.height, 3)
    ]
    return collect(chunks, ["user", "item", "time", "rating"], rejected or Rejected(Path("rejected.jsonl")), form)[0]


def rows(log: RawLog) -> list[Review]:
    return [(log.users[user], log.items[item], rating, time) for user, item, time, rating in log.table.iter_rows()]


@settings(max_examples=40)
@given(REVIEWS, st.integers(0, 3))
def test_order_repeats_and_k_core_are_the_published_ones(reviews: list[Review], k: int) -> None:
    assert rows(benchmark_rules(log_of(reviews), k)) == in_plain_python(reviews, k)


@settings(max_examples=40)
@given(REVIEWS)
def test_both_splits_are_the_published_ones(reviews: list[Review]) -> None:
    log = benchmark_rules(log_of(reviews), 0)
    moments = (VALID_FROM, VALID_FROM + 2)
    for split, ours in (("last_out", last_out(log)), ("timestamp", by_time(log, *moments))):
        expected = splits_in_plain_python(in_plain_python(reviews, 0), split, *moments)
        for number, part in enumerate(("train", "valid", "test")):
            found = [row for row, place in zip(rows(log), ours.tolist(), strict=True) if place == number]
            assert found == [case[:4] for case in expected[part]], (split, part)


@settings(max_examples=40)
@given(REVIEWS, st.integers(2, 4))
def test_a_k_core_is_the_largest_part_that_no_more_can_be_taken_from(reviews: list[Review], k: int) -> None:
    """Removing one user or item at a time gives the same part, also with repeated events, which count."""
    left = list(reviews)
    while True:
        weak = [
            (place, name)
            for place in (0, 1)
            for name in {review[place] for review in left}
            if sum(review[place] == name for review in left) < k
        ]
        if not weak:
            break
        place, name = weak[0]
        left = [review for review in left if review[place] != name]
    assert sorted(rows(k_core(log_of(reviews), k))) == sorted(left)


@settings(max_examples=40)
@given(REVIEWS)
def test_positions_count_from_the_first_event_of_each_user(reviews: list[Review]) -> None:
    log = in_order(log_of(reviews))
    position, length = position_and_length(log)
    users = [row[0] for row in rows(log)]
    assert position.tolist() == [users[:row].count(user) for row, user in enumerate(users)]
    assert length.tolist() == [users.count(user) for user in users]


def test_names_are_numbered_in_the_order_in_which_they_come() -> None:
    """Users keep this order in every written file."""
    log = log_of([(f"u{number * 7 % 100}", "i", 1.0, number) for number in range(300)])
    assert log.users.to_list() == [f"u{number * 7 % 100}" for number in range(100)]
    assert log.table["user"].to_list() == [number % 100 for number in range(300)]


@settings(max_examples=50, deadline=None)
@given(REVIEWS, st.integers(1, 70))
def test_the_first_event_of_each_pair_is_kept_however_many_are_looked_through_at_once(
    reviews: list[Review], at_once: int
) -> None:
    log = in_order(log_of(reviews))
    with patch("blair_rec.prepare.events.AT_ONCE", at_once):
        found = first_of_each_pair(log)
    assert found.table.equals(log.table.unique(["user", "item"], keep="first", maintain_order=True))


@given(st.lists(st.text(max_size=3)))
def test_texts_are_numbered_as_a_dictionary_would(texts: list[str]) -> None:
    known = {name: number for number, name in enumerate(dict.fromkeys(texts))}
    numbers, names = numbered(pl.Series(texts, dtype=pl.String))
    assert numbers.tolist() == [known[text] for text in texts] and names.to_list() == list(known)


@given(st.lists(st.text(max_size=3)))
def test_texts_that_share_a_hash_are_told_apart(texts: list[str]) -> None:
    def poor_at_first(texts: pl.Series, seed: int) -> pl.Series:
        return texts.str.len_bytes().cast(pl.UInt64) if seed == 0 else texts.hash(seed)

    series = pl.Series(texts, dtype=pl.String)
    (numbers, names), (expected_numbers, expected_names) = numbered(series, poor_at_first), numbered(series)
    assert numbers.tolist() == expected_numbers.tolist() and names.equals(expected_names)


def test_rejected_events_show_dates_not_nanoseconds(tmp_path: Path) -> None:
    rejected = Rejected(tmp_path / "rejected.jsonl", limit=1.0)
    log_of([("u", "i", 1.0, "2025-05-04"), ("", "i", 1.0, "2025-05-05")], rejected, "%Y-%m-%d")  # type: ignore[list-item]
    (line,) = rejected.path.read_text("utf-8").splitlines()
    assert "'time': '2025-05-05T00:00:00" in json.loads(line)["text"]


@pytest.mark.parametrize("at_once", [1, 4, 1 << 20])
def test_events_without_a_usable_name_time_or_rating_are_rejected_with_their_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("blair_rec.prepare.collect.AT_ONCE", at_once)
    rejected = Rejected(tmp_path / "rejected.jsonl", limit=1.0)
    reviews = [
        ("u", "i", 1.0, 1),
        ("", "i", 1.0, 2),
        ("u", "[PAD]", 1.0, 3),
        ("u", "i", "nan", 4),
        ("u", "i", 1.0, "x"),
    ]
    assert rows(
        log_of([*reviews, ("u", "i j", 1.0, 5), ("u", 'i"', 1.0, 6), ("u", "NA", 1, 7)], rejected, "whole")
    ) == [  # type: ignore[list-item]
        ("u", "i", 1.0, 1)
    ]
    told = {one["line"]: one["why"] for one in map(json.loads, rejected.path.read_text("utf-8").splitlines())}
    assert sorted(told) == [3, 4, 5, 6, 7, 8, 9] and len(told) == rejected.count
    assert told[3] == "user '' can't be used: it is empty" and told[6] == "time 'x' can't be used: it is not a number"
    assert told[9].startswith("item 'NA' can't be used: pandas and RecBole read this word as a missing name")
    assert told[5] == "rating 'nan' can't be used: it is not a finite number"
    assert told[7].startswith("item 'i j' can't be used: RecBole splits lists of items at spaces; replace them")


def test_a_word_that_pandas_reads_as_missing_is_not_a_name() -> None:
    from pandas._libs.parsers import STR_NA_VALUES

    assert {"", *MISSING} == {*STR_NA_VALUES, "[PAD]"}


def test_too_many_unusable_events_are_an_error() -> None:
    reviews: list[Review] = [("u", "i", 1.0, 1)] * 98 + [("", "i", 1.0, 1)] * 2
    with pytest.raises(RejectedLines, match=r"2 of 100 lines.*x\.csv, line 100: user '' can't be used.*--max-rejected"):
        log_of(reviews, Rejected(Path("rejected.jsonl"), lines=100))
    log_of(reviews, Rejected(Path("rejected.jsonl"), lines=100, limit=0.02))


def test_no_event_at_all_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"^a\.csv has no event after its first line; write one"):
        collect([], ["user", "item", "time"], Rejected(Path("rejected.jsonl")), log_name="a.csv")


def test_events_that_agree_in_everything_are_one() -> None:
    log = without_doubles(log_of([("u", "i", 1.0, 1), ("u", "i", 4.5, 1), ("u", "i", 1.0, 2)]))
    assert rows(log) == [("u", "i", 1.0, 1), ("u", "i", 1.0, 2)]


def test_nanoseconds_become_what_float64_holds_and_keep_their_order() -> None:
    exact = log_of([("u", "i", 1.0, 1628643414042000001), ("u", "j", 1.0, 1628643414042000002)])
    log = written_times(exact)
    assert tied_by_rounding(exact) == 1 and tied_by_rounding(log) == 0
    assert log.table["time"].to_list() == [1628643414042000] * 2
    assert [row[1] for row in rows(log)] == ["i", "j"]
    assert written_times(log_of([("u", "i", 1.0, 2**53 - 1)])).table["time"].to_list() == [2**53 - 1]
