"""Borda count and mean rank against their definitions, and labels of leaderboards."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fake_runs import fake_run
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.errors import ConfigError
from blair_rec.evaluate.across import labels, standings
from blair_rec.evaluate.leaderboard import Leaderboard, build_leaderboard
from blair_rec.evaluate.runs.results import load_runs

VARIANTS = ("id", "text", "text_init", "mean")


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    folder: Path = tmp_path_factory.mktemp("board")
    for variant in VARIANTS:
        fake_run(folder, variant)
    return build_leaderboard(load_runs(folder), "id", ["NDCG@10", "MRR@10"], "masked")


def with_means(board: Leaderboard, means: dict[str, float]) -> Leaderboard:
    """The same board with only these variants, and with these means of the first metric."""
    rows = []
    for row in board.rows:
        if row.variant in means:
            summary = dataclasses.replace(row.metrics["masked"]["NDCG@10"], mean=means[row.variant])
            rows.append(dataclasses.replace(row, metrics={**row.metrics, "masked": {"NDCG@10": summary}}))
    return dataclasses.replace(board, rows=tuple(rows))


MEANS = st.lists(st.sampled_from([0.01, 0.02, 0.03]), min_size=4, max_size=4)


@given(st.lists(MEANS, min_size=1, max_size=4))
def test_borda_counts_beaten_variants_and_ties_share_ranks(board, columns):
    tables = [dict(zip(VARIANTS, column, strict=True)) for column in columns]
    found = standings([with_means(board, table) for table in tables])
    for one in found:
        beaten = sum(
            1.0 if table[one.variant] > table[other] else 0.5 if table[one.variant] == table[other] else 0.0
            for table in tables
            for other in VARIANTS
            if other != one.variant
        )
        assert one.borda == beaten
        assert one.mean_rank == pytest.approx(4 - beaten / len(tables))
        assert [summary.mean for summary in one.summaries] == [table[one.variant] for table in tables]
    assert [(one.mean_rank, one.variant) for one in found] == sorted((one.mean_rank, one.variant) for one in found)


def test_only_variants_that_all_have_are_ranked(board):
    most = with_means(board, {"id": 0.1, "text": 0.2, "mean": 0.3})
    fewer = with_means(board, {"id": 0.1, "text": 0.2, "text_init": 0.3})
    assert [(one.variant, one.borda) for one in standings([most, fewer])] == [("text", 2.0), ("id", 0.0)]
    with pytest.raises(ConfigError, match="have 1 variant in common"):
        standings([most, with_means(board, {"id": 0.1})])


def test_leaderboards_in_different_orders_are_refused(board):
    with pytest.raises(ConfigError, match="ordered by NDCG@10 masked and NDCG@10 unmasked"):
        standings([board, dataclasses.replace(board, protocol="unmasked")])


def named(board: Leaderboard, datasets: list[str], folders: list[str]) -> list[str]:
    boards = [dataclasses.replace(board, dataset=dataset) for dataset in datasets]
    return labels(boards, [Path(folder) for folder in folders])


def test_leaderboards_of_different_data_sets_are_named_by_these(board):
    assert named(board, ["Toys", "Beauty"], ["runs/a", "runs/b"]) == ["Toys", "Beauty"]


def test_leaderboards_of_one_data_set_are_named_by_their_folders_too(board):
    found = named(board, ["Toys", "Beauty", "Toys"], ["runs/minilm", "runs/beauty", "runs/blair"])
    assert found == ["Toys (minilm)", "Beauty", "Toys (blair)"]
    assert named(board, ["Toys", "Toys"], ["monday/toys", "friday/toys"]) == [
        "Toys (monday/toys)",
        "Toys (friday/toys)",
    ]
    here = Path.cwd().name
    assert named(board, ["Toys", "Toys"], [".", "runs/b"]) == [f"Toys ({here})", "Toys (b)"]
