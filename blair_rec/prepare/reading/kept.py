"""Rows and broken lines of a file; those of a long one are kept in parts, so that an interrupted reading goes on."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from blair_rec import __version__
from blair_rec.files import write_text
from blair_rec.prepare.reading import blocks

PART = 16
"""Blocks that make up a part: of 16 MiB each, so that a file of less than 256 MiB leaves none."""
LAYOUT = 3
"""Of the parts: those of another are not read."""


class Chunk(NamedTuple):
    """Some rows of a file, in its order."""

    table: pl.DataFrame
    """[rows] the columns asked for: text, or numbers where they were asked for; null where a JSON line lacks one."""
    lines: Sequence[int]
    """[rows] the line of the file on which each row begins (of a Parquet file the row, from 1)."""


class Broken(NamedTuple):
    """A line that can't be parsed."""

    line: int
    why: str
    text: str


class Part(NamedTuple):
    """What some blocks of a file gave."""

    blocks: int
    outcomes: list[Chunk | Broken]
    end: int
    """The line behind it."""


class Kept:
    """The parts of one file in a folder, uncompressed: to write them takes a tenth of the time of reading."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.outcomes: list[Chunk | Broken] = []
        self.blocks = 0

    @classmethod
    def of(cls, path: Path, columns: Sequence[str], folder: Path) -> Kept:
        """Those of `path` as it is now, these columns of it, in blocks as they are now; in a folder of their own."""
        stat = path.stat()
        said = [__version__, path.name, stat.st_size, stat.st_mtime_ns, *columns, blocks.BLOCK, PART, LAYOUT]
        return cls(folder / hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16])

    def parts(self) -> Iterator[Part]:
        """Those that are there, from the beginning of the file up to the first that is not there whole."""
        while True:
            try:
                said = json.loads((self.folder / f"{self.count}.json").read_text(encoding="utf-8"))
                outcomes: list[Chunk | Broken] = [Broken(*line) for line in said["broken"]]
                row, table = 0, pl.read_ipc(self.folder / f"{self.count}.arrow") if said["lines"] else pl.DataFrame()
                for lines in itertools.starmap(range, said["lines"]):
                    outcomes.append(Chunk(table.slice(row, len(lines)), lines))
                    row += len(lines)
            except (OSError, ValueError, pl.exceptions.PolarsError):
                return
            self.count += 1
            yield Part(said["blocks"], outcomes, said["end"])

    def add(self, outcomes: list[Chunk | Broken], end: int) -> None:
        """What the next block gave, and the line behind it; every PART of them become a part."""
        self.outcomes += outcomes
        self.blocks += 1
        if self.blocks == PART:
            self._write(end)
            self.outcomes, self.blocks = [], 0

    def _write(self, end: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        chunks = [outcome for outcome in self.outcomes if isinstance(outcome, Chunk)]
        if chunks:
            tables = [chunk.table for chunk in chunks]
            pl.concat(tables, how="vertical_relaxed").write_ipc(self.folder / f"{self.count}.arrow")
        broken = [outcome for outcome in self.outcomes if isinstance(outcome, Broken)]
        said = {
            "blocks": self.blocks,
            "lines": [(lines[0], lines[-1] + 1) for _, lines in chunks],
            "broken": broken,
            "end": end,
        }
        write_text(self.folder / f"{self.count}.json", json.dumps(said) + "\n")  # last: with it the part is there
        self.count += 1
