"""Lines that can't be used, kept apart with their numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from blair_rec.errors import RejectedLines


@dataclass
class Rejected:
    """Lines that can't be used: counted, written to a file, and too many of them are an error."""

    path: Path
    """JSON lines with file, line, why and text; there is no file if nothing was rejected."""
    limit: float = 0.01
    """The share of the lines read that may be rejected."""
    count: int = 0
    lines: int = 0
    """Read so far, the rejected ones included."""
    first: list[str] = field(default_factory=list)
    """What to show of them."""

    def add(self, source: Path, line: int, why: str, text: str) -> None:
        """Keep one line apart.

        Raises:
            RejectedLines: there are too many for the file to be what it was taken for.
        """
        self.count += 1
        if len(self.first) < 3:
            self.first.append(f"{source.name}, line {line}: {why}")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"file": source.name, "line": int(line), "why": why, "text": text[:2000]}) + "\n")
        if self.count > 1000:  # a small file is judged when it has been read
            self.check()

    def check(self) -> None:
        """
        Raises:
            RejectedLines: more than the limit allows of what was read.
        """
        if self.count > self.limit * max(self.lines, self.count):
            raise RejectedLines(self.count, self.lines, self.limit, self.first)
