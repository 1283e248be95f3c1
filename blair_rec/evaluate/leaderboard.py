"""Finished runs -> one ordered table: every variant, both protocols, each difference to the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from blair_rec.errors import ConfigError, UnpairedRuns
from blair_rec.evaluate.metrics import check_k
from blair_rec.evaluate.results import (
    PROTOCOLS,
    EncoderUsed,
    Parameters,
    ProtocolName,
    RunResult,
    check_paired,
    run_name,
)

SCHEMA = 1
# What the seeds of one variant have in common; otherwise their mean would be the mean of different things.
SHARED_BY_SEEDS = ("model", "items", "control", "transforms", "encoder", "store_sha256", "trials", "parameters")

Scalar = str | int | None


class Score(NamedTuple):
    """One measured number with what is needed to trust it: a line of results.jsonl."""

    variant: str
    dataset: str
    seed: int
    protocol: ProtocolName
    slice: str
    """Which test cases: "all"."""
    metric: str
    """Such as "NDCG@10", on the test split."""
    value: float


@dataclass(frozen=True)
class VersusBaseline:
    """How a variant's mean differs from the baseline's."""

    relative: float | None
    """mean / baseline's mean - 1; None where the baseline's mean is 0."""


@dataclass(frozen=True)
class Summary:
    """One metric of one variant under one protocol."""

    mean: float
    """Over seeds, of the mean over test cases."""
    std: float | None
    """Over seeds, with the divisor n - 1; None for a single seed."""
    per_seed: tuple[float, ...]
    """In the order of the row's seeds."""
    versus_baseline: VersusBaseline | None
    """None for the baseline itself."""


@dataclass(frozen=True)
class Row:
    """One variant."""

    variant: str
    model: str
    items: str
    """The item side: "id", "text_init", ..."""
    control: str | None
    """ "shuffle" or "random" where the text is meaningless on purpose."""
    transforms: tuple[str, ...]
    encoder: EncoderUsed | None
    """None for a variant without text."""
    store_sha256: str | None
    seeds: tuple[int, ...]
    trials: int
    parameters: Parameters
    train_seconds: float
    """Mean over seeds."""
    epochs: float
    """Mean over seeds."""
    metrics: Mapping[ProtocolName, Mapping[str, Summary]]


@dataclass(frozen=True)
class Leaderboard:
    """Everything that a rendering shows. `rows` are ordered, the best first."""

    dataset: str
    baseline: str
    protocol: ProtocolName
    """The one that orders the rows."""
    selected_on: tuple[str, ...]
    """What validation selected on, such as "NDCG@10 unmasked"; several if runs differ, none if nothing was trained."""
    metrics: tuple[str, ...]
    """The first one orders the rows."""
    users: int
    cases: int
    """Test cases: one per user with leave-one-out, possibly more with other splits."""
    candidates: int
    """Items that are ranked, padding not counted."""
    target_in_history: int
    """Test cases whose true item stands in its own history: misses under the masked protocol."""
    provenance: Mapping[str, Scalar | list[Scalar]]
    """Versions, commit, machine; a list where runs differ."""
    notes: tuple[str, ...]
    """What a reader has to know before believing the table."""
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """The content of leaderboard.json, ready for `json.dumps`."""
        return {"schema": SCHEMA, **asdict(self)}

    def scores(self) -> list[Score]:
        """Every number that was averaged, one record each."""
        return [
            Score(row.variant, self.dataset, seed, protocol, "all", metric, value)
            for row in self.rows
            for protocol, summaries in row.metrics.items()
            for metric, summary in summaries.items()
            for seed, value in zip(row.seeds, summary.per_seed, strict=True)
        ]


