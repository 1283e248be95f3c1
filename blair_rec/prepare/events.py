"""A log of events as numbers: sort it, remove repeats, filter it to its k-core, and split it.

The rules are those of the benchmark files of Amazon Reviews 2023 (benchmark_scripts of hyp1231/AmazonReviews2023):
only a user's first review of an item counts. Users come in the order of their first line, and the events of a user by
time; tied times keep file order. Users and items with fewer than k events are removed until none is left. `last_out`
tests on the last event of a user and validates on the event before it; `timestamp` splits at two moments.
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
"""Events searched for repeated pairs in one batch."""


@dataclass(frozen=True, eq=False)
class RawLog:
    """Events of users and items with their times.

    Shapes: M events.
    """

    table: pl.DataFrame
    """[M] user and item uint32 (indices of the names), time int64 or DIGITS, and rating float64 if requested."""
    users: pl.Series
    """The name of each user, in the order of their first lines; includes users without a remaining event."""
    items: pl.Series
    """The same for items."""
    dates: bool = False
    """True if times were written as dates and are nanoseconds; False if they are the numbers of the file."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of users, items and events."""
        table = self.table
        return {"users": table["user"].n_unique(), "items": table["item"].n_unique(), "events": table.height}

    def item_names(self) -> set[str]:
        """Return the names of items that have an event."""
        return set(self.items.gather(self.table["item"].unique()))

    def without_items(self, names: Sequence[str]) -> RawLog:
        """Return the log without the events of these items."""
        left_out = pl.Series(np.flatnonzero(self.items.is_in(list(names)).to_numpy()).astype(np.uint32))
        return replace(self, table=self.table.filter(~pl.col("item").is_in(left_out.implode())))


def in_order(log: RawLog) -> RawLog:
    """Sort users by their first line, and the events of a user by time; tied times keep file order."""
    # Two stable sorts, one per column, take a third of the time of one sort by both.
    return replace(log, table=log.table.sort("time", maintain_order=True).sort("user", maintain_order=True))


def first_of_each_pair(log: RawLog) -> RawLog:
    """Keep only the first event of each pair of user and item; the log must be sorted."""
    table = log.table
    user = table["user"].to_numpy()
    pair = table.select(pl.col("user").cast(pl.UInt64) * 2**32 + pl.col("item")).to_series()
    # In batches of users, so that their pairs fit in the processor's caches: this takes a fifth of the time.
    begins = np.unique(np.append(np.searchsorted(user, user[::AT_ONCE]), len(user))).tolist()
    with ThreadPoolExecutor() as pool:
        first = list(pool.map(lambda begin, end: pair[begin:end].is_first_distinct(), begins[:-1], begins[1:]))
    return replace(log, table=table.filter(pl.concat(first)) if first else table)


def without_doubles(log: RawLog) -> RawLog:
    """Keep only the first of the events with the same user, item and time."""
    return replace(log, table=log.table.unique(["user", "item", "time"], keep="first", maintain_order=True))


def benchmark_rules(log: RawLog, k: int) -> RawLog:
    """Sort, keep the first event of each pair, and filter to the k-core: as in `rating_only` of Amazon Reviews 2023."""
    # A user or item with fewer than k events also has fewer than k first events. Removing them leaves less to sort.
    return k_core(first_of_each_pair(in_order(k_core(log, k))), k)


def k_core(log: RawLog, k: int) -> RawLog:
    """Return the largest part in which every user and item has at least k events; it may be empty."""
    table, columns = log.table, ("user", "item")
    counts = {column: np.bincount(table[column].to_numpy()) for column in columns}
    while any(((count > 0) & (count < k)).any() for count in counts.values()):
        few = {column: count < k for column, count in counts.items()}
        gone = np.logical_or(*(few[column][table[column].to_numpy()] for column in columns))
        for column in columns:  # a round removes few events, so the counts are updated for these only
            counts[column] -= np.bincount(table[column].to_numpy()[gone], minlength=len(counts[column]))
        table = table.filter(~gone)
    return replace(log, table=table)


def written_times(log: RawLog) -> RawLog:
    """Return the log with its times as they are written to the file: numbers that float64, RecBole's type, can hold.

    Dates become milliseconds, with a fraction if any of them has microseconds; whole nanoseconds become microseconds;
    numbers become float64. Times that are tied only after rounding (see `tied_by_rounding`) keep their order, so sort
    the log first.
    """
    time = log.table["time"]
    if log.dates:
        micros = time // 1000
        time = micros / 1000 if (micros % 1000 != 0).any() else micros // 1000
    elif time.dtype.is_decimal():
        time = time.cast(pl.String).cast(pl.Float64)  # via text, which gives the float64 nearest to the written number
    elif len(time) and time.abs().max() >= EXACT:  # type: ignore[operator]
        time = time // 1000
    return replace(log, table=log.table.with_columns(time.alias("time")))


def tied_by_rounding(log: RawLog) -> int:
    """Count the events of a sorted log whose time ties with the user's event before only after rounding."""
    table = log.table.select("user", "time", written=written_times(log).table["time"])
    same = {name: table[name][1:] == table[name][:-1] for name in table.columns}
    return int((same["user"] & same["written"] & ~same["time"]).sum())


def position_and_length(log: RawLog) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each event of a sorted log, its position among its user's events and their number: two [M] arrays."""
    user = log.table["user"].to_numpy()
    begins = np.flatnonzero(np.append(True, user[1:] != user[:-1])) if len(user) else np.zeros(0, dtype=np.int64)
    lengths = np.diff(np.append(begins, len(user)))
    return np.arange(len(user)) - np.repeat(begins, lengths), np.repeat(lengths, lengths)


def last_out(log: RawLog) -> np.ndarray:
    """Return [M] int: 2 (test) for each user's last event, 1 (validation) for the one before, 0 (training) else."""
    position, length = position_and_length(log)
    return np.clip(position - length + 3, 0, 2)


def by_time(log: RawLog, valid_from: int = VALID_FROM, test_from: int = TEST_FROM) -> np.ndarray:
    """Return [M] int: 0 (training), 1 (validation) or 2 (test), by the times at which validation and test begin."""
    time = log.table["time"].to_numpy()
    return (time >= valid_from).astype(int) + (time >= test_from)
