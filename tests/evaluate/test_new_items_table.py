"""The table of new items over several seeds, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import fake_run

from blair_rec.errors import BadRun, UnpairedRuns
from blair_rec.evaluate.leaderboard import Leaderboard, build_leaderboard
from blair_rec.evaluate.report import to_csv, to_markdown
from blair_rec.evaluate.runs.new_items import table_cells
from blair_rec.evaluate.runs.new_ranks import COUNTS, NewRanks
from blair_rec.evaluate.runs.results import load_run, load_runs


def new_ranks(higher: list[int], equal: list[int], why: str = "", **changes: Any) -> NewRanks:
    """Ranks of three test cases among 20 new items; among the new alone nothing is above, and all are below."""
    counts = {
        "higher_unmasked": np.array(higher),
        "equal_unmasked": np.array(equal),
        "higher_masked": np.array(higher) // 2,
        "equal_masked": np.array(equal),
        "higher_new": np.array([0, 1, 12]),
        "equal_new": np.array([0, 0, 0]),
    }
    if why:
        counts = dict.fromkeys(counts, np.zeros(0, np.int64))
    arrays = {
        "user": np.array([1, 2, 2]),
        "item": np.array([31, 32, 50]),
        "history_length": np.array([3, 4, 5]),
        **counts,
        "known": np.array(31),
        "left_out": np.array(2),
        "tokens": np.array([f"new{number}" for number in range(20)]),
        "why": np.array(why),
    }
    return NewRanks(**{**arrays, **changes})


def board_of(folder: Path, text_2: NewRanks | None = None) -> Leaderboard:
    why = new_ranks([], [], "items: id knows items by their events alone; use text")
    for variant, seed, ranks in (
        ("id", 1, why),
        ("id", 2, why),
        ("text", 1, new_ranks([0, 4, 30], [0, 0, 0])),
        ("text", 2, text_2 or new_ranks([2, 8, 30], [0, 3, 0])),
    ):
        fake_run(folder, variant, seed, new_items=ranks)
    return build_leaderboard(load_runs(folder), "id", ["NDCG@10"], "unmasked")


def test_means_and_deviations_are_those_of_the_definitions(tmp_path: Path) -> None:
    table = board_of(tmp_path).new_items
    assert table is not None
    row = table.rows["text"]
    gains = [1 / math.log2(place + 2) for place in range(10)]
    # Of the last case of seed 2, four places tie: 8 to 11, of which two count.
    first, second = (gains[0] + gains[4]) / 3, (gains[2] + (gains[8] + gains[9]) / 4) / 3
    found = row.among_all["unmasked"]["NDCG@10"]
    assert found.per_seed == pytest.approx((first, second)) and found.mean == pytest.approx((first + second) / 2)
    assert found.std == pytest.approx(abs(first - second) / math.sqrt(2))
    assert row.among_all["unmasked"]["Recall@10"].per_seed == pytest.approx((2 / 3, 1.5 / 3))
    assert row.among_all["masked"]["NDCG@10"].per_seed[0] == pytest.approx((gains[0] + gains[2]) / 3)
    assert row.among_new["NDCG@10"].mean == pytest.approx((gains[0] + gains[1]) / 3)
    assert table.by_chance == pytest.approx({"Recall@10": 0.5, "NDCG@10": sum(gains) / 20})
    assert (table.items, table.known, table.users, table.cases, table.left_out) == (20, 30, 2, 3, 2)
    assert table.rows["id"].why == "items: id knows items by their events alone; use text"


def test_the_table_shows_who_can_and_who_cannot(tmp_path: Path) -> None:
    board = board_of(tmp_path)
    assert board.new_items is not None
    header, lines = table_cells(board.new_items, {"text": "text", "id": "id"}, "unmasked")
    assert len(header) == 5 and lines[1] == ["id", "can't score new items", "", "", ""]
    assert lines[0][4] == "0.6667 ± 0.0000" and lines[2][3:] == ["0.2272", "0.5000"]
    assert "2 cases without a known item in the history were left out." in to_markdown(board)
    records = [line.split(",") for line in to_csv(board).splitlines()]
    place = {name: number for number, name in enumerate(records[0])}
    new = [one for one in records if one[place["slice"]].startswith("new_items")]
    assert len(new) == 8 and {one[place["variant"]] for one in new} == {"text"}
    assert {one[place["candidates"]] for one in new} == {"50", "20"} and {one[place["cases"]] for one in new} == {"3"}
    assert {one[place["verdict"]] for one in new} == {""}


def test_runs_over_other_new_items_are_not_put_into_one_table(tmp_path: Path) -> None:
    other = new_ranks([2, 8, 30], [0, 3, 0], item=np.array([31, 33, 50]))
    with pytest.raises(UnpairedRuns, match="their new items differ: item"):
        board_of(tmp_path, other)


def test_where_no_test_case_has_a_new_item_as_target_there_is_no_table(tmp_path: Path) -> None:
    nothing = {name: np.zeros(0, np.int64) for name in ("user", "item", "history_length", *COUNTS)}
    for seed in (1, 2):
        fake_run(tmp_path, "id", seed, new_items=new_ranks([], [], **nothing))
    assert build_leaderboard(load_runs(tmp_path), "id", ["NDCG@10"], "unmasked").new_items is None


def test_a_file_of_new_items_that_was_swapped_removed_or_added_is_found(tmp_path: Path) -> None:
    board_of(tmp_path)
    one, two = (tmp_path / "runs" / f"text-{seed}" / "new_items.npz" for seed in (1, 2))
    other, own = two.read_bytes(), one.read_bytes()
    one.write_bytes(other)
    with pytest.raises(BadRun, match=r"text-1/new_items.npz: is not the file that this run wrote"):
        _ = load_run(one.parent).new_items
    one.unlink()
    with pytest.raises(BadRun, match=r"text-1/new_items.npz: is missing; delete .*text-1, and make it again"):
        _ = load_run(one.parent).new_items
    added = fake_run(tmp_path, "text", 3)
    assert load_run(added).new_items is None
    (added / one.name).write_bytes(own)
    with pytest.raises(BadRun, match=r"text-3/new_items.npz: is not the file that this run wrote"):
        _ = load_run(added).new_items
