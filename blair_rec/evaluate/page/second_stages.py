"""Second stages on the page: the share of their trees' gain by member and by feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blair_rec.errors import BadRun
from blair_rec.evaluate.runs.checks import typed
from blair_rec.evaluate.runs.results import RunResult
from blair_rec.evaluate.runs.run_files import RESULT_FILE, read_json


@dataclass(frozen=True)
class RecordedStage:
    """The keys of a second stage in result.json that the page shows. Other keys are ignored."""

    candidates: int
    """How many of the best items of each member the stage orders."""
    pool_size: float
    """Mean number of candidates of a validation case; outside its history if the stage is fitted for masking."""
    pool_recall: float
    """Share of validation cases whose target is among them."""
    trees: int
    features: list[list[str]]
    """[F] for each feature, what it is about (a member, or "average", "item", "history") and its kind."""
    gains: list[float]
    """[F] each feature's share of the trees' total gain."""


@dataclass(frozen=True)
class SecondStage:
    """One variant; shares are means over its seeds."""

    variant: str
    recorded: RecordedStage
    """The record of the first seed."""
    importances: tuple[tuple[str, float, tuple[tuple[str, float], ...]], ...]
    """A member or another source of features, its share of the gain, and that of each feature; the largest first."""


def second_stages(runs: Sequence[RunResult]) -> tuple[SecondStage, ...]:
    """Read what the second stages among the runs recorded. Raises BadRun."""
    found: dict[str, list[RecordedStage]] = {}
    folders = set()
    for run in runs:
        if run.items == "rerank" and run.folder not in folders:  # a run for all seeds is listed for each
            folders.add(run.folder)
            found.setdefault(run.variant, []).append(_recorded(run))
    return tuple(SecondStage(variant, stages[0], _importances(stages)) for variant, stages in found.items())


def _recorded(run: RunResult) -> RecordedStage:
    try:
        stage: RecordedStage = typed(RecordedStage, read_json(run.folder, RESULT_FILE).get("rerank"), "rerank")
        if len(stage.features) != len(stage.gains) or any(len(name) != 2 for name in stage.features):
            raise ValueError(f"rerank has {len(stage.features)} features and {len(stage.gains)} gains")
    except ValueError as error:
        raise BadRun(run.folder, RESULT_FILE, str(error)) from error
    return stage


def _importances(stages: Sequence[RecordedStage]) -> tuple[tuple[str, float, tuple[tuple[str, float], ...]], ...]:
    shares: dict[str, dict[str, list[float]]] = {}
    for stage in stages:
        for (about, kind), gain in zip(stage.features, stage.gains, strict=True):
            shares.setdefault(about, {}).setdefault(kind, []).append(gain)
    rows = []
    for about, of_kind in shares.items():
        means = [(kind, float(np.sum(values)) / len(stages)) for kind, values in of_kind.items()]
        means.sort(key=lambda pair: -pair[1])
        rows.append((about, sum(share for _, share in means), tuple(means)))
    return tuple(sorted(rows, key=lambda row: -row[1]))
