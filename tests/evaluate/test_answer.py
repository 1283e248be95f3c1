"""The answer in a sentence, for each way a comparison can end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import fake_decided, fake_ranks, fake_run

from blair_rec.evaluate.answer import answer, p_value
from blair_rec.evaluate.leaderboard import Leaderboard, build_leaderboard
from blair_rec.evaluate.runs.recorded import Parameters
from blair_rec.evaluate.runs.results import load_runs


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    folder = fake_decided(tmp_path_factory.mktemp("decided"))
    return build_leaderboard(load_runs(folder), "id", ["NDCG@10", "Recall@5"], "unmasked")


def with_claims(board: Leaderboard, **of_variants: dict[str, Any]) -> Leaderboard:
    """The same board with other differences in the first metric of these variants; slices stay the same."""
    rows = []
    for row in board.rows:
        if row.variant in of_variants:
            summary = row.metrics["unmasked"]["NDCG@10"]
            assert summary.versus_baseline is not None
            versus = dataclasses.replace(summary.versus_baseline, **of_variants[row.variant])
            changed = {**row.metrics["unmasked"], "NDCG@10": dataclasses.replace(summary, versus_baseline=versus)}
            row = dataclasses.replace(row, metrics={**row.metrics, "unmasked": changed})
        rows.append(row)
    return dataclasses.replace(board, rows=tuple(rows))


def without(board: Leaderboard, *variants: str) -> Leaderboard:
    return dataclasses.replace(board, rows=tuple(row for row in board.rows if row.variant not in variants))


TWELVE = {"relative": 0.123, "seeds_ci95": (0.08, 0.163), "p_adjusted": 0.0034, "verdict": "better"}
NONE = {"relative": 0.02, "seeds_ci95": (-0.041, 0.081), "p_adjusted": 0.4, "verdict": "no difference found"}


def test_a_winner_is_named_with_interval_p_value_and_the_items_that_gain(decided):
    gaining = [
        name
        for name in ("cold", "tail", "head")
        if {r.variant: r for r in decided.rows}["text"]
        .slices[name]
        .metrics["unmasked"]["NDCG@10"]
        .versus_baseline.verdict
        == "better"
    ]
    assert gaining == ["tail", "head"]
    board = with_claims(decided, text=TWELVE)
    expected = "text beats id by 12% [8, 16], p = .003, on NDCG@10 (unmasked); gains come from tail and head items"
    assert answer(board) == expected
    assert answer(with_claims(decided, text={**TWELVE, "p_adjusted": 0.0002})).startswith(
        "text beats id by 12% [8, 16], p < .001"
    )


def test_further_winners_and_controls_that_win_are_named(decided):
    board = with_claims(decided, text=TWELVE, worst=TWELVE, shuffled=TWELVE)
    assert answer(board).endswith(
        "; also better: worst by 12% [8, 16], p = .003; "
        "but the control shuffled (by 12% [8, 16], p = .003) gains too, so the gain may not come from the text"
    )


def test_of_many_that_do_not_differ_three_are_named_and_the_others_counted(decided):
    board = with_claims(decided, text=NONE, worst=NONE, shuffled=NONE)
    fourth = next(row for row in board.rows if row.variant == "worst")
    more = [dataclasses.replace(fourth, variant=name) for name in ("other", "last")]
    more = dataclasses.replace(board, rows=(*board.rows, *more))
    assert (
        answer(board)
        == "no variant differs significantly from id on NDCG@10 (unmasked): text +2% [-4, 8], worst +2% [-4, 8]"
    )
    assert answer(more) == answer(board) + ", other +2% [-4, 8] and 1 more"


def test_a_scorer_that_is_left_out_is_not_counted_as_a_variant(decided):
    board = with_claims(decided, text=NONE, worst=NONE, shuffled=NONE)
    nothing = dataclasses.replace(board.rows[-1].parameters, trained=0)
    scorer = dataclasses.replace(board.rows[-1], variant="popularity", parameters=nothing, control=None)
    metric = dataclasses.replace(scorer.metrics["unmasked"]["NDCG@10"], mean=0.001)
    scorer = dataclasses.replace(scorer, metrics={**scorer.metrics, "unmasked": {"NDCG@10": metric}})
    sentence = answer(dataclasses.replace(board, rows=(*board.rows, scorer)))
    assert sentence == answer(board).replace("no variant", "no trained variant")


def test_a_control_alone_is_no_winner(decided):
    said = "but the control shuffled (by 12% [8, 16], p = .003) gains, so a gain may not come from the text"
    sentence = answer(with_claims(without(decided, "worst"), text=NONE, shuffled=TWELVE))
    assert sentence == f"no variant differs significantly from id on NDCG@10 (unmasked): text +2% [-4, 8]; {said}"
    sentence = answer(with_claims(without(decided, "worst", "text"), shuffled=TWELVE))
    assert sentence == f"only controls have been run besides id: there is no other method to compare; {said}"


def training_free(board: Leaderboard, *variants: str) -> Leaderboard:
    """The same board where these variants have no trained parameters."""
    parameters = Parameters(trained=0, frozen=0)
    rows = [dataclasses.replace(row, parameters=parameters) if row.variant in variants else row for row in board.rows]
    return dataclasses.replace(board, rows=tuple(rows))


WORSE = {"relative": -0.05, "seeds_ci95": (-0.09, -0.012), "p_adjusted": 0.02, "verdict": "worse"}


@pytest.mark.parametrize("claim", [TWELVE, NONE, WORSE])
def test_a_training_free_scorer_that_is_beaten_is_not_named(decided, claim):
    """`worst` ranks below `text` and `id`, whatever is claimed of it."""
    board = training_free(with_claims(decided, text=TWELVE, worst=claim, shuffled=NONE), "worst")
    assert board.rows[0].variant == "text"
    assert answer(board) == answer(without(board, "worst")) and "worst" not in answer(board)


def test_a_training_free_scorer_that_no_trained_variant_beats_is_named(decided):
    board = with_claims(training_free(decided, "text"), text=TWELVE, worst=WORSE, shuffled=NONE)
    means = {row.variant: row.metrics["unmasked"]["NDCG@10"].mean for row in board.rows}
    best = "id" if means["id"] > means["worst"] else "worst"
    assert answer(board) == (
        "no trained variant beats id on NDCG@10 (unmasked); worse: worst by 5% [1, 9], p = .020; "
        f"{best} ({means[best]:.4f}) does not beat training-free text ({means['text']:.4f})"
    )


def test_a_sentence_without_a_winner_speaks_of_trained_variants_if_a_training_free_one_is_on_top(decided):
    board = with_claims(training_free(decided, "text"), text=NONE, worst=NONE, shuffled=NONE)
    start = "no trained variant differs significantly from id on NDCG@10 (unmasked): worst +2% [-4, 8]; "
    assert answer(board).startswith(start) and "does not beat training-free text" in answer(board)


def test_training_free_scorers_alone_are_compared_with_the_baseline(decided):
    board = with_claims(training_free(decided, "text", "worst"), text=TWELVE, worst=WORSE, shuffled=NONE)
    assert answer(board).startswith("text beats id by 12% [8, 16], p = .003, on NDCG@10 (unmasked)")
    assert "training-free" not in answer(board), "the sentence compares text and id already"
    all_free = training_free(board, "id", "text", "worst")
    assert answer(all_free) == answer(board)


def test_losses_are_named_as_losses(decided):
    sentence = answer(with_claims(decided, text=NONE, worst=WORSE, shuffled=NONE))
    assert sentence == "no variant beats id on NDCG@10 (unmasked); worse: worst by 5% [1, 9], p = .020"


def test_no_difference_is_stated_as_such(decided):
    sentence = answer(with_claims(without(decided, "worst", "shuffled"), text=NONE))
    assert sentence == "no variant differs significantly from id on NDCG@10 (unmasked): text +2% [-4, 8]"


def test_nothing_is_claimed_without_enough_seeds_and_users(tmp_path: Path):
    fake_run(tmp_path / "alone", "id")
    few = fake_ranks(cases=40)
    one = fake_ranks(cases=60)
    for variant in ("id", "text"):
        for seed in (1, 2):
            fake_run(tmp_path / "few", variant, seed, ranks=few)
        fake_run(tmp_path / "one", variant, ranks=one)
    sentences = {
        name: answer(build_leaderboard(load_runs(tmp_path / name), "id", ["NDCG@10"], "masked"))
        for name in ("alone", "few", "one")
    }
    assert sentences == {
        "alone": "only id has been run: there is nothing to compare it with",
        "few": "no claim on NDCG@10 (masked): 40 users are too few",
        "one": "no claim on NDCG@10 (masked): a single seed can't tell a difference from luck; "
        "use at least two seeds, better five",
    }


def test_a_baseline_that_finds_nothing_is_beaten_without_a_percentage(tmp_path: Path):
    last, first = np.full(200, 25), np.zeros(200, dtype=np.int64)
    for seed in (1, 2):
        for variant, higher in (("id", last), ("text", first)):
            ranks = fake_ranks(cases=200, higher_unmasked=higher, equal_unmasked=first)
            fake_run(tmp_path, variant, seed, ranks=ranks)
    sentence = answer(build_leaderboard(load_runs(tmp_path), "id", ["NDCG@10"], "unmasked"))
    assert sentence.startswith("text beats id, p < .001, on NDCG@10 (unmasked)")


@pytest.mark.parametrize(
    "p, words", [(0.0004, "p < .001"), (0.0034, "p = .003"), (0.05, "p = .050"), (0.4, "p = .400"), (1.0, "p = 1")]
)
def test_p_values_are_written_as_usual(p, words):
    assert p_value(p) == words
