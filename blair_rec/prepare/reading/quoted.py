"""Read CSV files with quoted cells, which may contain separators, line breaks and stray quotation marks.

A stray quotation mark at the start of a cell joins all lines up to the next mark into one cell, and the result may
still have the right number of columns. So a row of several lines is checked again: if most lines after the first one
look like rows of this file, only the first line is rejected and the others are read as rows.
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
"""Number of recent rows that show what a row of this file looks like."""
JUDGED = 1000
"""Maximum number of lines of a row that are checked."""
TRAITS: tuple[Callable[[str], bool], ...] = (
    lambda cell: cell != "",
    lambda cell: cell == cell.strip(),  # in running text a space follows a comma
    lambda cell: len(cell.split()) < 2,
)
"""Properties that all cells of a column may share: not empty, no space at either end, only one word."""

_limit = threading.Lock()


@contextlib.contextmanager
def cells_of_any_length() -> Iterator[None]:
    """Allow cells of any length in Python's csv module, which by default refuses more than 131,072 characters.

    All csv readers share this setting, so it is restored after the block. Don't yield to a caller inside the block.
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
    """Yield chunks of a CSV file; `known` are all its columns, and with `skip` the first line is a header.

    If a row is rejected, each of its lines is rejected and counted.

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
    """Parser for the rows of a file, block by block; a row that continues in the next block waits for it."""

    def __init__(self, path: Path, width: int, places: Sequence[int], rejected: Rejected, skip: bool) -> None:
        self.path, self.width, self.rejected, self.skip = path, width, rejected, skip
        first = places[0]
        self.chosen: Callable[[list[str]], Sequence[str]] = (
            itemgetter(*places) if len(places) > 1 else lambda row: (row[first],)
        )
        self.lines: list[str] = []
        """Lines of an unfinished row from earlier blocks, then the lines of this block."""
        self.number = 1
        """Line number of the first of these lines."""
        self.unicode = True
        self.near: deque[list[str]] = deque(maxlen=NEAR)
        """The latest rows, with all their cells."""
        self.rows: list[Sequence[str]] = []
        self.begins: list[int] = []

    def read(self, block: bytes | None) -> tuple[list[Sequence[str]], list[int]]:
        """Return the chosen cells of all rows completed by this block, and their first lines; None ends the file."""
        self.rows, self.begins = [], []
        try:
            self.lines += list(texts_in(block or b"", "strict"))
        except UnicodeDecodeError:
            self.unicode = False  # from here on each row is checked
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
        """Parse from this line on; return the line at which to continue with the next block."""
        lines, rows, begins = self.lines, self.rows, self.begins
        width, chosen, near = self.width, self.chosen, self.near
        while at < len(lines):
            # One reader is used until an error occurs.
            reader, begin = csv.reader(map(lines.__getitem__, range(at, len(lines))), strict=True), at
            try:
                for row in reader:
                    end = begin + reader.line_num
                    if row:  # empty lines are not counted
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
                # The row may continue in the next block, but no row may be longer than LONGEST_LINE.
                if end == len(lines) and not is_end and sum(map(len, lines[at:])) <= LONGEST_LINE:
                    return at
                never = end == len(lines) and "end of data" in str(error)
                how = "is never closed" if never else f"ends in line {self.number + end - 1} ({error})"
                if self._takes_in_rows(at, end, how):
                    at += 1
                    continue
                why = "a quoted cell is never closed" if never else str(error)
                self._reject(at, end, "a carriage return inside the line" if "\r" in lines[at].rstrip("\r\n") else why)
                at = end
        return at

    def _takes_in_rows(self, at: int, end: int, how: str, row: Sequence[str] = ()) -> bool:
        """Return whether most lines after the first of a row look like rows; if so, reject the first line.

        The last line of a complete `row` is ignored if the first line alone doesn't have the right width: in
        `"first\\nsecond",meta` each later line starts inside a cell, and the last line contains the end of that cell.
        """
        last = end - 1 if row and not _has_width(self.lines[at], self.width) else end
        taken = self.lines[at + 1 : min(last, at + 1 + JUDGED)]
        alone = (cells_alone(line) for line in taken if line.count(",") >= self.width - 1)
        wide = [cells for cells in alone if len(cells) == self.width]
        if 2 * len(wide) <= len(taken):
            return False
        near = [row for row in self.near if len(row) == self.width]
        common = [[trait for trait in TRAITS if all(map(trait, column))] for column in zip(*near, strict=True)]
        similar = [
            all(trait(cell) for cell, traits in zip(cells, common, strict=False) for trait in traits) for cells in wide
        ]
        if 2 * sum(similar) <= len(taken):
            return False
        rows = (
            f"the {end - at - 1:,} lines after it look like rows"
            if end - at > 2
            else "the line after it looks like a row"
        )
        why = f"a quotation mark opens a cell here that {how}; {rows} and will be read"
        self.rejected.lines += 1
        self.rejected.add(self.path, self.number + at, why, self._text(at))
        return True

    def _reject(self, at: int, end: int, why: str) -> None:
        """Reject all lines of a row."""
        self.rejected.lines += end - at
        for place in range(at, end):
            said = f"belongs to the broken row that begins in line {self.number + at}" if place > at else why
            self.rejected.add(self.path, self.number + place, said, self._text(place))

    def _text(self, place: int) -> str:
        line = self.lines[place].rstrip("\r\n")
        return line.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _has_width(line: str, width: int) -> bool:
    """Return whether a line has `width` cells if its unclosed quotation mark is read as an ordinary character."""
    *closed, last = cells_alone(line) or [""]
    return len(closed) + last.count(",") + 1 == width
