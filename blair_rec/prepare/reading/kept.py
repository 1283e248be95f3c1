"""Rows and broken lines of a file; for a long file they are saved in parts, so an interrupted reading resumes."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from blair_rec import __version__
from blair_rec.files.writing import write_text
from blair_rec.prepare.reading import blocks

PART = 16
"""Blocks per part. A block has 16 MiB, so a file under 256 MiB is not saved."""
LAYOUT = 3
"""Version of the saved format; parts of another version are not read."""


class Chunk(NamedTuple):
    """Some rows of a file, in file order."""

    table: pl.DataFrame
    """[rows] the requested columns, as text or as requested numbers; null if a JSON line lacks the field."""
    lines: Sequence[int]
    """[rows] the line of the file on which each row begins; for Parquet the row number, from 1."""


class Broken(NamedTuple):
    """A line that can't be parsed."""

    line: int
    why: str
    text: str


class Part(NamedTuple):
    """The result of some blocks of a file."""

    blocks: int
    outcomes: list[Chunk | Broken]
    end: int
    """Number of the line after this part."""


class Kept:
    """The saved parts of one file in a folder. They are uncompressed: writing takes a tenth of the reading time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.outcomes: list[Chunk | Broken] = []
        self.blocks = 0

    @classmethod
    def of(cls, path: Path, columns: Sequence[str], folder: Path) -> Kept:
        """Return the store for the current version of `path`, these columns and the current block size."""
        stat = path.stat()
        said = [__version__, path.name, stat.st_size, stat.st_mtime_ns, *columns, blocks.BLOCK, PART, LAYOUT]
        return cls(folder / hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16])

    def parts(self) -> Iterator[Part]:
        """Yield the saved parts from the start of the file, up to the first missing or incomplete part."""
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
        """Add the result of the next block, which ends before line `end`; each PART blocks are saved as a part."""
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
        # Written last, because this file makes the part complete.
        write_text(self.folder / f"{self.count}.json", json.dumps(said) + "\n")
        self.count += 1
