"""Significance tests: is a variant better than the baseline? Over users and over seeds, with correction.

Two things are random: the users in the data, and the seed of a training. A gain over many users may be the luck of one
seed, and a gain over a few seeds may be the luck of these users. So a claim needs two tests:

* over users: a sign-flip test on the users' differences (of metrics averaged over seeds). Unlike Wilcoxon's test it
  tests the mean, which the table shows. Users with a metric of 0 in both variants, often nine in ten, don't affect it.
* over seeds and users together: a t-test with the variance of a mean over crossed random effects. The variance over
  seeds doesn't include the users. Adding both variances counts their interaction twice, so it is subtracted once.
  Variance: Roe and Metz 1997; degrees of freedom: Hillis 2007 (many readers, many cases: here seeds and users).

A claim uses the larger p-value (an intersection-union test), with Holm's correction (1979).
`benchmarks/false_claims.py` measures how often this claims a difference when there is none.

Shapes: S seeds, C test cases, U users, M comparisons.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Verdict = Literal["better", "worse", "no difference found", "too few seeds", "too few users"]

ALPHA = 0.05
FLIPS = 9_999
RESAMPLES = 1_999
MIN_USERS = 50
"""Fewer users are too few for a metric that is 0 for nine users in ten."""


@dataclass(frozen=True)
class Difference:
    """The difference of a variant's metric to the baseline's. Unknown values are None; `verdict` says why."""

    relative: float | None
    """mean / baseline's mean - 1; None if the baseline's mean is 0."""
    ci95: Interval | None
    """95% interval of `relative` over users alone: bootstrap, with the given seeds."""
    seeds_ci95: Interval | None
    """95% interval of `relative` over seeds and users, so for other seeds and other users; cut off at -1."""
    p_users: float | None
    """Two-sided p-value over users alone."""
    p_seeds: float | None
    """Two-sided p-value over seeds and users."""
    p_value: float | None
    """The larger of the two."""
    p_adjusted: float | None
    """`p_value` after Holm's correction over all comparisons of the table."""
    effect_size: float | None
    """Cohen's d_z: mean difference over users / its standard deviation; None if all differences are the same."""
    verdict: Verdict
    """better or worse if p_adjusted is at most .05."""


@dataclass(frozen=True, eq=False)
class PairedSample:
    """One metric of a variant and of the baseline, on the same test cases."""

    variant: Floats
    """[S, C]"""
    baseline: Floats
    """[S', C]"""
    drawn: tuple[bool, bool] = (True, True)
    """Whether the variant, and the baseline, depend on the seed. A side that doesn't needs only one seed."""


def differences(
    pairs: Sequence[PairedSample], user: NDArray[np.int64], *, flips: int = FLIPS, resamples: int = RESAMPLES
) -> list[Difference]:
    """The difference of each pair, not yet corrected: pass the whole table to `corrected`.

    user: [C] the user of each test case. All cases of a user are flipped or resampled together.
    flips, resamples: number of random samples for the p-value over users, and for the bootstrap (0: no `ci95`).
    """
    if not pairs:
        return []
    counts = np.bincount(np.unique(user, return_inverse=True)[1])
    by_user = [PairedSample(_sums(pair.variant, user), _sums(pair.baseline, user), pair.drawn) for pair in pairs]
    if len(counts) < MIN_USERS:
        return [_undecided(pair, "too few users") for pair in by_user]
    variant = np.stack([pair.variant.mean(axis=0) for pair in by_user], axis=1)
    baseline = np.stack([pair.baseline.mean(axis=0) for pair in by_user], axis=1)
    p_users = sign_flip_p_values(variant - baseline, flips)
    intervals = relative_intervals(variant, baseline, resamples) if resamples else [None] * len(pairs)
    return [
        _difference(pair, counts, float(p), interval)
        for pair, p, interval in zip(by_user, p_users, intervals, strict=True)
    ]


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """All comparisons of one table, with p-values after Holm's correction, and verdicts."""
    tested = [difference for difference in found if difference.p_value is not None]
    adjusted = iter(holm([difference.p_value for difference in tested if difference.p_value is not None]))
    return [_judged(one, float(next(adjusted))) if one.p_value is not None else one for one in found]


def sign_flip_p_values(differing: Floats, flips: int = FLIPS, seed: int = 0) -> Floats:
    """Two-sided p-values of mean 0, from random signs for every user; all columns get the same signs.

    differing: [U, M] the difference of each user. Returns [M], at least 1 / (flips + 1).
    """
    moved = differing[(differing != 0).any(axis=1)]  # flipping the sign of 0 has no effect
    total = moved.sum(axis=0)
    # Sums that are equal in exact arithmetic may differ in the last bits.
    limit = np.abs(total) - 1e-9 * np.abs(moved).sum(axis=0)
    generator = np.random.default_rng(seed)
    at_least = np.ones(differing.shape[1])
    for begin in range(0, flips, 256):
        plus = generator.integers(0, 2, (min(256, flips - begin), len(moved)), dtype=np.int8)
        at_least += (np.abs(2 * (plus.astype(np.float64) @ moved) - total) >= limit).sum(axis=0)
    return at_least / (flips + 1)


