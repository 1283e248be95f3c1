"""A log of events held as numbers: put in order, freed of repeats, filtered to its k-core, split.

The rules are those by which the benchmark files of Amazon Reviews 2023 were made (benchmark_scripts of
hyp1231/AmazonReviews2023): of a user's reviews of one item the first counts; users come in the order of their first
line, each one's events by time, equal times as they stand; users and items with fewer than k events go, until none is
left; `last_out` tests on the last event of a user and validates on the one before; `timestamp` splits at two moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from blair_rec.prepare.times import EXACT

SPLITS = ("train", "valid", "test")
VALID_FROM, TEST_FROM = 1628643414042, 1658002729837
"""Milliseconds: where validation and test begin in the `timestamp` split of Amazon Reviews 2023."""
AT_ONCE = 1 << 16
"""Events looked through for repeated pairs."""


@dataclass(frozen=True, eq=False)
class RawLog:
    """Who took what when.

    Shapes: M events.
    """

    table: pl.DataFrame
    """[M] user and item uint32 (rows of the names), time int64 or DIGITS, and rating float64 if it was asked for."""
    users: pl.Series
    """The name of each user, in the order of their first lines; also of those who have no event left."""
    items: pl.Series
    """The same of items."""
    dates: bool = False
    """Whether times were written as dates, and are nanoseconds; else they are numbers as the file has them."""

    @property
    def counts(self) -> dict[str, int]:
        """How many users, items and events."""
        table = self.table
        return {"users": table["user"].n_unique(), "items": table["item"].n_unique(), "events": table.height}

    def item_names(self) -> set[str]:
        """The items that have an event."""
        return set(self.items.gather(self.table["item"].unique()))

    def without_items(self, names: Sequence[str]) -> RawLog:
        """The events with other items than these."""
        left_out = pl.Series(np.flatnonzero(self.items.is_in(list(names)).to_numpy()).astype(np.uint32))
        return replace(self, table=self.table.filter(~pl.col("item").is_in(left_out.implode())))


def in_order(log: RawLog) -> RawLog:
    """Users in the order of their first lines, each one's events by time; equal times stay as they stand."""
    # One stable sort for each column takes a third of the time of one sort by both.
    return replace(log, table=log.table.sort("time", maintain_order=True).sort("user", maintain_order=True))


def first_of_each_pair(log: RawLog) -> RawLog:
    """Of the events of one user and one item only the first that stands there, in a log that is in order."""
    table = log.table
    user = table["user"].to_numpy()
    pair = table.select(pl.col("user").cast(pl.UInt64) * 2**32 + pl.col("item")).to_series()
    # Some users at a time: what has been seen of them stays in the processor's caches, in a fifth of the time.
    begins = np.unique(np.append(np.searchsorted(user, user[::AT_ONCE]), len(user))).tolist()
    with ThreadPoolExecutor() as pool:
        first = list(pool.map(lambda begin, end: pair[begin:end].is_first_distinct(), begins[:-1], begins[1:]))
    return replace(log, table=table.filter(pl.concat(first)) if first else table)


def without_doubles(log: RawLog) -> RawLog:
    """Of events that agree in user, item and time only the first that stands there."""
    return replace(log, table=log.table.unique(["user", "item", "time"], keep="first", maintain_order=True))


def benchmark_rules(log: RawLog, k: int) -> RawLog:
    """In order, the first event of each pair, k-core: what `rating_only` of Amazon Reviews 2023 has of raw reviews."""
    # Who has fewer than k events has fewer than k first ones: without them there is much less to sort.
    return k_core(first_of_each_pair(in_order(k_core(log, k))), k)


def k_core(log: RawLog, k: int) -> RawLog:
    """The largest part in which every user and every item has at least k events; it may be empty."""
    table, columns = log.table, ("user", "item")
    counts = {column: np.bincount(table[column].to_numpy()) for column in columns}
    while any(((count > 0) & (count < k)).any() for count in counts.values()):
        few = {column: count < k for column, count in counts.items()}
        gone = np.logical_or(*(few[column][table[column].to_numpy()] for column in columns))
        for column in columns:  # a round takes few events, of which alone the counts have to know
            counts[column] -= np.bincount(table[column].to_numpy()[gone], minlength=len(counts[column]))
        table = table.filter(~gone)
    return replace(log, table=table)


def written_times(log: RawLog) -> RawLog:
    """The same order in times that float64 holds, as which RecBole reads them: what a data set's file has.

    Dates become milliseconds, with a fraction where one of them has microseconds; whole nanoseconds become
    microseconds; numbers become float64. Times that fall together (see `tied_by_rounding`) keep the order in which
    they are, so the log has to be in order before.
    """
    time = log.table["time"]
    if log.dates:
        micros = time // 1000
        time = micros / 1000 if (micros % 1000 != 0).any() else micros // 1000
    elif time.dtype.is_decimal():
        time = time.cast(pl.String).cast(pl.Float64)  # through text: the nearest number to what was written
    elif len(time) and time.abs().max() >= EXACT:  # type: ignore[operator]
        time = time // 1000
    return replace(log, table=log.table.with_columns(time.alias("time")))


def tied_by_rounding(log: RawLog) -> int:
    """How many events of a log in order get the written time of their user's event before, and had a later one."""
    table = log.table.select("user", "time", written=written_times(log).table["time"])
    same = {name: table[name][1:] == table[name][:-1] for name in table.columns}
    return int((same["user"] & same["written"] & ~same["time"]).sum())


def position_and_length(log: RawLog) -> tuple[np.ndarray, np.ndarray]:
    """[M] of every event of a log in order: how many of its user came before, and how many the user has."""
    user = log.table["user"].to_numpy()
    begins = np.flatnonzero(np.append(True, user[1:] != user[:-1])) if len(user) else np.zeros(0, dtype=np.int64)
    lengths = np.diff(np.append(begins, len(user)))
    return np.arange(len(user)) - np.repeat(begins, lengths), np.repeat(lengths, lengths)


def last_out(log: RawLog) -> np.ndarray:
    """[M] int: 2, test, for the last event of each user; 1, validation, for the one before; 0, training, else."""
    position, length = position_and_length(log)
    return np.clip(position - length + 3, 0, 2)


def by_time(log: RawLog, valid_from: int = VALID_FROM, test_from: int = TEST_FROM) -> np.ndarray:
    """[M] int: 0, 1, 2 (training, validation, test) by the moments at which validation and test begin."""
    time = log.table["time"].to_numpy()
    return (time >= valid_from).astype(int) + (time >= test_from)
