"""Differences to the baseline: over all test cases, and on each slice."""

from __future__ import annotations

from dataclasses import dataclass

from blair_rec.config.names import ProtocolName
from blair_rec.evaluate.leaderboard import Leaderboard, Row, Summary
from blair_rec.evaluate.significance import Interval


@dataclass(frozen=True)
class Gain:
    """One difference to the baseline, as a chart shows it. Unknown values are None; `verdict` says why."""

    label: str
    value: float | None
    ci95: Interval | None
    """Over users alone."""
    seeds_ci95: Interval | None
    """Over seeds and users."""
    verdict: str
    group: str = ""
    """The property that defines the slice, such as "popularity"."""


def relative_gains(board: Leaderboard, metric: str, protocol: ProtocolName) -> tuple[Gain, ...]:
    """The relative difference, mean / baseline's mean - 1, of every other variant, in the board's order."""
    gains = []
    for row in board.rows:
        versus = row.metrics[protocol][metric].versus_baseline
        if versus is not None:
            gains.append(Gain(row.variant, versus.relative, versus.ci95, versus.seeds_ci95, versus.verdict))
    return tuple(gains)


def slice_gains(board: Leaderboard, variant: str, metric: str, protocol: ProtocolName) -> tuple[Gain, ...]:
    """The absolute difference, mean - baseline's mean, of one variant on every slice.

    It is absolute because the baseline's mean on a slice may be close to 0. The intervals are those of the relative
    difference, multiplied by the baseline's mean.
    """
    row = next(row for row in board.rows if row.variant == variant)
    baseline = next(row for row in board.rows if row.variant == board.baseline)

    def gain(name: str) -> Gain:
        ours, level = _summary(row, name, metric, protocol), _summary(baseline, name, metric, protocol).mean
        versus = ours.versus_baseline
        assert versus is not None
        return Gain(
            label=f"{name} ({row.slices[name].users:,})",
            value=ours.mean - level,
            ci95=_times(versus.ci95, level),
            seeds_ci95=_times(versus.seeds_ci95, level),
            verdict=versus.verdict,
            group=row.slices[name].by,
        )

    return tuple(gain(name) for name in row.slices)


def _summary(row: Row, name: str, metric: str, protocol: ProtocolName) -> Summary:
    return row.slices[name].metrics[protocol][metric]


def _times(interval: Interval | None, level: float) -> Interval | None:
    return None if interval is None else (interval[0] * level, interval[1] * level)