def build_leaderboard(
    runs: Sequence[RunResult], baseline: str, metrics: Sequence[str], protocol: ProtocolName
) -> Leaderboard:
    """The table over all variants of one comparison, ordered by the first metric under `protocol`, ties by name.

    Raises ConfigError (baseline without runs, unknown metric or protocol, k beyond the items) and UnpairedRuns (other
    test cases, or seeds of one variant that were not the same set-up). Variants with fewer seeds get a note.
    """
    metrics = tuple(dict.fromkeys(metrics))
    variants: dict[str, list[RunResult]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        variants.setdefault(run.variant, []).append(run)
    if baseline not in variants:
        raise ConfigError(
            f"the baseline {baseline!r} has no finished run; finished: {', '.join(sorted(variants)) or 'none'}"
        )
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol is {protocol!r}; known: {', '.join(PROTOCOLS)}")
    if not metrics:
        raise ConfigError("a leaderboard needs at least one metric, such as NDCG@10")
    check_paired(runs)
    for variant_runs in variants.values():
        _check_same_setup(variant_runs)
    ranks = runs[0].ranks
    check_k(metrics, ranks.candidates)
    per_seed = {variant: _per_seed(variant_runs, metrics) for variant, variant_runs in variants.items()}
    rows = [
        _row(variant_runs, per_seed[variant], None if variant == baseline else per_seed[baseline])
        for variant, variant_runs in variants.items()
    ]
    provenance, differing = _provenance(runs)
    selected_on = {f"{run.selection.metric} {run.selection.protocol}" for run in runs if run.selection is not None}
    return Leaderboard(
        dataset=runs[0].dataset,
        baseline=baseline,
        protocol=protocol,
        selected_on=tuple(sorted(selected_on)),
        metrics=metrics,
        users=len(np.unique(ranks.user)),
        cases=len(ranks.user),
        candidates=ranks.candidates,
        target_in_history=int(ranks.target_in_history.sum()),
        provenance=provenance,
        notes=(*_seed_notes(variants), *differing),
        rows=tuple(sorted(rows, key=lambda row: (-row.metrics[protocol][metrics[0]].mean, row.variant))),
    )


def _per_seed(runs: Sequence[RunResult], metrics: Sequence[str]) -> dict[ProtocolName, dict[str, tuple[float, ...]]]:
    """Means over test cases, one per run, by protocol and metric."""
    return {
        protocol: {metric: tuple(float(run.per_user(metric, protocol).mean()) for run in runs) for metric in metrics}
        for protocol in PROTOCOLS
    }


def _row(
    runs: Sequence[RunResult],
    values: Mapping[ProtocolName, Mapping[str, tuple[float, ...]]],
    baseline: Mapping[ProtocolName, Mapping[str, tuple[float, ...]]] | None,
) -> Row:
    """The runs of one variant, with their values; `baseline` is None for the baseline itself."""
    run = runs[0]
    return Row(
        variant=run.variant,
        model=run.model,
        items=run.items,
        control=run.control,
        transforms=tuple(run.transforms),
        encoder=run.encoder,
        store_sha256=run.store_sha256,
        seeds=tuple(run.seed for run in runs),
        trials=run.trials,
        parameters=run.parameters,
        train_seconds=float(np.mean([run.train_seconds for run in runs])),
        epochs=float(np.mean([run.epochs for run in runs])),
        metrics={
            protocol: {
                metric: _summary(per_seed, None if baseline is None else baseline[protocol][metric])
                for metric, per_seed in by_metric.items()
            }
            for protocol, by_metric in values.items()
        },
    )


def _summary(per_seed: tuple[float, ...], baseline: tuple[float, ...] | None) -> Summary:
    mean = float(np.mean(per_seed))
    versus = None
    if baseline is not None:
        level = float(np.mean(baseline))
        versus = VersusBaseline(relative=mean / level - 1 if level > 0 else None)
    return Summary(
        mean=mean,
        std=float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None,
        per_seed=per_seed,
        versus_baseline=versus,
    )


def _check_same_setup(runs: Sequence[RunResult]) -> None:
    """Raises UnpairedRuns where the seeds of a variant are not the same set-up, such as another encoder."""
    first, *others = runs
    for run in others:
        names = run_name(first.variant, first.seed), run_name(run.variant, run.seed)
        if run.seed == first.seed:
            raise UnpairedRuns(*names, f"{first.folder} and {run.folder} are the same variant and seed")
        for key in SHARED_BY_SEEDS:
            ours, theirs = getattr(first, key), getattr(run, key)
            if ours != theirs:
                raise UnpairedRuns(*names, f"{key} of this variant is {ours} in one and {theirs} in the other")


def _seed_notes(variants: Mapping[str, Sequence[RunResult]]) -> list[str]:
    """A note for every variant that lacks seeds which others have."""
    seeds = {variant: [run.seed for run in runs] for variant, runs in variants.items()}
    every = sorted({seed for of_variant in seeds.values() for seed in of_variant})
    return [
        f"{variant} has seeds {_listed(of_variant)} of {_listed(every)}"
        for variant, of_variant in sorted(seeds.items())
        if of_variant != every
    ]


def _provenance(runs: Sequence[RunResult]) -> tuple[dict[str, Scalar | list[Scalar]], list[str]]:
    """What the runs were made with, and a note for each thing that was not the same for all of them."""
    merged: dict[str, Scalar | list[Scalar]] = {}
    notes = []
    records = [{**run.provenance, "data_sha256": run.hashes.get("data")} for run in runs]
    for key in sorted({key for record in records for key in record}):
        values = list(dict.fromkeys(record.get(key) for record in records))
        merged[key] = values[0] if len(values) == 1 else values
        if len(values) > 1:
            notes.append(f"runs differ in {key}: {_listed(values)}")
    return merged, notes


def _listed(values: Sequence[Any]) -> str:
    return ", ".join("unknown" if value is None else str(value) for value in values)