def relative_intervals(
    variant: Floats, baseline: Floats, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval | None]:
    """95% bootstrap intervals (percentiles) of sum(variant) / sum(baseline) - 1, users drawn with replacement.

    variant, baseline: [U, M], one column per comparison. None if the baseline's sum is 0 in some sample.
    """
    users, width = variant.shape
    columns = np.concatenate([variant, baseline], axis=1)
    # Most users have metrics of 0 everywhere and add nothing to any sum: only draws of the others matter.
    columns = columns[(columns != 0).any(axis=1)]
    generator = np.random.default_rng(seed)
    drawn = generator.binomial(users, len(columns) / users, resamples)
    sums = np.zeros((resamples, 2 * width))
    for begin in range(0, resamples, 256) if len(columns) else ():
        weights = [
            np.bincount(generator.integers(0, len(columns), size), minlength=len(columns))
            for size in drawn[begin : begin + 256]
        ]
        sums[begin : begin + 256] = np.array(weights, dtype=np.float64) @ columns
    above, below = sums[:, :width], sums[:, width:]
    defined = np.all(below > 0, axis=0)
    ratio = above / np.where(below > 0, below, 1) - 1
    low, high = np.percentile(ratio, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)], axis=0)
    return [(float(low[m]), float(high[m])) if defined[m] else None for m in range(width)]


@dataclass(frozen=True)
class SeedTest:
    """The difference of two means over seeds and users, with interval and p-value."""

    difference: float
    margin: float
    """The 95% interval is difference ± margin."""
    p_value: float


def seed_test(pair: PairedSample, counts: NDArray[np.int64]) -> SeedTest | None:
    """t-test of a difference of means over seeds and users; None if a side that depends on the seed has only one.

    pair: [S, U] sums over each user's cases; counts: [U] the number of these cases.
    """
    cases, users = counts.sum(), len(counts)
    sides = (pair.variant, pair.baseline)
    if any(len(side) < 2 and drawn for side, drawn in zip(sides, pair.drawn, strict=True)):
        return None
    difference = float(pair.variant.mean(axis=0).sum() - pair.baseline.mean(axis=0).sum()) / float(cases)
    scale = users / (users - 1) / cases**2
    of_users = scale * ((pair.variant.mean(axis=0) - pair.baseline.mean(axis=0) - difference * counts) ** 2).sum()
    of_seeds, shared = [], []
    several = [side for side in sides if len(side) > 1]  # a side with one seed doesn't depend on the seed
    for side in several:
        seeds, means = len(side), side.sum(axis=1) / cases
        of_seeds.append(means.var(ddof=1) / seeds)
        rest = side - side.mean(axis=0) - (means - means.mean())[:, None] * counts
        shared.append(scale * (rest**2).sum() / (seeds - 1) / seeds)
    # The interaction of users and seeds is in both variances, so it is subtracted once.
    variance = max(of_users + sum(of_seeds) - sum(shared), of_users, sum(of_seeds))
    if variance == 0:
        return SeedTest(difference, 0.0, float(difference == 0))
    uncertain = sum(part**2 / (len(side) - 1) for part, side in zip(of_seeds, several, strict=True))
    freedom = variance**2 / (uncertain + of_users**2 / (users - 1))
    error = float(np.sqrt(variance))
    from scipy import stats  # the import takes half a second; commands without significance tests don't need it

    return SeedTest(
        difference,
        margin=error * float(stats.t.ppf(1 - ALPHA / 2, freedom)),
        p_value=2 * float(stats.t.sf(abs(difference) / error, freedom)),
    )


def holm(p_values: Sequence[float]) -> Floats:
    """[M] p-values after Holm's correction: claims at level alpha include a false one with probability <= alpha."""
    order = np.argsort(p_values)
    steps = np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def _sums(values: Floats, user: NDArray[np.int64]) -> Floats:
    """Sums over each user's cases: [S, C] -> [S, U]."""
    present, place = np.unique(user, return_inverse=True)
    if len(present) == len(user):
        return values[:, np.argsort(place)]
    return np.stack([np.bincount(place, weights=of_seed) for of_seed in values])


def _difference(pair: PairedSample, counts: NDArray[np.int64], p_users: float, interval: Interval | None) -> Difference:
    found = seed_test(pair, counts)
    if found is None:
        return dataclasses.replace(_undecided(pair, "too few seeds"), ci95=interval, p_users=p_users)
    level = float(pair.baseline.mean(axis=0).sum() / counts.sum())
    each = (pair.variant.mean(axis=0) - pair.baseline.mean(axis=0)) / counts
    spread = float(each.std(ddof=1))
    low, high = found.difference - found.margin, found.difference + found.margin
    return Difference(
        relative=_relative(pair),
        ci95=interval,
        seeds_ci95=(max(low / level, -1.0), high / level) if level > 0 else None,  # no metric is below 0
        p_users=p_users,
        p_seeds=found.p_value,
        p_value=max(p_users, found.p_value),
        p_adjusted=None,
        effect_size=float(each.mean()) / spread if spread > 1e-12 else None,
        verdict="better" if found.difference > 0 else "worse",
    )


def _judged(difference: Difference, p_adjusted: float) -> Difference:
    verdict = difference.verdict if p_adjusted <= ALPHA else "no difference found"
    return dataclasses.replace(difference, p_adjusted=p_adjusted, verdict=verdict)


def _undecided(pair: PairedSample, verdict: Verdict) -> Difference:
    return Difference(_relative(pair), None, None, None, None, None, None, None, verdict)


def _relative(pair: PairedSample) -> float | None:
    level = float(pair.baseline.mean(axis=0).sum())
    return float(pair.variant.mean(axis=0).sum()) / level - 1 if level > 0 else None
