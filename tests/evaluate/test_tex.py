"""leaderboard.tex: a table that LaTeX reads, with the values and marks of the board."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_runs import fake_decided, fake_run
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.config.names import ELSEWHERE
from blair_rec.evaluate.caption import HISTORY
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


def board_of(folder: Path, labels: dict[str, str], seeds: Sequence[int] = (1, 2, 3), **changes: Any) -> Leaderboard:
    """A board with five metrics, and with variants that other systems trained: their names and labels."""
    metrics = changes.pop("metrics", [*METRICS, "MRR@10", "NDCG@20", "Recall@20"])
    for seed in seeds:
        fake_run(folder, "id", seed, **changes)
        fake_run(folder, "text_init_whitened", seed, control="shuffle", **changes)
        for variant, label in labels.items():
            fake_run(folder, variant, seed, items=ELSEWHERE, model=label, elsewhere=True, epochs=0, **changes)
    return build_leaderboard(load_runs(folder), "id", metrics, "masked")


def rows_of(tex: str, protocol: str) -> list[list[str]]:
    """The cells of the rows of a protocol."""
    body = tex.partition(f"{HISTORY[protocol]}}} \\\\\n")[2]
    body = re.split(r"\\midrule|\\bottomrule", body)[0]
    return [line.removesuffix(" \\\\").split(" & ") for line in body.splitlines()]


def test_every_cell_has_the_value_of_the_board_and_the_best_one_is_bold(board: Leaderboard) -> None:
    tex = to_tex(board)
    places = {protocol: tex.index(f"{{\\itshape {HISTORY[protocol]}}}") for protocol in PROTOCOLS}
    assert places["masked"] < places["unmasked"], "the chosen protocol is first"
    for protocol in PROTOCOLS:
        rows = rows_of(tex, protocol)
        assert [row[0] for row in rows] == [escaped(row.variant) for row in board.rows]
        assert {len(row) for row in rows} == {1 + len(METRICS)}
        for place, metric in enumerate(METRICS, start=1):
            means = [row.metrics[protocol][metric].mean for row in board.rows]
            for mean, cells in zip(means, rows, strict=True):
                assert f"{mean:.4f}" in cells[place]
                assert cells[place].startswith("\\textbf{") == (mean == max(means))


def test_marks_are_those_of_the_verdicts(tmp_path: Path) -> None:
    board = build_leaderboard(load_runs(fake_decided(tmp_path)), "id", METRICS, "unmasked")
    first = {row[0]: row[1] for row in rows_of(to_tex(board), "unmasked")}
    assert MARKS["better"] in first["text"] and MARKS["worse"] in first["worst"]
    for name, cell in first.items():
        assert name in ("text", "worst") or not any(mark in cell for mark in MARKS.values())


def test_braces_are_balanced_and_names_are_escaped(board: Leaderboard) -> None:
    tex = to_tex(board)
    plain = re.sub(r"\\[{}]", "", "\n".join(line for line in tex.splitlines() if not line.startswith("%")))
    assert plain.count("{") == plain.count("}")
    assert "text\\_50" in tex and "±" not in plain and "▲" not in plain
    assert all(line.startswith("%") for line in tex.partition("\\begin{table}")[0].splitlines())
    assert escaped("50% & $x_1$ #{a}~^\\") == (
        "50\\% \\& \\$x\\_1\\$ \\#\\{a\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{}"
    )
    assert escaped("<a|b>") == "\\textless{}a\\textbar{}b\\textgreater{}"


@given(st.text(max_size=20))
def test_no_text_leaves_a_sign_that_latex_reads_as_a_command(text: str) -> None:
    found = escaped(text)
    known = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|`)\{\}", "", found)
    plain = re.sub(r"\\[{}&%$#_]", "", known)
    assert not set(re.sub(r"(?<=[-',])\{\}", "", plain)) & set("\\{}&%$#_~^<>|`\n")
    assert all(sign.isprintable() for sign in found)
    assert not re.search(r"--|''|,,", found), "LaTeX prints another sign for these pairs"


@pytest.mark.parametrize(
    "label, line",
    [
        ("Grüße aus Łódź – “café”", None),
        ("Þór", r"% Þ needs \usepackage[T1]{fontenc}."),
        ("日本 Þ", "% pdfLaTeX can't print 日 本: use XeLaTeX or LuaLaTeX, and a font that has these letters."),
    ],
)
def test_the_file_says_what_its_letters_need(tmp_path: Path, label: str, line: str | None) -> None:
    first, second, *_ = to_tex(board_of(tmp_path, {"own": label}, seeds=[1])).splitlines()
    assert first == r"% Needs \usepackage{booktabs} and \usepackage{graphicx}."
    assert second == (line or r"\begin{table}") or second.startswith("% Note") and line is None


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize(
    "fonts, labels, seeds, metrics",
    [
        ("", {"own": r"Ünï_&%#$~^{}\<a|b>--``x'' [1], a \"q\" ç Łódź", "plain": ELSEWHERE}, (1, 2, 3), None),
        ("", {f"system_{number}": "one of many" for number in range(30)}, (1,), ["NDCG@10"]),
        (r"\usepackage[T1]{fontenc}", {"own": "«Þór» ą"}, (1, 2), METRICS),
    ],
    ids=["special signs", "many variants", "T1"],
)
def test_pdflatex_compiles_it_without_a_complaint_and_it_fits_the_page(
    tmp_path: Path, fonts: str, labels: dict[str, str], seeds: tuple[int, ...], metrics: list[str] | None
) -> None:
    changes = {"metrics": metrics} if metrics else {}
    tex = to_tex(board_of(tmp_path, labels, seeds, dataset=r"my_data & 50% #1 ]\x", **changes))
    packages = "\n".join([r"\usepackage{booktabs,graphicx}", fonts])
    paper = f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n\\listoftables\n{tex}\\end{{document}}\n"
    (tmp_path / "paper.tex").write_text(paper, encoding="utf-8")
    for _ in range(2):  # the second time reads the list of tables
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "paper.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stdout.decode(errors="replace")
    log = (tmp_path / "paper.log").read_text(encoding="utf-8", errors="replace")
    assert not re.findall(r"Overfull|Float too large|Missing character|^!.*", log, re.MULTILINE)
