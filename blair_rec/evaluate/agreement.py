"""Compare a new comparison with an older one: do the results agree, and which metrics changed beyond noise?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blair_rec.config.names import ProtocolName
from blair_rec.errors import ConfigError
from blair_rec.evaluate.runs.results import RunResult, check_paired
from blair_rec.evaluate.runs.run_files import PROTOCOLS
from blair_rec.evaluate.significance import Difference, Floats, PairedSample, corrected, differences


@dataclass(frozen=True)
class Move:
    """One metric of one variant in both comparisons."""

    variant: str
    protocol: ProtocolName
    metric: str
    then: float
    """Mean over the seeds of the older comparison."""
    now: float
    """Mean over the seeds of the new comparison."""
    identical: bool
    """Whether both have the same seeds and the same ranks."""
    difference: Difference
    """The new results compared with the older ones, corrected for all moves; better and worse are beyond noise."""

    @property
    def agrees(self) -> bool:
        """Whether the metric didn't change beyond noise; single seeds agree only if they are identical."""
        return self.identical or self.difference.verdict == "no difference found"

    def __str__(self) -> str:
        what = f"{self.variant}: {self.metric} ({self.protocol}) {self.then:.4f} -> {self.now:.4f}"
        if self.identical:
            return f"{what}, identical"
        p = self.difference.p_adjusted
        sure = "" if p is None else f", p = {p:.2g}"
        return f"{what}{sure}, {'within noise' if self.agrees else self.difference.verdict}"


def moves(now: Sequence[RunResult], then: Sequence[RunResult], metrics: Sequence[str]) -> list[Move]:
    """Compare every metric of every variant that both comparisons have run, under both protocols.

    Raises:
        UnpairedRuns: they ranked different items or test cases.
        ConfigError: they have no variant in common.
    """
    check_paired([*now, *then])
    variants = [name for name in dict.fromkeys(run.variant for run in now) if name in {run.variant for run in then}]
    if not variants:
        raise ConfigError(
            "the two comparisons have no variant in common; give an older one with at least one of these variants"
        )
    asked = [(variant, protocol, metric) for variant in variants for protocol in PROTOCOLS for metric in metrics]
    drawn = {name: (_drawn(now, name), _drawn(then, name)) for name in variants}
    pairs = [PairedSample(_values(now, *key), _values(then, *key), drawn[key[0]]) for key in asked]
    verdicts = corrected(differences(pairs, now[0].ranks.user))
    return [
        Move(*key, float(pair.baseline.mean()), float(pair.variant.mean()), _identical(now, then, key[0]), difference)
        for key, pair, difference in zip(asked, pairs, verdicts, strict=True)
    ]


def _drawn(runs: Sequence[RunResult], variant: str) -> bool:
    return not all(run.seedless for run in runs if run.variant == variant)


def _values(runs: Sequence[RunResult], variant: str, protocol: ProtocolName, metric: str) -> Floats:
    return np.stack([run.per_user(metric, protocol) for run in runs if run.variant == variant])


def _identical(now: Sequence[RunResult], then: Sequence[RunResult], variant: str) -> bool:
    """Whether both have the same seeds and every rank is the same."""
    ours, theirs = ({run.seed: run.ranks for run in runs if run.variant == variant} for runs in (now, then))
    return ours.keys() == theirs.keys() and all(
        np.array_equal(one, other)
        for seed in ours
        for protocol in PROTOCOLS
        for one, other in zip(ours[seed].counts(protocol), theirs[seed].counts(protocol), strict=True)
    )
