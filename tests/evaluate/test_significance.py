"""Significance tests against SciPy where it has them, against definitions by brute force, and on random data."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from blair_rec.evaluate.significance import (
    PairedSample,
    corrected,
    differences,
    holm,
    relative_intervals,
    seed_test,
    sign_flip_p_values,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def sparse(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """A realistic metric: zero for most users, and a few values for the others."""
    return np.where(generator.random(shape) < 0.2, 1 / np.log2(generator.integers(0, 10, shape) + 2), 0.0)


def pair_of(seed: int, seeds: int = 3, users: int = 200, gain: float = 0.0) -> PairedSample:
    generator = np.random.default_rng(seed)
    return PairedSample(sparse(generator, seeds, users) + gain, sparse(generator, seeds, users))


# Over users


@pytest.mark.parametrize("seed", range(4))
def test_sign_flips_approach_the_exact_permutation_test(seed: int) -> None:
    differing = np.random.default_rng(seed).normal(0.3, 1, 12).round(1)  # ties among the sums, too
    exact = stats.permutation_test(
        (differing, np.zeros(12)), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples",
        n_resamples=np.inf, vectorized=True,
    ).pvalue  # fmt: skip
    ours = sign_flip_p_values(differing[:, None], flips=20_000)[0]
    assert ours == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-3)


def test_users_for_whom_nothing_differs_do_not_change_the_p_value() -> None:
    differing = np.random.default_rng(0).normal(0.2, 1, 40)
    diluted = np.concatenate([np.zeros(500), differing, np.zeros(500)])
    assert sign_flip_p_values(diluted[:, None]) == sign_flip_p_values(differing[:, None])


def test_no_difference_at_all_has_p_1_and_the_clearest_one_the_smallest() -> None:
    p = sign_flip_p_values(np.stack([np.zeros(100), np.ones(100)], axis=1), flips=999)
    assert p.tolist() == [1.0, 1 / 1000]


@pytest.mark.parametrize("seed", range(3))
def test_bootstrap_intervals_are_those_of_scipy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    baseline, other = sparse(generator, 400), sparse(generator, 400)
    variant = 0.5 * baseline + 0.6 * other
    reference = stats.bootstrap(
        (variant, baseline), lambda v, b, axis: v.mean(axis=axis) / b.mean(axis=axis) - 1, paired=True,
        vectorized=True, n_resamples=9999, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    ((low, high),) = relative_intervals(variant[:, None], baseline[:, None], resamples=9_999)
    width = reference.high - reference.low
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.04 * width)


def test_an_interval_without_anything_to_divide_by_is_none() -> None:
    found = relative_intervals(np.ones((60, 2)), np.stack([np.zeros(60), np.ones(60)], axis=1))
    assert found == [None, (0.0, 0.0)]
    assert relative_intervals(np.zeros((60, 1)), np.zeros((60, 1))) == [None]


# Over seeds and users


def one_each(pair: PairedSample) -> np.ndarray:
    return np.ones(pair.variant.shape[1], dtype=np.int64)


def test_where_seeds_change_nothing_it_is_the_paired_t_test_over_users() -> None:
    generator = np.random.default_rng(3)
    variant, baseline = sparse(generator, 150), sparse(generator, 150)
    pair = PairedSample(np.stack([variant] * 3), np.stack([baseline] * 2))
    found, reference = seed_test(pair, one_each(pair)), stats.ttest_rel(variant, baseline)
    assert found is not None
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    interval = reference.confidence_interval()
    ours = found.difference - found.margin, found.difference + found.margin
    assert ours == pytest.approx((interval.low, interval.high))


def test_where_users_are_all_the_same_it_is_welchs_test_over_seeds() -> None:
    generator = np.random.default_rng(4)
    variant, baseline = generator.normal(0.06, 0.004, 5), generator.normal(0.05, 0.001, 3)
    pair = PairedSample(np.tile(variant[:, None], 80), np.tile(baseline[:, None], 80))
    found, reference = seed_test(pair, one_each(pair)), stats.ttest_ind(variant, baseline, equal_var=False)
    assert found is not None
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    interval = reference.confidence_interval()
    ours = found.difference - found.margin, found.difference + found.margin
    assert ours == pytest.approx((interval.low, interval.high))


def test_its_variance_is_that_of_crossed_random_effects() -> None:
    """By the definition, one number at a time, and against the variance of simulated repetitions."""
    pair = pair_of(5, seeds=4, users=60)
    seeds, users = pair.variant.shape
    both = []
    for side in (pair.variant, pair.baseline):
        grand = side.mean()
        of_seeds = sum((side[s].mean() - grand) ** 2 for s in range(seeds)) / (seeds - 1)
        rest = sum(
            (side[s, u] - side[s].mean() - side[:, u].mean() + grand) ** 2 for s in range(seeds) for u in range(users)
        ) / ((seeds - 1) * (users - 1))
        both.append((of_seeds / seeds, rest / users / seeds))
    differing = pair.variant.mean(axis=0) - pair.baseline.mean(axis=0)
    of_users = differing.var(ddof=1) / users
    variance = max(of_users + sum(s for s, _ in both) - sum(r for _, r in both), of_users, sum(s for s, _ in both))
    freedom = variance**2 / (sum(s**2 / (seeds - 1) for s, _ in both) + of_users**2 / (users - 1))
    found = seed_test(pair, one_each(pair))
    assert found is not None
    assert found.margin == pytest.approx(np.sqrt(variance) * stats.t.ppf(0.975, freedom))

    generator = np.random.default_rng(6)
    estimates, means = [], []
    for _ in range(2_000):
        user, suited = generator.normal(0, 1, 50), generator.normal(0, 0.7, (2, 1, 50))
        sides = user + suited + generator.normal(0, 0.2, (2, 3, 1)) + generator.normal(0, 1, (2, 3, 50))
        found = seed_test(PairedSample(*sides), np.ones(50, dtype=np.int64))
        assert found is not None
        means.append(found.difference)
        shares = [side.mean(axis=1).var(ddof=1) / 3 for side in sides]
        mean_difference = (sides[0] - sides[1]).mean(axis=0)
        rests = [
            ((side - side.mean(axis=0) - side.mean(axis=1, keepdims=True) + side.mean()) ** 2).sum() / (2 * 49 * 50 * 3)
            for side in sides
        ]
        estimates.append(mean_difference.var(ddof=1) / 50 + sum(shares) - sum(rests))
    assert np.mean(estimates) == pytest.approx(np.var(means), rel=0.1)


def test_a_single_seed_says_nothing_about_seeds() -> None:
    pair = PairedSample(sparse(np.random.default_rng(0), 1, 80), sparse(np.random.default_rng(1), 3, 80))
    assert seed_test(pair, one_each(pair)) is None
    (found,) = corrected(differences([pair], np.arange(80)))
    assert (found.verdict, found.p_value, found.p_adjusted, found.seeds_ci95) == ("too few seeds", None, None, None)
    assert found.p_users is not None and found.ci95 is not None and found.relative is not None


def test_identical_trainings_give_a_p_value_of_0_or_1() -> None:
    level = np.full((2, 80), 0.25)
    same, more = (
        seed_test(PairedSample(level, level), one_each(PairedSample(level, level))),
        seed_test(PairedSample(level + 0.25, level), one_each(PairedSample(level, level))),
    )
    assert same is not None and (same.p_value, same.margin) == (1.0, 0.0)
    assert more is not None and (more.p_value, more.difference) == (0.0, 0.25)


# Both, corrected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_with_bonferronis(p_values: list[float]) -> None:
    """An adjusted p-value is the largest Bonferroni p-value of any group of hypotheses that this one is in."""
    groups = [set(g) for n in range(len(p_values)) for g in itertools.combinations(range(len(p_values)), n + 1)]
    expected = [
        max(min(1.0, len(group) * min(p_values[m] for m in group)) for group in groups if place in group)
        for place in range(len(p_values))
    ]
    assert holm(p_values).tolist() == pytest.approx(expected)


def test_the_claims_of_a_table_follow_from_its_parts() -> None:
    generator = np.random.default_rng(8)
    base = sparse(generator, 3, 300)
    better, worse, same = (
        base + generator.normal(0.05, 0.1, (3, 300)),
        0.7 * base,
        base + generator.normal(0, 0.01, (3, 300)),
    )
    pairs = [PairedSample(better, base), PairedSample(worse, base), PairedSample(same, base)]
    found = corrected(differences(pairs, np.arange(300)))
    assert [one.verdict for one in found] == ["better", "worse", "no difference found"]
    for pair, one in zip(pairs, found, strict=True):
        test = seed_test(pair, one_each(pair))
        differing = (pair.variant - pair.baseline).mean(axis=0)
        assert test is not None
        assert one.relative == pytest.approx(pair.variant.mean() / pair.baseline.mean() - 1)
        assert one.effect_size == pytest.approx(differing.mean() / differing.std(ddof=1))
        assert one.p_users == sign_flip_p_values(differing[:, None])[0]
        assert one.p_seeds == pytest.approx(test.p_value)
        assert one.p_value == max(one.p_users, one.p_seeds)
        assert one.seeds_ci95 == pytest.approx(
            [(test.difference + sign * test.margin) / pair.baseline.mean() for sign in (-1, 1)]
        )
    assert [one.p_adjusted for one in found] == pytest.approx(holm([one.p_value for one in found if one.p_value]))


def test_no_interval_goes_below_minus_one() -> None:
    """Two seeds of a variant that fails in one of them: the interval is wide, but ends at -1."""
    generator = np.random.default_rng(4)
    baseline = sparse(generator, 2, 200)
    pair = PairedSample(np.stack([baseline[0], 0 * baseline[0]]), baseline)
    found = seed_test(pair, np.ones(200, dtype=np.int64))
    assert found is not None and found.difference - found.margin < -baseline.mean()  # so far by the t distribution
    (one,) = corrected(differences([pair], np.arange(200), flips=99, resamples=99))
    assert one.seeds_ci95 is not None
    assert one.seeds_ci95[0] == -1 and one.seeds_ci95[1] == pytest.approx(
        (found.difference + found.margin) / baseline.mean()
    )


def test_more_comparisons_make_a_claim_harder() -> None:
    pair, others = pair_of(11, users=400, gain=0.02), [pair_of(seed, users=400) for seed in range(20, 29)]
    alone = corrected(differences([pair], np.arange(400)))[0]
    crowded = corrected(differences([pair, *others], np.arange(400)))[0]
    assert alone.p_value is not None and alone.p_adjusted == pytest.approx(alone.p_value)
    assert crowded.p_adjusted == pytest.approx(min(1.0, 10 * alone.p_value))


def test_too_few_users_are_said_to_be_too_few() -> None:
    (found,) = corrected(differences([pair_of(1, users=49)], np.arange(49)))
    assert (found.verdict, found.p_value, found.ci95) == ("too few users", None, None)
    (found,) = corrected(differences([pair_of(1, users=50)], np.arange(50)))
    assert found.verdict != "too few users"
    (found,) = corrected(differences([pair_of(1, users=200)], np.arange(200) % 49))
    assert found.verdict == "too few users", "cases are no users"


def test_a_baseline_that_finds_nothing_gives_no_relative_difference_but_a_verdict() -> None:
    variant = sparse(np.random.default_rng(2), 3, 300)
    (found,) = corrected(differences([PairedSample(variant, np.zeros((3, 300)))], np.arange(300)))
    assert (found.relative, found.ci95, found.seeds_ci95, found.verdict) == (None, None, None, "better")
    (found,) = corrected(differences([PairedSample(np.zeros((3, 300)), np.zeros((3, 300)))], np.arange(300)))
    assert (found.relative, found.p_value, found.verdict) == (None, 1.0, "no difference found")


@given(st.integers(2, 5))
@settings(max_examples=4)
def test_cases_of_one_user_count_as_one_user(copies: int) -> None:
    """Repeated cases add no evidence, in any order."""
    pair = pair_of(12, users=80, gain=0.03)
    user = np.repeat(np.arange(80), copies)
    order = np.random.default_rng(copies).permutation(len(user))
    many = PairedSample(
        np.repeat(pair.variant, copies, axis=1)[:, order], np.repeat(pair.baseline, copies, axis=1)[:, order]
    )
    (once,), (often,) = differences([pair], np.arange(80)), differences([many], user[order])
    assert once.p_value is not None and once.ci95 is not None and once.seeds_ci95 is not None
    assert often.p_users == once.p_users
    assert often.p_seeds == pytest.approx(once.p_seeds)
    assert often.ci95 == pytest.approx(once.ci95)
    assert often.seeds_ci95 == pytest.approx(once.seeds_ci95)
    assert often.effect_size == pytest.approx(once.effect_size)


# Without a true difference


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    """benchmarks/false_claims.py, which measures the same with many more comparisons."""
    spec = importlib.util.spec_from_file_location("false_claims", REPOSITORY / "benchmarks" / "false_claims.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["false_claims"] = module  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seeds", [3, 5])
def test_where_there_is_no_difference_few_are_claimed_and_a_test_over_users_alone_claims_many(
    simulation: ModuleType, seeds: int
) -> None:
    rates = simulation.rates(simulation.World(seeds=seeds, users=3_000, seed_std=0.004), comparisons=300)
    assert rates["claimed"] <= 0.065 + 3 * np.sqrt(0.065 * 0.935 / 300)
    assert rates["users alone"] > 0.15


def test_a_large_difference_is_found(simulation: ModuleType) -> None:
    rates = simulation.rates(simulation.World(seeds=5, users=3_000, effect=0.6), comparisons=40)
    assert rates["claimed"] > 0.9


def test_the_simulated_world_has_the_level_and_the_sparsity_that_it_claims(simulation: ModuleType) -> None:
    metrics = simulation.draw(
        simulation.World(seeds=2, users=100_000, seed_std=0.0, effect=0.1), np.random.default_rng(0)
    )
    baseline, variant = (of_one["NDCG@10"] for of_one in metrics)
    assert (baseline == 0).mean() == pytest.approx(0.9, abs=0.005)
    assert variant.mean() / baseline.mean() == pytest.approx(1.1, abs=0.02)
    found = metrics[0]["NDCG@10"]
    np.testing.assert_array_equal(metrics[0]["Recall@10"], (found > 0).astype(float))
    places = 2 ** (1 / found[found > 0]) - 2
    np.testing.assert_allclose(places, places.round(), atol=1e-9)
    assert set(places.round().astype(int).tolist()) == set(range(10))


def test_the_record_keeps_the_bound_that_it_was_made_for() -> None:
    record = json.loads((REPOSITORY / "benchmarks" / "results" / "false_claims.json").read_text("utf-8"))
    rows = [row for row in record["rows"] if row["what"] == "as on Beauty"]
    assert [(row["seeds"], row["comparisons"]) for row in rows] == [(3, 5_000), (5, 5_000)]
    assert all(row["claimed"] <= 0.065 for row in rows)
