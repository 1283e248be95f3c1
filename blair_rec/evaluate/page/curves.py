"""Learning curves of every run: validation metric by epoch and by second, and loss by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

from blair_rec.evaluate.runs.results import RunResult


@dataclass(frozen=True)
class Curve:
    """The training of one run."""

    variant: str
    seed: int
    losses: tuple[float, ...]
    """Mean loss of every epoch."""
    epochs: tuple[int, ...]
    """The epochs with a validation, counted from 1."""
    values: tuple[float, ...]
    """[len(epochs)] the validation metric that selected the weights."""
    seconds: tuple[float, ...]
    """[len(epochs)] seconds since training began, including validation."""
    best_epoch: int
    """The epoch whose weights were tested."""

    @property
    def best_so_far(self) -> tuple[float, ...]:
        """[len(epochs)] the best value up to each epoch."""
        return tuple(accumulate(self.values, max))


def learning_curves(runs: Sequence[RunResult]) -> tuple[Curve, ...]:
    """The curve of every trained run, in the order of `runs`. Raises BadRun."""
    return tuple(_curve(run) for run in runs if run.selection is not None and run.curve)


def _curve(run: RunResult) -> Curve:
    assert run.selection is not None
    elapsed = accumulate(epoch.train_seconds + epoch.valid_seconds for epoch in run.curve)
    validated = [(epoch, second) for epoch, second in zip(run.curve, elapsed, strict=True) if epoch.valid is not None]
    return Curve(
        variant=run.variant,
        seed=run.seed,
        losses=tuple(epoch.loss for epoch in run.curve),
        epochs=tuple(epoch.epoch for epoch, _ in validated),
        values=tuple((epoch.valid or {})[run.selection.metric] for epoch, _ in validated),
        seconds=tuple(second for _, second in validated),
        best_epoch=run.selection.epoch,
    )


@dataclass(frozen=True)
class LearningPace:
    """How good a variant got and how fast, averaged over its runs."""

    variant: str
    best: float
    """The best validation metric."""
    seconds_to_best: float
    seconds: float
    """Total, until training stopped."""
    seconds_to_baseline: float | None
    """Until it first reached the baseline's mean best value; None if some run never did."""


def pace(curves: Sequence[Curve], level: float | None) -> LearningPace:
    """The pace of one variant from the curves of its runs; `level` is the mean best value of the baseline's runs."""
    reached = [
        next((second for second, value in zip(curve.seconds, curve.values, strict=True) if value >= level), None)
        for curve in curves
        if level is not None
    ]
    every = [second for second in reached if second is not None]
    return LearningPace(
        variant=curves[0].variant,
        best=fmean(max(curve.values) for curve in curves),
        seconds_to_best=fmean(curve.seconds[curve.values.index(max(curve.values))] for curve in curves),
        seconds=fmean(curve.seconds[-1] for curve in curves),
        seconds_to_baseline=fmean(every) if len(every) == len(curves) else None,
    )
