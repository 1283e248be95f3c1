"""CSV files with quoted cells, which may hold separators and line breaks, and quotation marks that open by mistake.

A stray quotation mark at the beginning of a cell makes all lines up to the next one a single cell, and what comes out
may still be a row of the right width. So a row of several lines is looked at again: if most of the lines behind its
first one are rows of their own, as the rows around them are, the first line is rejected and the others are read.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path

import polars as pl

from blair_rec.lines.rejected import Rejected
from blair_rec.lines.swallowed import cells_alone
from blair_rec.prepare.reading.blocks import LONGEST_LINE, Progress, blocks_of, is_unicode, texts_in
from blair_rec.prepare.reading.kept import Chunk
from blair_rec.prepare.reading.lines import wrong_width

NEAR = 200
"""Rows that show what a row of this file looks like."""
JUDGED = 1000
"""Lines of a row that are looked at."""
TRAITS: tuple[Callable[[str], bool], ...] = (
    lambda cell: cell != "",
    lambda cell: cell == cell.strip(),  # a comma in running text has a blank behind it
    lambda cell: len(cell.split()) < 2,
)
"""What the cells of a column may have in common: none is empty, none has a blank at an end, none has several words."""

_limit = threading.Lock()


@contextlib.contextmanager
def cells_of_any_length() -> Iterator[None]:
    """Python's csv module refuses cells of more than 131,072 characters, by a setting that all its readers share.

    The setting is changed for the time of a block and put back; nothing may be yielded to a caller inside.
    """
    with _limit:
        before = csv.field_size_limit(1 << 30)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def read_quoted(
    path: Path, known: Sequence[str], columns: Sequence[str], rejected: Rejected, progress: Progress | None, skip: bool
) -> Iterator[Chunk]:
    """Chunks of a CSV file; `known` are all its columns, and with `skip` the first line names them.

    Of a rejected row each of its lines is rejected, and counts.

    Raises:
        SourceError: the file can't be read.
        RejectedLines: more lines than the limit allows can't be parsed.
    """
    places = [list(known).index(column) for column in columns]
    reading = _Rows(path, len(known), places, rejected, skip)
    for block in itertools.chain(blocks_of(path, progress), [None]):
        rows, lines = reading.read(block)
        if not rows:
            continue
        cells = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
        yield Chunk(pl.DataFrame(cells, schema=dict.fromkeys(columns, pl.String)), lines)


class _Rows:
    """The rows of a file, block by block; a row that goes on in the next block waits for it."""

    def __init__(self, path: Path, width: int, places: Sequence[int], rejected: Rejected, skip: bool) -> None:
        self.path, self.width, self.rejected, self.skip = path, width, rejected, skip
        first = places[0]
        self.chosen: Callable[[list[str]], Sequence[str]] = (
            itemgetter(*places) if len(places) > 1 else lambda row: (row[first],)
        )
        self.lines: list[str] = []
        """Those of the block, behind those of the row that began before it."""
        self.number = 1
        """Of the first of them in the file."""
        self.unicode = True
        self.near: deque[list[str]] = deque(maxlen=NEAR)
        """All cells of the latest rows."""
        self.rows: list[Sequence[str]] = []
        self.begins: list[int] = []

    def read(self, block: bytes | None) -> tuple[list[Sequence[str]], list[int]]:
        """The chosen cells of the rows that are complete now, and the line on which each begins; None is the end."""
        self.rows, self.begins = [], []
        try:
            self.lines += list(texts_in(block or b"", "strict"))
        except UnicodeDecodeError:
            self.unicode = False  # from here on each row is looked at
            self.lines += texts_in(block or b"")
        begin = int(self.skip and bool(self.lines))
        self.skip = self.skip and not begin
        with cells_of_any_length():
            if not self.near:
                with contextlib.suppress(csv.Error):
                    self.near.extend(csv.reader(self.lines[begin : begin + NEAR]))
            end = self._parse(begin, block is None)
        self.lines, self.number = self.lines[end:], self.number + end
        return self.rows, self.begins

    def _parse(self, at: int, is_end: bool) -> int:
        """Parse from this line on; returns the line with which to go on when the next block is there."""
        lines, rows, begins = self.lines, self.rows, self.begins
        width, chosen, near = self.width, self.chosen, self.near
        while at < len(lines):
            # One reader for as long as all goes well.
            reader, begin = csv.reader(map(lines.__getitem__, range(at, len(lines))), strict=True), at
            try:
                for row in reader:
                    end = begin + reader.line_num
                    if row:  # an empty line is nothing, neither good nor bad
                        why = wrong_width(len(row), width) if len(row) != width else ""
                        if not self.unicode and not all(map(is_unicode, row)):
                            why = why or "not UTF-8"
                        if end - at > 1 and self._takes_in_rows(
                            at, end, f"closes in line {self.number + end - 1}", row
                        ):
                            at += 1
                            break
                        if why:
                            self._reject(at, end, why)
                        else:
                            near.append(row)
                            rows.append(chosen(row))
                            begins.append(self.number + at)
                            self.rejected.lines += end - at
                    at = end
            except csv.Error as error:
                end = begin + reader.line_num
                # A row may go on in the next block; none is as long as a file.
                if end == len(lines) and not is_end and sum(map(len, lines[at:])) <= LONGEST_LINE:
                    return at
                never = end == len(lines) and "end of data" in str(error)
                how = "is never closed" if never else f"ends in line {self.number + end - 1} ({error})"
                if self._takes_in_rows(at, end, how):
                    at += 1
                    continue
                why = "the cell that a quotation mark opens is never closed" if never else str(error)
                self._reject(at, end, "a carriage return inside the line" if "\r" in lines[at].rstrip("\r\n") else why)
                at = end
        return at

    def _takes_in_rows(self, at: int, end: int, how: str, row: Sequence[str] = ()) -> bool:
        """Whether most lines behind the first one of a row are rows of their own; if so, the first one is rejected.

        Of a `row` whose cells all close, the last line says nothing where the first one is no row of its own: in
        `"first\\nsecond",meta` each line behind the first begins inside a cell, and the last one holds its end.
        """
        if row and not _has_width(self.lines[at], self.width):
            taken = self.lines[at + 1 : min(end - 1, at + 1 + JUDGED)]
        else:
            taken = self.lines[at + 1 : min(end, at + 1 + JUDGED)]
        alone = (cells_alone(line) for line in taken if line.count(",") >= self.width - 1)
        wide = [cells for cells in alone if len(cells) == self.width]
        if 2 * len(wide) <= len(taken):
            return False
        near = [row for row in self.near if len(row) == self.width]
        common = [[trait for trait in TRAITS if all(map(trait, column))] for column in zip(*near, strict=True)]
        alike = [
            all(trait(cell) for cell, traits in zip(cells, common, strict=False) for trait in traits) for cells in wide
        ]
        if 2 * sum(alike) <= len(taken):
            return False
        rows = (
            f"the {end - at - 1:,} lines behind it look like rows of their own"
            if end - at > 2
            else "the line behind it looks like a row of its own"
        )
        why = f"a quotation mark opens a cell here that {how}; {rows} and will be read"
        self.rejected.lines += 1
        self.rejected.add(self.path, self.number + at, why, self._text(at))
        return True

    def _reject(self, at: int, end: int, why: str) -> None:
        """All lines of a row."""
        self.rejected.lines += end - at
        for place in range(at, end):
            said = f"belongs to the row of line {self.number + at}, which is broken" if place > at else why
            self.rejected.add(self.path, self.number + place, said, self._text(place))

    def _text(self, place: int) -> str:
        line = self.lines[place].rstrip("\r\n")
        return line.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _has_width(line: str, width: int) -> bool:
    """Whether a line has so many cells where the quotation mark that it leaves open is a character."""
    *closed, last = cells_alone(line) or [""]
    return len(closed) + last.count(",") + 1 == width
