"""The result of an audit, as plain values: what audit.json holds, and what the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blair_rec.evaluate.significance import Interval
from blair_rec.experiment.audit.checks import Checks
from blair_rec.experiment.audit.facts import DataFacts, TextFacts
from blair_rec.experiment.audit.text_gain import Neighbours, Reach
from blair_rec.experiment.splits.leakage import Leaks

SCHEMA = 1


@dataclass(frozen=True)
class Mean:
    """A metric over test cases."""

    mean: float
    ci95: Interval | None
    """95% bootstrap interval over users; None with too few users."""


@dataclass(frozen=True)
class SliceMean:
    """The first metric on one slice of the test cases."""

    label: str
    cases: int
    mean: float | None
    """None without cases."""
    ci95: Interval | None


@dataclass(frozen=True)
class ScorerRow:
    """The figures of one scorer, or of the average."""

    name: str
    uses_text: bool
    metrics: Mapping[str, Mapping[str, Mean]]
    """By protocol, then by metric."""
    slices: Mapping[str, SliceMean]
    """By name, under the protocol of the audit."""


@dataclass(frozen=True)
class Shuffled:
    """The best scorer that reads text alone, and the same one with texts randomly reassigned to items."""

    scorer: str
    own: float
    shuffled: float
    ci95: Interval | None
    """95% interval of shuffled / own - 1 over users."""


@dataclass(frozen=True)
class TextGain:
    """How much text could add."""

    vectors: str
    """Where the vectors come from."""
    neighbours: Neighbours
    reach: Reach | None
    """None without a scorer of each kind."""
    shuffled: Shuffled | None


@dataclass(frozen=True)
class AuditFinding:
    """One sentence on the data that says what follows from it."""

    topic: str
    """data, floor, basis or text."""
    text: str


@dataclass(frozen=True)
class AuditReport:
    """Everything that an audit found."""

    dataset: str
    source: str
    """How the data is split: leave-one-out, cut-off times or benchmark files."""
    ties: str
    protocol: str
    metrics: tuple[str, ...]
    cases: int
    """Test cases that the main figures are measured on."""
    tests: int
    """All test cases."""
    data: DataFacts
    texts: TextFacts | None
    leaks: Leaks
    in_history: float
    """Share of the ranked test targets that are in their user's history."""
    chance: float
    """The first metric of a random order of all items."""
    rows: tuple[ScorerRow, ...]
    """The best under the protocol first."""
    weights: Mapping[str, float] | None
    """Weights of the average; None without one."""
    left_out: Mapping[str, str]
    """By scorer: why it was not measured."""
    checks: Checks
    text: TextGain | None
    findings: tuple[AuditFinding, ...]
    seconds: float
    version: str
    schema: int = SCHEMA
