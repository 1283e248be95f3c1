"""Convert Amazon-C4 and ESCI to items.jsonl, queries.jsonl and qrels.tsv."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from blair_rec.errors import RejectedLines, SourceError
from blair_rec.prepare.public.search import SearchData, prepare_search

QUERIES = [("0", 'I need a "quiet" fan,\nfor nights', "B1"), ("1", "a bath toy", "B2"), ("2", "another toy", "B2")]
POOL = [("B1", "Home", "A fan. It is quiet."), ("B2", "Toys", "A duck"), ("B3", "Toys", "")]


def upstream_form(folder: Path, pool: str, item: str = "item_id", queries: Any = QUERIES, items: Any = POOL) -> Path:
    """Write test.csv and the item pool as in Amazon-C4 and as written by process_esci.py."""
    folder.mkdir()
    with (folder / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("qid", "query", "item_id", "user_id"), *((*query, "U") for query in queries)])
    lines = [json.dumps({item: name, "category": kind, "metadata": text}) for name, kind, text in items]
    (folder / pool).write_text("\n".join(lines) + "\n")
    return folder


def written(out: Path) -> tuple[list[Any], list[Any], list[str]]:
    items, queries = (
        [json.loads(line) for line in (out / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("items", "queries")
    )
    return items, queries, (out / "qrels.tsv").read_text("utf-8").splitlines()


@pytest.mark.parametrize(
    "name, pool, item",
    [
        ("amazon-c4", "sampled_item_metadata_1M.jsonl", "item_id"),
        ("esci", "sampled_item_metadata_esci.jsonl", "item_id"),
        ("esci", "sampled_item_metadata_esci.jsonl", "item"),
    ],
)
def test_each_query_asks_for_one_item_of_the_pool(tmp_path: Path, name: str, pool: str, item: str) -> None:
    told: list[str] = []
    source = upstream_form(tmp_path / "source", pool, item)
    assert prepare_search(SearchData(name, source), tmp_path / "out", told.append)
    items, queries, qrels = written(tmp_path / "out")
    assert items == [{"item_id": name, "metadata": text, "category": kind} for name, kind, text in POOL]
    assert queries == [
        {"query_id": "0", "query": 'I need a "quiet" fan,\nfor nights', "category": "Home"},
        {"query_id": "1", "query": "a bath toy", "category": "Toys"},
        {"query_id": "2", "query": "another toy", "category": "Toys"},
    ]
    assert qrels == ["query_id\titem_id\tgrade", "0\tB1\t1", "1\tB2\t1", "2\tB2\t1"]
    assert told[-1] == "items: 3, queries: 3, grades: 3"


def test_queries_for_items_that_are_not_in_the_pool_are_an_error(tmp_path: Path) -> None:
    pool = "sampled_item_metadata_1M.jsonl"
    source = upstream_form(tmp_path / "source", pool, queries=[*QUERIES, ("3", "a third thing", "B9")])
    with pytest.raises(SourceError, match=r"queries ask for 1 item outside the pool \(first: B9\)"):
        prepare_search(SearchData("amazon-c4", source), tmp_path / "out", print)
    assert not (tmp_path / "out").exists()


def test_repeated_or_empty_rows_are_rejected(tmp_path: Path) -> None:
    queries = [*QUERIES, ("0", "the same number again", "B3"), ("4", "  ", "B3")]
    pool = "sampled_item_metadata_1M.jsonl"
    source = upstream_form(tmp_path / "source", pool, queries=queries, items=[*POOL, ("B1", "Home", "again")])
    with pytest.raises(RejectedLines, match="3 of 10 lines"):
        prepare_search(SearchData("amazon-c4", source), tmp_path / "out", print)
    prepare_search(SearchData("amazon-c4", source, max_rejected=0.4), tmp_path / "out", print)
    items, known, _ = written(tmp_path / "out")
    assert (len(items), len(known)) == (3, 3)
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(one["file"], one["line"]) for one in rejected] == [(pool, 4), ("test.csv", 6), ("test.csv", 7)]


def esci_form(folder: Path, label: str = "E") -> Path:
    """Write the original files, with rows that must be skipped."""
    folder.mkdir()
    columns = ["query_id", "query", "product_id", "product_locale", "esci_label", "small_version", "split"]
    examples = [
        (7, "fan", "P1", "us", label, 1, "test"),
        (7, "fan", "P2", "us", "S", 1, "test"),
        (8, "duck", "P2", "us", "I", 1, "test"),
        (8, "duck", "P3", "us", "E", 0, "test"),
        (9, "pato", "P4", "es", "E", 1, "test"),
        (10, "cup", "P4", "us", "C", 1, "train"),
    ]
    pl.DataFrame(examples, schema=columns, orient="row").write_parquet(
        folder / "shopping_queries_dataset_examples.parquet"
    )
    names = ["product_title", "product_bullet_point", "product_description", "product_brand", "product_color"]
    products = [
        (f"P{n}", locale, f"Title {n} {locale}", "soft", None, "B", "red") for n in (1, 2, 3) for locale in ("es", "us")
    ]
    pl.DataFrame(products, schema=["product_id", "product_locale", *names], orient="row").write_parquet(
        folder / "shopping_queries_dataset_products.parquet"
    )
    return folder


def test_the_original_esci_has_grades(tmp_path: Path) -> None:
    prepare_search(SearchData("esci", esci_form(tmp_path / "source")), tmp_path / "out", print)
    items, queries, qrels = written(tmp_path / "out")
    texts = {"features": "soft", "description": None, "brand": "B", "color": "red"}
    assert items == [{"item_id": f"P{number}", "title": f"Title {number} us", **texts} for number in (1, 2)]
    assert queries == [{"query_id": "7", "query": "fan"}, {"query_id": "8", "query": "duck"}]
    assert qrels[1:] == ["7\tP1\t3", "7\tP2\t2", "8\tP2\t0"]


def test_an_unknown_label_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="unknown labels X; known: E, S, C, I"):
        prepare_search(SearchData("esci", esci_form(tmp_path / "source", "X")), tmp_path / "out", print)


def test_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(SourceError, match=r"test\.csv was not found"):
        prepare_search(SearchData("amazon-c4", tmp_path / "source"), tmp_path / "out", print)
    with pytest.raises(
        SourceError, match=r"esci needs --source: .* and .*esci\.jsonl, or with .* and .*products\.parquet$"
    ):
        SearchData("esci")
