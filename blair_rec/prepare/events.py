"""A log of events held as numbers: collected, put in order, freed of repeats, filtered to its k-core, split.

The rules are those by which the benchmark files of Amazon Reviews 2023 were made (benchmark_scripts of
hyp1231/AmazonReviews2023): of a user's reviews of one item the first counts; users come in the order of their first
line, each one's events by time, equal times as they stand; users and items with fewer than k events go, until none is
left; `last_out` tests on the last event of a user and validates on the one before; `timestamp` splits at two moments.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from blair_rec.errors import SourceError
from blair_rec.prepare.kept import Chunk
from blair_rec.prepare.records import Rejected
from blair_rec.prepare.times import EXACT, WHOLE, find_format, read_times

SPLITS = ("train", "valid", "test")
VALID_FROM, TEST_FROM = 1628643414042, 1658002729837
"""Milliseconds: where validation and test begin in the `timestamp` split of Amazon Reviews 2023."""
SAMPLE = 1000
"""Rows that show how times are written."""
UNUSABLE = ["", "[PAD]", "#N/A N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"]
UNUSABLE += ["nan", "-nan", "NaN", "-NaN", "NA", "N/A", "n/a", "#NA", "#N/A", "<NA>", "null", "NULL", "None"]
"""Names that RecBole, or the pandas it reads files with, takes for no name at all."""
AT_ONCE = 1 << 16
"""Events looked through for repeated pairs."""
SEVERAL_WORDS = r"[\s\x00-\x1f\x7f\"]"
"""A RecBole file separates columns by tabs and the items of a history by spaces, and pandas sees to quotation marks."""


@dataclass(frozen=True, eq=False)
class Log:
    """Who took what when.

    Shapes: M events.
    """

    table: pl.DataFrame
    """[M] user and item uint32 (rows of the names), time int64 or float64, and rating float64 if it was asked for."""
    users: pl.Series
    """The name of each user, in the order of their first lines; also of those who have no event left."""
    items: pl.Series
    """The same of items."""

    @property
    def counts(self) -> dict[str, int]:
        """How many users, items and events."""
        table = self.table
        return {"users": table["user"].n_unique(), "items": table["item"].n_unique(), "events": table.height}

    def item_names(self) -> set[str]:
        """The items that have an event."""
        return set(self.items.gather(self.table["item"].unique()))

    def without_items(self, names: Sequence[str]) -> Log:
        """The events with other items than these."""
        left_out = pl.Series(np.flatnonzero(self.items.is_in(list(names)).to_numpy()).astype(np.uint32))
        return replace(self, table=self.table.filter(~pl.col("item").is_in(left_out.implode())))


class _Names:
    """Texts and their numbers, in the order of first appearance."""

    def __init__(self) -> None:
        # Polars' own dictionary: every new text gets the next number.
        self.kind = pl.Categorical(pl.Categories.random())
        self.alive = pl.Series(dtype=self.kind)  # without a column of the kind, the dictionary would be forgotten
        self.parts = [pl.Series(dtype=pl.String)]
        self.known = 0
        self.unusable = np.zeros(0, dtype=np.int64)

    def encode(self, texts: pl.Series) -> tuple[pl.Series, np.ndarray]:
        """The number of each text, and which of them can't be used."""
        # NumPy where it can do it: whatever Polars evaluates as an expression waits for the blocks that it parses.
        numbers = texts.cast(self.kind).to_physical()
        wrong = _is_null(numbers)
        rows = numbers.cast(pl.Int64).fill_null(-1).to_numpy() if wrong.any() else numbers.to_numpy()
        late = np.flatnonzero(rows >= self.known)
        new = texts.gather(late[np.unique(rows[late], return_index=True)[1]])
        if len(new):
            bad = new.to_frame("name").select(
                pl.col("name").is_in(UNUSABLE) | pl.col("name").str.contains(SEVERAL_WORDS)
            )
            self.unusable = np.append(self.unusable, np.flatnonzero(bad.to_series().to_numpy()) + self.known)
            self.parts.append(new)
            self.known += len(new)
        if len(self.unusable):
            wrong |= np.isin(rows, self.unusable)
        return numbers, wrong

    def names(self) -> pl.Series:
        """All texts; the place of each is its number."""
        return pl.concat(self.parts)


def _is_null(series: pl.Series) -> np.ndarray:
    return series.is_null().to_numpy() if series.null_count() else np.zeros(len(series), dtype=bool)


