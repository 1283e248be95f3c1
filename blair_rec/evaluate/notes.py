"""What a reader has to know before believing a table, and what its runs were made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blair_rec.errors import first_of
from blair_rec.evaluate.runs.results import RunResult
from blair_rec.evaluate.runs.run_files import ProtocolName

if TYPE_CHECKING:
    from blair_rec.evaluate.leaderboard import Row

Scalar = str | int | None
TEXT_CODE = "code_of_text"


def seed_notes(variants: Mapping[str, Sequence[RunResult]]) -> list[str]:
    """A note for every variant that lacks seeds which others have."""
    seeds = {variant: [run.seed for run in runs] for variant, runs in variants.items()}
    every = sorted({seed for of_variant in seeds.values() for seed in of_variant})
    return [
        f"{variant} has seeds {listed(of_variant)} of {listed(every)}"
        for variant, of_variant in sorted(seeds.items())
        if of_variant != every
    ]


def pending_notes(pending: Sequence[str], runs: Sequence[RunResult]) -> list[str]:
    """A note on the runs that are planned and not finished, by their names."""
    if not pending:
        return []
    total = len(pending) + len({run.folder for run in runs})
    return [f"{len(pending)} of {total} planned runs are not done yet ({first_of(pending)})"]


def accepted_notes(runs: Sequence[RunResult]) -> list[str]:
    """A note for each change of the code that finished runs were kept for."""
    kept: dict[str, list[str]] = {}
    for run in {run.folder: run for run in runs}.values():
        for changed in dict.fromkeys(run.accepted_code.values()):
            kept.setdefault(changed, []).append(run.folder.name)
    return [
        f"{len(names)} runs ({first_of(names)}) were made before a change of {changed} and kept with --accept-code"
        for changed, names in kept.items()
    ]


def untrained_notes(rows: Sequence[Row], protocol: ProtocolName, metric: str) -> list[str]:
    """A note on the trained variants that do no better than the best of those that nothing was trained for."""

    def mean(row: Row) -> float:
        return row.metrics[protocol][metric].mean

    rows = [row for row in rows if row.control is None]
    best = max((row for row in rows if not row.parameters.trained), key=mean, default=None)
    if best is None:
        return []
    beaten = [row for row in rows if row.parameters.trained and mean(row) <= mean(best)]
    if not beaten:
        return []
    values = ", ".join(f"{row.variant} {mean(row):.4f}" for row in beaten)
    untrained = f"{best.variant}, which takes no training, has {metric} {protocol} {mean(best):.4f}"
    return [f"{untrained} and is not beaten by {values}"]


def merged_provenance(runs: Sequence[RunResult]) -> tuple[dict[str, Scalar | list[Scalar]], list[str]]:
    """What the runs were made with, and a note for each thing that was not the same for all of them."""
    merged: dict[str, Scalar | list[Scalar]] = {}
    notes = []
    records = [{**run.provenance, "data_sha256": run.hashes.get("data"), **_code(run)} for run in runs]
    for key in sorted({key for record in records for key in record}):
        # Runs without text say nothing of what makes vectors.
        values = list(dict.fromkeys(record.get(key) for record in records if key in record or key != TEXT_CODE))
        merged[key] = values[0] if len(values) == 1 else values
        if len(values) > 1:
            notes.append(f"runs differ in {key}: {listed(values)}")
    return merged, notes


def _code(run: RunResult) -> dict[str, str | None]:
    """The hash of what every run depends on, and of what makes vectors, which provenance.code_hash puts behind it."""
    code, slash, of_text = (run.hashes.get("code") or "").partition("/")
    return {"code": code or None, **({TEXT_CODE: of_text} if slash else {})}


def listed(values: Sequence[Any]) -> str:
    """'1, 2, unknown'."""
    return ", ".join("unknown" if value is None else str(value) for value in values)
