"""Measure how well the variants of finished runs rank new items: among all items, and among the new ones alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blair_rec.config.names import ProtocolName
from blair_rec.errors import UnpairedRuns, counted
from blair_rec.evaluate.metrics import per_user
from blair_rec.evaluate.runs.results import RunResult, run_name
from blair_rec.evaluate.runs.run_files import PROTOCOLS

NEW_METRICS = ("NDCG@10", "Recall@10")
CANNOT = "can't score new items"
AMONG_ALL, AMONG_NEW = "new_items", "new_items_among_new"
"""Names of the two rankings in results.jsonl and leaderboard.csv, next to the slices."""


@dataclass(frozen=True)
class SeedMean:
    """One metric of one variant on new items."""

    mean: float
    """The mean over seeds of the mean over test cases."""
    std: float | None
    """The standard deviation over seeds, with divisor n - 1; None for a single seed."""
    per_seed: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.std is None else f"{self.mean:.4f} ± {self.std:.4f}"


@dataclass(frozen=True)
class NewItemsRow:
    """One variant on new items."""

    why: str | None
    """Why it can't score new items; None if it can. Only then there are values."""
    seeds: tuple[int, ...]
    among_all: Mapping[ProtocolName, Mapping[str, SeedMean]]
    """By protocol and metric: the target ranked among known and new items."""
    among_new: Mapping[str, SeedMean]
    """By metric: the target ranked among the new items alone. No history holds one, so both protocols are the same."""


@dataclass(frozen=True)
class NewItemsTable:
    """How the variants of a leaderboard rank new items."""

    items: int
    """New items, hidden from training and selection."""
    known: int
    """All other items, padding not counted."""
    users: int
    cases: int
    """Test cases whose target is a new item."""
    left_out: int
    """Test cases without a known item before the target, which were skipped."""
    by_chance: Mapping[str, float]
    """By metric: its value for a random order of the new items."""
    rows: Mapping[str, NewItemsRow]
    """By variant; without runs that measured no new items."""


def new_items_table(variants: Mapping[str, Sequence[RunResult]]) -> NewItemsTable | None:
    """The table over all variants that measured new items; None where none did, or no test case has one as target.

    Args:
        variants: the runs of each variant, in the order of their seeds.

    Raises:
        UnpairedRuns: the new items or test cases of two runs differ. BadRun: a damaged file.
    """
    measured = [run for runs in variants.values() for run in runs if run.new_items is not None]
    if not measured:
        return None
    first = measured[0].new_items
    assert first is not None
    for run in measured[1:]:
        assert run.new_items is not None
        if differing := [
            name
            for name in ("known", "tokens", "user", "item")
            if not np.array_equal(getattr(first, name), getattr(run.new_items, name))
        ]:
            names = run_name(measured[0].variant, measured[0].seed), run_name(run.variant, run.seed)
            raise UnpairedRuns(*names, f"their new items differ: {', '.join(differing)}")
    if len(first.user) == 0:
        return None
    none, others = np.zeros(1, np.int64), np.array([len(first.tokens) - 1])
    return NewItemsTable(
        items=len(first.tokens),
        known=int(first.known) - 1,
        users=len(np.unique(first.user)),
        cases=len(first.user),
        left_out=int(first.left_out),
        by_chance={metric: float(per_user(metric, none, others)[0]) for metric in NEW_METRICS},
        rows={
            variant: _row(runs) for variant, runs in variants.items() if all(run.new_items is not None for run in runs)
        },
    )


def table_cells(
    table: NewItemsTable, variants: Mapping[str, str], protocol: ProtocolName
) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table in words; `variants` are the names to show, in the order of the lines."""
    where = ("among all", "among new")
    header = ["variant", *(f"{metric} {among}" for among in where for metric in NEW_METRICS)]
    lines = []
    for variant, name in variants.items():
        if variant in table.rows:
            row = table.rows[variant]
            values = [str(of[metric]) for of in (row.among_all.get(protocol, {}), row.among_new) for metric in of]
            lines.append([name, *(values or [CANNOT, "", "", ""])])
    lines.append(["(random order)", "", "", *(f"{table.by_chance[metric]:.4f}" for metric in NEW_METRICS)])
    return header, lines


def caption(table: NewItemsTable) -> str:
    """Return sentences that describe the measurement: '605 new items, ...'."""
    has = "has" if table.cases == 1 else "have"
    verb = "was" if table.left_out == 1 else "were"
    without = counted(table.left_out, "case")
    left_out = f" {without} without a known item in the history {verb} left out." if table.left_out else ""
    return (
        f"{counted(table.items, 'new item')}, hidden from training and selection with all their events and added to "
        f"the {table.known:,} known ones by their text. {counted(table.cases, 'test case')} of "
        f"{counted(table.users, 'user')} {has} one of them as target.{left_out} Values are means over test cases and "
        "seeds, with no claim about differences. Popularity is the trivial reference, for a new item has no events."
    )


def first_cell(table: NewItemsTable, variant: str, protocol: ProtocolName) -> str:
    """The first metric among all items, "can't", or "" where it was not measured."""
    row = table.rows.get(variant)
    if row is None:
        return ""
    return f"{row.among_all[protocol][NEW_METRICS[0]].mean:.4f}" if row.why is None else "can't"


def scores(table: NewItemsTable, variant: str) -> Iterator[tuple[ProtocolName, str, str, SeedMean]]:
    """(protocol, AMONG_ALL or AMONG_NEW, metric, values) of a variant; nothing where it has no values."""
    row = table.rows.get(variant)
    if row is None or row.why is not None:
        return
    for protocol in PROTOCOLS:
        for name, of in ((AMONG_ALL, row.among_all[protocol]), (AMONG_NEW, row.among_new)):
            for metric, values in of.items():
                yield protocol, name, metric, values


def csv_changes(table: NewItemsTable | None, variant: str) -> Iterator[dict[str, Any]]:
    """For each line of new items in leaderboard.csv, the columns that differ from the line of all test cases."""
    claims = ("relative", "ci95_low", "ci95_high", "seeds_ci95_low", "seeds_ci95_high", "p_users", "p_seeds")
    if table is None:
        return
    for protocol, name, metric, values in scores(table, variant):
        yield {
            **dict.fromkeys((*claims, "p_adjusted", "effect_size", "verdict")),
            **{"protocol": protocol, "slice": name, "metric": metric, "mean": values.mean, "std": values.std},
            **{"users": table.users, "cases": table.cases, "target_in_history": 0},
            "candidates": table.items + (table.known if name == AMONG_ALL else 0),
        }


def _row(runs: Sequence[RunResult]) -> NewItemsRow:
    seeds, ranks = tuple(run.seed for run in runs), [run.new_items for run in runs if run.new_items is not None]
    if why := next((one.reason for one in ranks if one.reason), None):
        return NewItemsRow(why, seeds, {}, {})
    return NewItemsRow(
        None,
        seeds,
        {protocol: _means([one.among_all(protocol) for one in ranks]) for protocol in PROTOCOLS},
        _means([(one.higher_new, one.equal_new) for one in ranks]),
    )


def _means(counts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> dict[str, SeedMean]:
    found = {}
    for metric in NEW_METRICS:
        per_seed = np.array([per_user(metric, higher, equal).mean() for higher, equal in counts])
        std = float(per_seed.std(ddof=1)) if len(per_seed) > 1 else None
        found[metric] = SeedMean(float(per_seed.mean()), std, tuple(per_seed.tolist()))
    return found
