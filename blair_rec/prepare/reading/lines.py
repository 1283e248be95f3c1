"""Read files with one row per line, block by block; lines that can't be read are rejected with their numbers."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import polars as pl

from blair_rec.lines.rejected import Rejected
from blair_rec.prepare.reading.blocks import Progress, See, blocks_of, count_lines, middle_of
from blair_rec.prepare.reading.kept import Broken, Chunk, Kept

AHEAD = 2
"""Number of blocks parsed ahead while one is processed."""
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""Exceptions that Polars raises if it can't read something."""


class Misfit(ValueError):
    """A block that Polars would read without an error, but wrongly."""


class Parse(Protocol):
    """Parser for one kind of file."""

    def __call__(self, block: bytes) -> pl.DataFrame:
        """Parse whole lines into one row each; raises Misfit or Polars' exceptions if it can't."""

    def why(self, line: bytes) -> str:
        """Return what is wrong with a line that can't be parsed; "" if unknown."""


class Separated:
    """Parser for whole lines of cells without quoting."""

    def __init__(self, known: Sequence[str], columns: Sequence[str], separator: str) -> None:
        self.separator, self.width = separator.encode(), len(known)
        # By position, because a header may repeat the name of a column that is not requested.
        self.place = {column: f"c{list(known).index(column)}" for column in columns}

    def __call__(self, block: bytes) -> pl.DataFrame:
        # Polars fills short lines with nulls and only reports long ones, so cells are counted here.
        if block.count(self.separator) != (self.width - 1) * count_lines(block):
            raise Misfit("wrong number of columns")
        table = pl.read_csv(
            block,
            has_header=False,
            separator=self.separator.decode(),
            quote_char=None,
            empty_string_is_null=False,
            schema={f"c{number}": pl.String for number in range(self.width)},
        )
        return table.select(pl.col(place).alias(name) for name, place in self.place.items())

    def why(self, line: bytes) -> str:
        width = line.count(self.separator) + 1
        return wrong_width(width, self.width) if width != self.width else not_unicode(line)


def wrong_width(width: int, right: int) -> str:
    """Return what is wrong with a row of `width` columns."""
    return f"{width} column{'s' * (width != 1)} instead of {right}"


def not_unicode(line: bytes) -> str:
    """Return which byte is not UTF-8; "" if all are."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {line[error.start]:#04x})"
    return ""


def read_lines(
    path: Path,
    parse: Parse,
    rejected: Rejected,
    progress: Progress | None,
    see: See | None = None,
    skip: bool = False,
    kept: Kept | None = None,
) -> Iterator[Chunk]:
    """Yield chunks of a file with one row per line, saved ones first; with `skip`, the first line is a header.

    Raises:
        SourceError: the file can't be read.
        RejectedLines: more lines than the limit allows can't be parsed.
    """
    blocks = blocks_of(path, progress, see)
    if skip:
        blocks = _without_header(blocks)
    number = 1 + skip
    for part in kept.parts() if kept is not None else ():
        deque(itertools.islice(blocks, part.blocks), maxlen=0)  # read, but not parsed again
        yield from _sorted_out(path, part.outcomes, part.end - number, rejected)
        number = part.end
    for block, count, parsed in _parsed(parse, blocks):
        salvaged = _salvage(parse, block, number, count, parsed)
        outcomes = yield from _sorted_out(path, salvaged, count, rejected)
        number += count
        if kept is not None:
            kept.add(outcomes, number)


def _sorted_out(
    path: Path, outcomes: Iterable[Chunk | Broken], count: int, rejected: Rejected
) -> Generator[Chunk, None, list[Chunk | Broken]]:
    """Yield the chunks of `count` lines, send broken lines to `rejected`, and return both."""
    rejected.lines += count
    done: list[Chunk | Broken] = []
    for outcome in outcomes:
        done.append(outcome)
        if isinstance(outcome, Broken):
            rejected.add(path, *outcome)
        else:
            yield outcome
    # Empty lines are not counted.
    rejected.lines -= count - sum(1 if isinstance(one, Broken) else len(one.lines) for one in done)
    return done


def _without_header(blocks: Iterator[bytes]) -> Iterator[bytes]:
    first = next(blocks, b"")
    yield first[first.find(b"\n") + 1 or len(first) :]
    yield from blocks


def _parsed(parse: Parse, blocks: Iterator[bytes]) -> Iterator[tuple[bytes, int, pl.DataFrame | str]]:
    """Yield each block, its number of lines, and its rows or the error; the next blocks are parsed meanwhile."""

    def parsed(block: bytes) -> tuple[bytes, int, pl.DataFrame | str]:
        count = count_lines(block)
        return block, count, _try(parse, block, count)

    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[Future[tuple[bytes, int, pl.DataFrame | str]]] = deque()
        for block in blocks:
            waiting.append(pool.submit(parsed, block))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        for task in waiting:
            yield task.result()


def _try(parse: Parse, block: bytes, count: int) -> pl.DataFrame | str:
    try:
        table = parse(block)
    except (*UNREADABLE, Misfit) as error:
        return first_line(error)
    return table if table.height == count else "no row"


def _salvage(
    parse: Parse, block: bytes, number: int, count: int, parsed: pl.DataFrame | str
) -> Iterator[Chunk | Broken]:
    """Yield the rows of a block; if it can't be parsed, halve it until only the broken lines are left."""
    if isinstance(parsed, pl.DataFrame):
        if count:
            yield Chunk(parsed, range(number, number + count))
    elif count > 1:
        cut = middle_of(block)
        first, second = block[:cut], block[cut:]
        lines = count_lines(first)
        yield from _salvage(parse, first, number, lines, _try(parse, first, lines))
        number, lines = number + lines, count - lines
        yield from _salvage(parse, second, number, lines, _try(parse, second, lines))
    elif block.strip():
        why = parse.why(block) or parsed
        cut_off = "" if block.endswith(b"\n") else "; the file ends here without a line end and may be cut off"
        yield Broken(number, why + cut_off, block.decode("utf-8", "backslashreplace").rstrip("\r\n"))


def first_line(error: BaseException) -> str:
    """Return the first line of an error message."""
    return str(error).partition("\n")[0] or type(error).__name__