def collect(
    chunks: Iterable[tuple[Path, Chunk]], columns: Sequence[str], rejected: Rejected, time_format: str | None = None
) -> tuple[Log, str]:
    """All events of some files, as they stand there, and how their times are written.

    `columns` are those of user, item, time and maybe rating. Events without a usable name, time or rating go to
    `rejected`.

    Raises:
        SourceError: no event, or times in no known format.
        RejectedLines: more lines than the limit allows can't be used.
    """
    user, item, time, *rating = columns
    users, items = _Names(), _Names()
    parts: list[pl.DataFrame] = []
    stream = iter(chunks)
    first = _first_rows(stream)
    if time_format is None and first:
        sample = pl.concat([chunk.table[time] for _, chunk in first])
        time_format = find_format(sample.head(SAMPLE), f"{first[0][0]}, column {time!r}")
    for source, (table, lines) in itertools.chain(first, stream):
        user_numbers, no_user = users.encode(table[user])
        item_numbers, no_item = items.encode(table[item])
        times = read_times(table[time], time_format or WHOLE)
        part = {"user": user_numbers, "item": item_numbers, "time": times}
        wrongs = [(user, no_user), (item, no_item), (time, _is_null(times))]
        for name in rating:
            part["rating"] = table[name].cast(pl.Float64, strict=False)
            wrongs.append((name, ~np.isfinite(part["rating"].to_numpy())))
        wrong = np.logical_or.reduce([bad for _, bad in wrongs])
        for row in np.flatnonzero(wrong):
            name = next(name for name, bad in wrongs if bad[row])
            value = table[name][int(row)]
            rejected.add(
                source, int(lines[row]), f"{name} {value!r} can't be used", str(table.row(int(row), named=True))
            )
        numbers = pl.DataFrame(part)
        parts.append(numbers.filter(~wrong) if wrong.any() else numbers)
    rejected.check()
    log = pl.concat(parts, rechunk=True) if parts else pl.DataFrame()
    if not log.height:
        raise SourceError(f"no usable event among {rejected.lines:,} lines ({'; '.join(rejected.first) or 'no line'})")
    return Log(log, users.names(), items.names()), time_format or WHOLE


def _first_rows(stream: Iterator[tuple[Path, Chunk]]) -> list[tuple[Path, Chunk]]:
    """As many chunks as make up a sample: broken lines cut the first ones short."""
    first, rows = [], 0
    for source, chunk in stream:
        first.append((source, chunk))
        rows += len(chunk.lines)
        if rows >= SAMPLE:
            break
    return first


def in_order(log: Log) -> Log:
    """Users in the order of their first lines, each one's events by time; equal times stay as they stand."""
    # One stable sort for each column takes a third of the time of one sort by both.
    return replace(log, table=log.table.sort("time", maintain_order=True).sort("user", maintain_order=True))


def first_of_each_pair(log: Log) -> Log:
    """Of the events of one user and one item only the first that stands there, in a log that is in order."""
    table = log.table
    user = table["user"].to_numpy()
    pair = table.select(pl.col("user").cast(pl.UInt64) * 2**32 + pl.col("item")).to_series()
    # Some users at a time: what has been seen of them stays in the processor's caches, in a fifth of the time.
    begins = np.unique(np.append(np.searchsorted(user, user[::AT_ONCE]), len(user)))
    first = [pair.slice(begin, end - begin).is_first_distinct() for begin, end in itertools.pairwise(begins.tolist())]
    return replace(log, table=table.filter(pl.concat(first)) if first else table)


def without_doubles(log: Log) -> Log:
    """Of events that agree in user, item and time only the first that stands there."""
    return replace(log, table=log.table.unique(["user", "item", "time"], keep="first", maintain_order=True))


def benchmark_rules(log: Log, k: int) -> Log:
    """In order, the first event of each pair, k-core: what `rating_only` of Amazon Reviews 2023 has of raw reviews."""
    # Who has fewer than k events has fewer than k first ones: without them there is much less to sort.
    return k_core(first_of_each_pair(in_order(k_core(log, k))), k)


def k_core(log: Log, k: int) -> Log:
    """The largest part in which every user and every item has at least k events; it may be empty."""
    table = log.table
    while table.height:
        enough = np.ones(table.height, dtype=bool)
        for column in ("user", "item"):
            numbers = table[column].to_numpy()
            enough &= np.bincount(numbers)[numbers] >= k
        if enough.all():
            break
        table = table.filter(enough)
    return replace(log, table=table)


def exact_times(log: Log) -> Log:
    """The same order in times that float64 holds exactly: nanoseconds become microseconds.

    What falls together keeps the order in which it stands, so the log has to be in order before.
    """
    if log.table.select(pl.col("time").abs().max()).item() < EXACT:
        return log
    return replace(log, table=log.table.with_columns(pl.col("time") // 1000))


def position_and_length(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """[M] of every event of a log in order: how many of its user came before, and how many the user has."""
    user = log.table["user"].to_numpy()
    begins = np.flatnonzero(np.append(True, user[1:] != user[:-1])) if len(user) else np.zeros(0, dtype=np.int64)
    lengths = np.diff(np.append(begins, len(user)))
    return np.arange(len(user)) - np.repeat(begins, lengths), np.repeat(lengths, lengths)


def last_out(log: Log) -> np.ndarray:
    """[M] int: 2, test, for the last event of each user; 1, validation, for the one before; 0, training, else."""
    position, length = position_and_length(log)
    return np.clip(position - length + 3, 0, 2)


def by_time(log: Log, valid_from: int = VALID_FROM, test_from: int = TEST_FROM) -> np.ndarray:
    """[M] int: 0, 1, 2 (training, validation, test) by the moments at which validation and test begin."""
    time = log.table["time"].to_numpy()
    return (time >= valid_from).astype(int) + (time >= test_from)
