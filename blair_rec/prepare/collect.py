"""Collect rows of files into a log of events: number users and items, and reject what can't be used."""

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

from blair_rec.errors import SourceError, counted
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
"""Number of rows used to find the time format."""
AT_ONCE = 1 << 20
"""Number of rows that are joined into one piece of memory."""


def collect(
    chunks: Iterable[tuple[Path, Chunk]],
    columns: Sequence[str],
    rejected: Rejected,
    time_format: str | None = None,
    log_name: object = "the log",
) -> tuple[RawLog, str]:
    """Return all events of some files, in file order, and the format of their times.

    `columns` names the user, item, time and optional rating. Events without a usable user, item, time or rating go to
    `rejected`. So do events whose time is in another unit than most. If no format is given, it is found in the first
    rows; later rows may use a similar format. `log_name` names the log in errors.

    Raises:
        SourceError: there is no event, or the time format is unknown.
        RejectedLines: more lines than the limit allows can't be used.
    """
    stream = iter(chunks)
    first = _first_rows(stream)
    if not first and not rejected.lines:
        raise SourceError(f"{log_name} has no event after its first line; write one event per line")
    read = read_times if time_format is not None else read_widely
    if time_format is None and first:
        sample = pl.concat([chunk.table[columns[2]] for _, chunk in first])
        time_format = find_format(sample.head(SAMPLE), f"{first[0][0]}, column {columns[2]!r}")
    events = _Events(columns, WHOLE if time_format is None else time_format, rejected, read)
    for source, chunk in itertools.chain(first, stream):
        events.add(source, chunk)
    return events.log(), events.time_format


def _first_rows(stream: Iterator[tuple[Path, Chunk]]) -> list[tuple[Path, Chunk]]:
    """Return enough chunks for a sample; broken lines can make the first chunks short."""
    first, rows = [], 0
    for source, chunk in stream:
        first.append((source, chunk))
        rows += len(chunk.lines)
        if rows >= SAMPLE:
            break
    return first


class _Events:
    """Events read so far: names as texts, times and ratings as numbers."""

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
        """For every chunk: its file, and the line numbers of its rows."""

    def add(self, source: Path, chunk: Chunk) -> None:
        """Add the next rows; reject those without a user, an item, a usable time or a usable rating."""
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
        """Change all times to decimals, because a number with a fraction came after whole numbers."""
        self.time_format = NUMBER
        as_digits = pl.col(self.columns[2]).cast(DIGITS)
        self.tables, self.latest = (
            [one.with_columns(as_digits) for one in some] for some in (self.tables, self.latest)
        )

    def _put_together(self) -> None:
        """Join the latest tables; the many small pieces that Polars reads into take much more memory."""
        self.tables.append(pl.concat(self.latest, rechunk=True))
        self.latest = []

    def log(self) -> RawLog:
        """Return all events with numbered users and items; reject those with an unusable name.

        Raises:
            SourceError: no event is left.
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
                f"none of the {counted(self.rejected.lines, 'line')} has a usable event ({self.rejected.examples})"
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
        """Reject one event, with the first of its wrong columns as the reason."""
        name = next(name for name, wrong in wrongs.items() if wrong[row])
        event = {column: float(cell) if isinstance(cell, Decimal) else cell for column, cell in event.items()}
        value, why = event[name], "it is not a finite number"
        if name in self.columns[:2]:
            why = why_unusable(value)
        elif name == self.columns[2]:
            why = other.why(value) if other is not None else why_not(value, self.time_format)
        at = event[self.columns[2]]
        if isinstance(at, int) and self.time_format not in (WHOLE, NANOSECONDS, NUMBER):
            event[self.columns[2]] = str(np.datetime64(at, "ns"))  # a reader looks for the date of the file
        self.rejected.add(source, line, f"{name} {value!r} can't be used: {why}", str(event), f"{name}: {why}")


def _is_null(series: pl.Series) -> np.ndarray:
    return series.is_null().to_numpy() if series.null_count() else np.zeros(len(series), dtype=bool)


def numbered(
    texts: pl.Series, hashed: Callable[[pl.Series, int], pl.Series] = pl.Series.hash
) -> tuple[np.ndarray, pl.Series]:
    """Number n texts by first appearance, none of them null: [n] uint32 numbers, and the text of each number.

    `hashed` returns 64 bits per text for a seed. Numbering hashes instead of texts takes less than half the time of
    Polars' dictionary. A second hash detects two texts that share their first hash; then other seeds are tried.
    """
    for seed in itertools.count(0, 2):
        firsts = _first_with_same_hash(*(hashed(texts, one).to_numpy() for one in (seed, seed + 1)))
        if firsts is not None:
            break
    is_first = firsts == np.arange(len(texts))
    numbers = np.cumsum(is_first, dtype=np.uint32) - np.uint32(1)
    return numbers[firsts], texts.gather(np.flatnonzero(is_first))


def _first_with_same_hash(hashes: np.ndarray, seconds: np.ndarray) -> np.ndarray | None:
    """Return [n] int, the first row with the same hash; None if rows with the same hash differ in the second hash."""
    firsts = np.empty(len(hashes), dtype=np.intp)
    # Hashes are processed by their first byte, so that the table of each part fits in the processor's caches.
    byte = (hashes >> np.uint64(56)).astype(np.uint8)
    for rows in np.split(np.argsort(byte, kind="stable"), np.cumsum(np.bincount(byte, minlength=256))[:-1]):
        numbers = pd.factorize(hashes[rows])[0]
        highest = np.maximum.accumulate(numbers)
        first = rows[np.flatnonzero(np.append([True][: len(rows)], highest[1:] != highest[:-1]))]
        if not np.array_equal(seconds[first][numbers], seconds[rows]):
            return None
        firsts[rows] = first[numbers]
    return firsts
