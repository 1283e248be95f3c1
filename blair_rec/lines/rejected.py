"""Collect lines that can't be used, with their line numbers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from blair_rec.errors import RejectedLines, agreed, counted
from blair_rec.files.writing import write_text

REJECTED = "rejected.jsonl"
SHOWN = 3
"""How many lines, or how many reasons, a message shows."""
_VALUE = re.compile(r"'[^']*'|\d+")


@dataclass
class Kind:
    """Rejected lines with the same reason."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    """The first few, as shown in messages."""


@dataclass
class Rejected:
    """Lines that can't be used: counted and kept for a file. Too many of them are an error."""

    path: Path | None = None
    """File of JSON lines with file, line, why and text; not created if nothing is rejected. None: use `write`."""
    limit: float = 0.01
    """The share of all lines read that may be rejected."""
    cure: str = "correct the file, or raise the limit with --max-rejected"
    """The advice in the error."""
    patience: int = 1000
    """Beyond this many rejected lines, the limit is checked immediately, not only at the end of the file."""
    count: int = 0
    lines: int = 0
    """Lines read so far, rejected ones included."""
    kinds: dict[str, Kind] = field(default_factory=dict)
    """The reasons so far, without the values of single lines."""
    kept: list[str] = field(default_factory=list)
    """Lines of the file that `write` creates."""

    @property
    def examples(self) -> str:
        """The first lines if all have one reason; otherwise the first line of each frequent reason, with its count."""
        kinds = sorted(self.kinds.values(), key=lambda kind: -kind.count)
        if len(kinds) == 1:
            return f"first: {'; '.join(kinds[0].first)}"
        shown = [f"{kind.count:,} such as " * (kind.count > 1) + kind.first[0] for kind in kinds[:SHOWN]]
        if len(kinds) > SHOWN:
            shown.append(f"{sum(kind.count for kind in kinds[SHOWN:]):,} for other reasons")
        return "; ".join(shown)

    def add(self, source: Path, line: int, why: str, text: str, kind: str | None = None) -> None:
        """Record one rejected line; `kind` is `why` without the values of this line, if it has any.

        Raises:
            RejectedLines: more than `patience` lines, and more than the limit allows, were rejected.
        """
        self.count += 1
        same = self.kinds.setdefault(kind or _VALUE.sub("", why), Kind())
        same.count += 1
        if len(same.first) < SHOWN:
            same.first.append(f"{source.name}, line {line}: {why}")
        row = json.dumps({"file": source.name, "line": int(line), "why": why, "text": text[:2000]}) + "\n"
        if self.path is None:
            self.kept.append(row)
        else:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(row)
        if self.count > self.patience:  # a small file is checked when it has been read
            self.check(so_far=True)

    def check(self, so_far: bool = False) -> None:
        """Check the limit; `so_far` says that the file is not read to its end.

        Raises:
            RejectedLines: more of the lines read were rejected than the limit allows.
        """
        if self.count > self.limit * max(self.lines, self.count):
            raise RejectedLines(self.count, self.lines, self.limit, self.examples, self.cure, so_far)

    def note(self, what: str) -> str:
        """Return one sentence for readers of the results; `what` names the content of the lines, such as events."""
        return (
            f"{self.count:,} of {counted(self.lines, 'line')} of {what} can't be used and "
            f"{agreed(self.count, 'were')} skipped ({self.examples})"
        )

    def summary(self, dry: bool = False) -> str:
        """Return one sentence for whoever prepares data; `dry`: nothing is written."""
        where = f"{REJECTED} will list them" if dry else f"they are in {REJECTED}"
        return f"lines that can't be used: {self.count:,} ({self.examples}); {where}"

    def write(self, path: Path) -> None:
        """Write the kept lines to `path`; if there are none, remove an older file."""
        if self.kept:
            write_text(path, "".join(self.kept))
        else:
            path.unlink(missing_ok=True)
