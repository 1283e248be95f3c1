"""leaderboard.tex: a table that LaTeX reads, with the values and marks of the board."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_runs import fake_decided, fake_run

from blair_rec.evaluate.formats.tex import MARKS, escaped, to_tex
from blair_rec.evaluate.leaderboard import Leaderboard, build_leaderboard
from blair_rec.evaluate.runs.results import load_runs
from blair_rec.evaluate.runs.run_files import PROTOCOLS

METRICS = ["NDCG@10", "Recall@10"]


@pytest.fixture
def board(tmp_path: Path) -> Leaderboard:
    for variant in ("id", "text_50", "shuffled"):
        for seed in (1, 2, 3):
            fake_run(tmp_path, variant, seed)
    return build_leaderboard(load_runs(tmp_path), "id", METRICS, "masked")


def rows_of(tex: str) -> list[list[str]]:
    """The cells of the lines between the rules."""
    body = tex.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    return [line.removesuffix(" \\\\").split(" & ") for line in body.splitlines()]


def test_every_cell_has_the_value_of_the_board_and_the_best_one_is_bold(board: Leaderboard) -> None:
    rows = rows_of(to_tex(board))
    assert [row[0] for row in rows] == [escaped(row.variant) for row in board.rows]
    columns = [(protocol, metric) for protocol in PROTOCOLS[::-1] for metric in METRICS]  # the chosen protocol is first
    for place, (protocol, metric) in enumerate(columns, start=1):
        means = [row.metrics[protocol][metric].mean for row in board.rows]
        for mean, cells in zip(means, rows, strict=True):
            assert f"{mean:.4f}" in cells[place]
            assert cells[place].startswith("\\textbf{") == (mean == max(means))


def test_marks_are_those_of_the_verdicts(tmp_path: Path) -> None:
    board = build_leaderboard(load_runs(fake_decided(tmp_path)), "id", METRICS, "unmasked")
    first = {row[0]: row[1] for row in rows_of(to_tex(board))}
    assert MARKS["better"] in first["text"] and MARKS["worse"] in first["worst"]
    for name, cell in first.items():
        assert name in ("text", "worst") or not any(mark in cell for mark in MARKS.values())


def test_braces_and_columns_are_balanced_and_names_are_escaped(board: Leaderboard) -> None:
    tex = to_tex(board)
    plain = re.sub(r"\\[{}]", "", "\n".join(line for line in tex.splitlines() if not line.startswith("%")))
    assert plain.count("{") == plain.count("}")
    assert {len(row) for row in rows_of(tex)} == {1 + 2 * len(METRICS)}
    assert "text\\_50" in tex and "±" not in plain and "▲" not in plain
    assert all(line.startswith("%") for line in tex.partition("\\begin{table}")[0].splitlines())
    assert escaped("50% & $x_1$ #{a}~^\\") == (
        "50\\% \\& \\$x\\_1\\$ \\#\\{a\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{}"
    )
    assert escaped("<a|b>") == "\\textless{}a\\textbar{}b\\textgreater{}"
