"""Lines that can't be used, kept apart with their numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from blair_rec.errors import RejectedLines
from blair_rec.files import write_text

REJECTED = "rejected.jsonl"


@dataclass
class Rejected:
    """Lines that can't be used: counted, kept for a file, and too many of them are an error."""

    path: Path | None = None
    """JSON lines with file, line, why and text; there is no file if nothing was rejected. None: `write` makes it."""
    limit: float = 0.01
    """The share of the lines read that may be rejected."""
    cure: str = "mend the file, or raise the limit with --max-rejected"
    """What the error advises."""
    patience: int = 1000
    """So many are kept apart before the end of a file; more are an error at once if the limit is passed by then."""
    count: int = 0
    lines: int = 0
    """Read so far, the rejected ones included."""
    first: list[str] = field(default_factory=list)
    """What to show of them."""
    kept: list[str] = field(default_factory=list)
    """Lines of the file that `write` makes."""

    def add(self, source: Path, line: int, why: str, text: str) -> None:
        """Keep one line apart.

        Raises:
            RejectedLines: there are too many for the file to be what it was taken for.
        """
        self.count += 1
        if len(self.first) < 3:
            self.first.append(f"{source.name}, line {line}: {why}")
        row = json.dumps({"file": source.name, "line": int(line), "why": why, "text": text[:2000]}) + "\n"
        if self.path is None:
            self.kept.append(row)
        else:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(row)
        if self.count > self.patience:  # a small file is judged when it has been read
            self.check(so_far=True)

    def check(self, so_far: bool = False) -> None:
        """`so_far`: before the end of the file.

        Raises:
            RejectedLines: more than the limit allows of what was read.
        """
        if self.count > self.limit * max(self.lines, self.count):
            raise RejectedLines(self.count, self.lines, self.limit, self.first, self.cure, so_far)

    def note(self, what: str) -> str:
        """One sentence for a reader of results; `what` the lines hold."""
        return (
            f"{self.count:,} of {self.lines:,} lines of {what} can't be used and are left out (first: {self.first[0]})"
        )

    def write(self, path: Path) -> None:
        """The lines that no `path` took, as a whole file; without any, an older file goes."""
        if self.kept:
            write_text(path, "".join(self.kept))
        else:
            path.unlink(missing_ok=True)
