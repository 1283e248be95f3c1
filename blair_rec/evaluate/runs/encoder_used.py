"""The text encoder of a run, as its result.json names it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EncoderUsed:
    """The text encoder of a run."""

    name: str
    """The encoder that made the vectors; for a folder the last part of its path."""
    asked_for: str
    """The encoder that the configuration names. It differs from `name` for a folder, or if the fallback was used."""
    revision: str | None
    pooling: str | None
    max_length: int | None
    """In tokens."""
    fallback: bool | None = None
    """Whether the fallback was used. Older files don't say it; there it was, unless `name` is the folder's."""

    @property
    def fallback_for(self) -> str:
        """The encoder that could not be used; empty if no fallback was used."""
        used = self.fallback
        if used is None:
            used = self.name not in (self.asked_for, Path(self.asked_for).name)
        return self.asked_for if used else ""

    def __str__(self) -> str:
        if self.fallback_for:
            return f"{self.name} (asked for: {self.asked_for})"
        return self.name if self.name == self.asked_for else f"{self.name} (folder {self.asked_for})"
