"""The rows of files as a log of events: users and items numbered, and what can't be used kept apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from blair_rec.errors import SourceError
from blair_rec.lines.rejected import Rejected
from blair_rec.prepare.events import RawLog
from blair_rec.prepare.names import unusable, why_unusable
from blair_rec.prepare.reading.kept import Chunk
from blair_rec.prepare.times import (
    DIGITS,
    NANOSECONDS,
    NUMBER,
    WHOLE,
    OtherUnit,
    find_format,
    other_unit,
    read_times,
    read_widely,
    why_not,
)

SAMPLE = 1000
"""Rows that show how times are written."""
AT_ONCE = 1 << 20
"""Rows that are put together in one piece of memory."""


def collect(
    chunks: Iterable[tuple[Path, Chunk]],
    columns: Sequence[str],
    rejected: Rejected,
    time_format: str | None = None,
    log_name: object = "the log",
) -> tuple[RawLog, str]:
    """All events of some files, as they stand there, and how their times are written.

    `columns` are those of user, item, time and maybe rating. Events without a usable name, time or rating go to
    `rejected`, and so do times in another unit than most. A format that is not given is found in the first rows; later
    rows may be written in a similar one. `log_name` is what an error about the whole calls it.

    Raises:
        SourceError: no event, or times in no known format.
        RejectedLines: more lines than the limit allows can't be used.
    """
    stream = iter(chunks)
    first = _first_rows(stream)
    if not first and not rejected.lines:
        raise SourceError(f"{log_name} holds no event behind its first line; write one event a line")
    read = read_times if time_format is not None else read_widely
    if time_format is None and first:
        sample = pl.concat([chunk.table[columns[2]] for _, chunk in first])
        time_format = find_format(sample.head(SAMPLE), f"{first[0][0]}, column {columns[2]!r}")
    events = _Events(columns, time_format or WHOLE, rejected, read)
    for source, chunk in itertools.chain(first, stream):
        events.add(source, chunk)
    return events.log(), events.time_format


def _first_rows(stream: Iterator[tuple[Path, Chunk]]) -> list[tuple[Path, Chunk]]:
    """As many chunks as make up a sample: broken lines cut the first ones short."""
    first, rows = [], 0
    for source, chunk in stream:
        first.append((source, chunk))
        rows += len(chunk.lines)
        if rows >= SAMPLE:
            break
    return first


class _Events:
    """What has been read of the files: names as texts, times and ratings as numbers."""

    def __init__(
        self,
        columns: Sequence[str],
        time_format: str,
        rejected: Rejected,
        read: Callable[[pl.Series, str], pl.Series],
    ) -> None:
        self.columns, self.time_format, self.rejected, self.read = columns, time_format, rejected, read
        self.tables: list[pl.DataFrame] = []
        self.latest: list[pl.DataFrame] = []
        self.places: list[tuple[Path, Sequence[int]]] = []
        """Of every chunk: its file, and the lines of its rows there."""

    def add(self, source: Path, chunk: Chunk) -> None:
        """The next rows; those without names, a usable time or a usable rating are rejected."""
        table, lines = chunk
        user, item, time, *ratings = self.columns
        numbers = {time: self.read(table[time], self.time_format)}
        if numbers[time].dtype == DIGITS and self.time_format == WHOLE:
            self._widen()
        numbers |= {rating: table[rating].cast(pl.Float64, strict=False) for rating in ratings}
        usable = pl.DataFrame({user: table[user], item: table[item], **numbers})
        wrongs = {name: _is_null(usable[name]) for name in (user, item, time)}
        wrongs |= {rating: ~np.isfinite(usable[rating].to_numpy()) for rating in ratings}
        wrong = np.logical_or.reduce(list(wrongs.values()))
        if wrong.any():
            for row in np.flatnonzero(wrong).tolist():
                self._reject(source, lines[row], table.row(row, named=True), wrongs, row)
            usable, lines = usable.filter(~wrong), np.asarray(lines)[~wrong].tolist()
        self.places.append((source, lines))
        self.latest.append(usable)
        if sum(map(len, self.latest)) >= AT_ONCE:
            self._put_together()

    def _widen(self) -> None:
        """After whole numbers there was one with a fraction: all are numbers with digits behind the point."""
        self.time_format = NUMBER
        as_digits = pl.col(self.columns[2]).cast(DIGITS)
        self.tables, self.latest = (
            [one.with_columns(as_digits) for one in some] for some in (self.tables, self.latest)
        )

    def _put_together(self) -> None:
        """The latest tables as one: the many small pieces that Polars reads into take much more memory."""
        self.tables.append(pl.concat(self.latest, rechunk=True))
        self.latest = []

    def log(self) -> RawLog:
        """All of them, numbered; those with an unusable name are rejected.

        Raises:
            SourceError: there is none.
            RejectedLines: more lines than the limit allows can't be used.
        """
        user, item, *rest = self.columns
        if self.latest:
            self._put_together()
        table = pl.concat(self.tables) if self.tables else pl.DataFrame(schema=dict.fromkeys(self.columns, pl.String))
        self.tables = []
        with ThreadPoolExecutor() as pool:
            (user_numbers, users), (item_numbers, items) = pool.map(numbered, (table[user], table[item]))
        wrongs = {
            user: unusable(users, in_lists=False)[user_numbers],
            item: unusable(items, in_lists=True)[item_numbers],
        }
        wrong = wrongs[user] | wrongs[item]
        is_number = self.time_format in (WHOLE, NANOSECONDS, NUMBER)
        other = other_unit(table[rest[0]]) if is_number else None
        if other is not None:
            wrongs[rest[0]] = other.rows
            wrong |= other.rows
        begins = np.cumsum([0, *(len(lines) for _, lines in self.places)])
        for row in np.flatnonzero(wrong).tolist():
            place = int(np.searchsorted(begins, row, side="right")) - 1
            source, lines = self.places[place]
            self._reject(source, lines[row - begins[place]], table.row(row, named=True), wrongs, row, other)
        self.rejected.check()
        named = zip(("time", "rating"), table[rest], strict=False)
        log = pl.DataFrame({"user": user_numbers, "item": item_numbers, **dict(named)})
        log = log.filter(~wrong) if wrong.any() else log.rechunk()
        if not log.height:
            raise SourceError(
                f"no usable event among {self.rejected.lines:,} lines (first: {'; '.join(self.rejected.first)})"
            )
        return RawLog(log, users, items, dates=not is_number)

    def _reject(
        self,
        source: Path,
        line: int,
        event: dict[str, Any],
        wrongs: Mapping[str, np.ndarray],
        row: int,
        other: OtherUnit | None = None,
    ) -> None:
        """One event, for the first of its columns that is wrong."""
        name = next(name for name, wrong in wrongs.items() if wrong[row])
        event = {column: float(cell) if isinstance(cell, Decimal) else cell for column, cell in event.items()}
        value, why = event[name], "it is no finite number"
        if name in self.columns[:2]:
            why = why_unusable(value)
        elif name == self.columns[2]:
            why = other.why(value) if other is not None else why_not(value, self.time_format)
        self.rejected.add(source, line, f"{name} {value!r} can't be used: {why}", str(event))


def _is_null(series: pl.Series) -> np.ndarray:
    return series.is_null().to_numpy() if series.null_count() else np.zeros(len(series), dtype=bool)


def numbered(
    texts: pl.Series, hashed: Callable[[pl.Series, int], pl.Series] = pl.Series.hash
) -> tuple[np.ndarray, pl.Series]:
    """[n] uint32 numbers of n texts, none of them null, and the text of each number, in order of first appearance.

    `hashed` gives 64 bits of each text, others with another seed. Hashes are numbered rather than the texts, which
    takes less than half of the time of Polars' dictionary; second ones tell whether two texts share one, and then
    others are taken.
    """
    for seed in itertools.count(0, 2):
        firsts = _first_alike(*(hashed(texts, one).to_numpy() for one in (seed, seed + 1)))
        if firsts is not None:
            break
    is_first = firsts == np.arange(len(texts))
    numbers = np.cumsum(is_first, dtype=np.uint32) - np.uint32(1)
    return numbers[firsts], texts.gather(np.flatnonzero(is_first))


def _first_alike(hashes: np.ndarray, seconds: np.ndarray) -> np.ndarray | None:
    """[n] int: for each row the first one of the same hash; None if rows of one hash differ in their second one."""
    firsts = np.empty(len(hashes), dtype=np.intp)
    # Those that begin with the same byte at a time: a table of them stays in the processor's caches.
    byte = (hashes >> np.uint64(56)).astype(np.uint8)
    for rows in np.split(np.argsort(byte, kind="stable"), np.cumsum(np.bincount(byte, minlength=256))[:-1]):
        numbers = pd.factorize(hashes[rows])[0]
        highest = np.maximum.accumulate(numbers)
        first = rows[np.flatnonzero(np.append([True][: len(rows)], highest[1:] != highest[:-1]))]
        if not np.array_equal(seconds[first][numbers], seconds[rows]):
            return None
        firsts[rows] = first[numbers]
    return firsts
