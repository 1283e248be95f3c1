"""Approximate a run's rules between items by vectors, and measure how well its best items stay the same."""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from blair_rec.errors import BadRun, ConfigError, counted
from blair_rec.evaluate.runs.run_files import HISTORIES_FILE, Histories, read_arrays
from blair_rec.experiment.loading import Loaded
from blair_rec.serve.export.factored import factored, tables_in, with_factors
from blair_rec.serve.topk import BestItems, HistoryIds, TopK

BEST, CASES, BATCH = 10, 1000, 256
"""Items of a list that are compared, histories at most, and histories that are scored together."""


@dataclass(frozen=True)
class Approximation:
    """A measure of how well vectors of rules reproduce the rules."""

    rank: int
    kept: tuple[float, ...]
    """For each table of rules, the share of its squared norm that the vectors keep."""
    overlap: float | None
    """The mean share of the run's ten best items that are among the ten best by the vectors; None: not measured."""
    histories: int
    """How many histories of the run's test cases were compared."""

    def __str__(self) -> str:
        """Say it in one or two sentences."""
        kept = ", ".join(f"{100 * share:.1f}%" for share in self.kept)
        tables = "the table of rules" if len(self.kept) == 1 else "the tables of rules"
        said = f"scores are approximate: vectors of rank {self.rank} keep {kept} of the squared norm of {tables}"
        if self.overlap is None:
            return (
                f"{said}; the lists were not compared, because the run has no histories that leave more than {BEST} "
                "items"
            )
        return (
            f"{said}; {self.overlap * BEST:.1f} of {BEST} best items are the run's own "
            f"({counted(self.histories, 'history', 'histories')})"
        )


def approximated(run_dir: Path, loaded: Loaded, rank: int) -> tuple[Loaded, Approximation]:
    """Return a run with vectors of this rank instead of its rules, and how well they reproduce the rules.

    Raises:
        ConfigError: the run has no rules between items, or the rank is not a whole number between 1 and the number of
            items.
        BadRun: the run's histories can't be read.
    """
    if isinstance(rank, bool) or not isinstance(rank, numbers.Integral):
        raise ConfigError(f"rules_rank is {rank!r}; give a whole number, such as 512")
    rank = int(rank)
    if not (tables := tables_in(loaded.model)):
        raise ConfigError(
            f"rules_rank is {rank}, but {run_dir} has no rules between items (markov, sequential_rules, text_rules), "
            "so nothing has to be approximated; leave it out"
        )
    made, kept = zip(*(factored(rules, rank) for rules in tables), strict=True)
    found = with_factors(loaded, iter(made))
    overlap, histories = _overlap(run_dir, loaded, found)
    return found, Approximation(rank, tuple(kept), overlap, histories)


def _overlap(run_dir: Path, exact: Loaded, approximate: Loaded) -> tuple[float | None, int]:
    """Return the mean share of best items outside the history that both have in common, and the number of histories."""
    if not (run_dir / HISTORIES_FILE).is_file():
        return None, 0
    arrays = read_arrays(run_dir, HISTORIES_FILE)
    try:
        known = Histories(**{one.name: arrays[one.name] for one in fields(Histories)})
    except (KeyError, ValueError) as error:
        raise BadRun(run_dir, HISTORIES_FILE, f"is damaged: {error}") from error
    lengths, n_items = np.diff(known.offsets), len(exact.item_tokens)
    pairs = np.unique(np.repeat(np.arange(len(lengths)), lengths) * n_items + known.items)
    left = n_items - 1 - np.bincount(pairs // n_items, minlength=len(lengths))
    cases = np.flatnonzero((lengths > 0) & (left > BEST))
    if not len(cases):
        return None, 0
    cases = cases[np.linspace(0, len(cases) - 1, min(CASES, len(cases))).astype(np.int64)]
    parts = [known.items[known.offsets[case] : known.offsets[case + 1]].astype(np.int64) for case in cases]
    histories = HistoryIds(np.concatenate(parts), lengths[cases])
    lists = [
        np.concatenate([some.items for some in _best(loaded, histories, n_items)]) for loaded in (exact, approximate)
    ]
    return overlap(*lists), len(cases)


def _best(loaded: Loaded, histories: HistoryIds, n_items: int) -> Iterator[BestItems]:
    with TopK(loaded.model, loaded.width).ready(n_items) as top:
        for part in histories.split(BATCH):
            yield top.best(part, BEST, exclude_history=True)


def overlap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the mean share of the items of each list that the other one has, too; both [B, k] without repetitions."""
    return float((ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean())
