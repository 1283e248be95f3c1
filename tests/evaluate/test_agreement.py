"""A comparison against an older one: identical, within noise, or changed, and in which metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_runs import fake_ranks, fake_run

from blair_rec.errors import ConfigError, UnpairedRuns
from blair_rec.evaluate.agreement import moves
from blair_rec.evaluate.runs.results import load_runs
from blair_rec.evaluate.runs.run_files import PROTOCOLS
from blair_rec.evaluate.significance import PairedSample, corrected, differences

METRICS = ["NDCG@10", "Recall@5"]


def comparison(folder: Path, draw: int, seeds: tuple[int, ...] = (1, 2, 3), worse: str | None = None) -> Path:
    """id and text on 300 users; another `draw` gives other ranks of the same quality, `worse` much lower ones."""
    dice = np.random.default_rng(draw)
    for variant in ("id", "text"):
        for seed in seeds:
            higher, none = dice.integers(0, 26, size=300), np.zeros(300, dtype=np.int64)
            if variant == worse:
                higher = 20 + higher // 6
            ranks = {
                "higher_unmasked": higher,
                "higher_masked": higher // 2,
                "equal_unmasked": none,
                "equal_masked": none,
            }
            fake_run(folder, variant, seed, ranks=fake_ranks(cases=300, **ranks))
    return folder


def test_the_same_runs_are_identical(tmp_path):
    one, two = (load_runs(comparison(tmp_path / name, draw=1)) for name in ("one", "two"))
    found = moves(one, two, METRICS)
    assert [(move.variant, move.protocol, move.metric) for move in found] == [
        (variant, protocol, metric) for variant in ("id", "text") for protocol in PROTOCOLS for metric in METRICS
    ]
    assert all(move.identical and move.agrees for move in found)
    assert str(found[0]) == f"id: NDCG@10 (unmasked) {found[0].then:.4f} -> {found[0].now:.4f}, identical"


def test_other_trainings_of_the_same_kind_agree_within_noise(tmp_path):
    found = moves(
        load_runs(comparison(tmp_path / "one", draw=1)), load_runs(comparison(tmp_path / "two", draw=2)), METRICS
    )
    assert all(move.agrees and not move.identical for move in found)
    assert all("within noise" in str(move) for move in found)


def test_a_metric_that_moved_is_named_with_its_p_value(tmp_path):
    then, now = (load_runs(comparison(tmp_path / name, draw, worse=worse))
                 for name, draw, worse in (("then", 1, None), ("now", 2, "text")))  # fmt: skip
    found = moves(now, then, METRICS)
    values = {
        key: [np.stack([run.per_user(key[2], key[1]) for run in runs if run.variant == key[0]]) for runs in (now, then)]
        for key in ((move.variant, move.protocol, move.metric) for move in found)
    }
    expected = corrected(differences([PairedSample(*pair) for pair in values.values()], now[0].ranks.user))
    assert [move.difference for move in found] == expected
    for move, (ours, theirs) in zip(found, values.values(), strict=True):
        assert (move.now, move.then) == (pytest.approx(ours.mean()), pytest.approx(theirs.mean()))
    assert {move.variant for move in found if not move.agrees} == {"text"}
    assert str([move for move in found if move.variant == "text"][0]).endswith(", worse")
    assert "p = " in str(found[-1])


def test_a_single_seed_agrees_only_by_being_identical(tmp_path):
    one, two, other = (load_runs(comparison(tmp_path / name, draw, seeds=(1,)))
                       for name, draw in (("one", 1), ("two", 1), ("other", 2)))  # fmt: skip
    assert all(move.agrees for move in moves(one, two, METRICS))
    found = moves(one, other, METRICS)
    assert not any(move.agrees for move in found)
    assert str(found[0]).endswith(", too few seeds")


def test_only_variants_that_both_have_are_compared(tmp_path):
    now, then = load_runs(comparison(tmp_path / "now", 1)), load_runs(comparison(tmp_path / "then", 2))
    assert {move.variant for move in moves(now, [run for run in then if run.variant == "id"], METRICS)} == {"id"}
    with pytest.raises(ConfigError, match="no variant in common"):
        moves([r for r in now if r.variant == "text"], [r for r in then if r.variant == "id"], METRICS)


def test_other_test_cases_cannot_be_compared(tmp_path):
    fake_run(tmp_path / "now", "id")
    fake_run(tmp_path / "then", "id", ranks=fake_ranks(cases=41))
    with pytest.raises(UnpairedRuns, match="40 and 41 test cases"):
        moves(load_runs(tmp_path / "now"), load_runs(tmp_path / "then"), METRICS)
