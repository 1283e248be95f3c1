"""Item metadata is read as it is written, and invalid content is named with its line."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.errors import CatalogueError
from blair_rec.text.catalogue import Catalogue, Number, read_catalogue, texts_in
from blair_rec.text.template import Template, catalogue_texts


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8"))
    return path


def test_a_recbole_file_gives_one_record_per_row(tmp_path: Path) -> None:
    path = written(tmp_path / "a.item", "item_id:token\ttitle:token_seq\tprice:float\nA1\tA red lamp\t19.90\nB2\t\t\n")
    catalogue = read_catalogue(path)
    assert catalogue.item_tokens == ("A1", "B2")
    assert catalogue.records == ({"title": "A red lamp", "price": "19.90"}, {"title": None, "price": None})
    assert catalogue.fields == ("title", "price")
    assert catalogue.source == path
    assert len(catalogue) == 2


def test_quotation_marks_are_ordinary_characters(tmp_path: Path) -> None:
    path = written(tmp_path / "a.item", 'item_id:token\ttitle:token_seq\n1\t"Open quote\n2\t27" screen\n3\t"both"\n')
    assert [record["title"] for record in read_catalogue(path).records] == ['"Open quote', '27" screen', '"both"']


def test_rows_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = written(tmp_path / "a.item", "\ufeffitem_id:token\ttitle:token_seq\r\n1\ta\x0bb\u2028c\x85d\r\n\r\n2\te\r\n")
    catalogue = read_catalogue(path)
    assert catalogue.item_tokens == ("1", "2")
    assert catalogue.records[0]["title"] == "a\x0bb\u2028c\x85d"


def test_the_item_token_is_kept_to_the_letter(tmp_path: Path) -> None:
    path = written(tmp_path / "a.item", "item_id:token\ttitle:token_seq\n007\ta\n 7\tb\n7\tc\n")
    assert read_catalogue(path).item_tokens == ("007", " 7", "7")


plain = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\t\n\r"), max_size=20)


@given(st.lists(st.tuples(plain, plain), min_size=1, max_size=8))
def test_every_text_without_tabs_and_line_ends_survives_a_recbole_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("items") / "a.item"
    lines = ["item_id:token\ttitle:token_seq\tnote:token_seq", *(f"i{i}\t{a}\t{b}" for i, (a, b) in enumerate(rows))]
    catalogue = read_catalogue(written(path, "\n".join(lines)))
    expected = [{"title": a if a.strip() else None, "note": b if b.strip() else None} for a, b in rows]
    assert list(catalogue.records) == expected


@pytest.mark.parametrize("name", ["meta.jsonl", "meta.json", "meta.jsonl.gz", "meta.json.gz"])
def test_amazon_metadata_are_kept_as_they_are_written(tmp_path: Path, name: str) -> None:
    row = {
        "parent_asin": "B08",
        "title": "Oil",
        "price": 5.10,
        "rating_number": 12,
        "features": ["Pure", "", None, "Natural"],
        "categories": [["Beauty", "Hair"], ["Oil"]],
        "description": [],
        "details": {"Brand": "Leaf", "Sizes": ["S", "M"], "Rank": {"Beauty": 3}, "UPC": None, "Vegan": True},
        "store": None,
        "subtitle": " ",
        "bought_together": float("nan"),
    }
    data = (json.dumps(row) + "\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    catalogue = read_catalogue(tmp_path / name)
    assert catalogue.item_tokens == ("B08",)
    assert catalogue.records[0] == {
        "title": "Oil",
        "price": "5.1",
        "rating_number": "12",
        "features": ["Pure", "", None, "Natural"],
        "categories": [["Beauty", "Hair"], ["Oil"]],
        "description": [],
        "details": {"Brand": "Leaf", "Sizes": ["S", "M"], "Rank": {"Beauty": "3"}, "UPC": None, "Vegan": True},
        "store": None,
        "subtitle": " ",
        "bought_together": None,
    }
    assert isinstance(catalogue.records[0]["price"], Number)
    assert {name: texts_in(value) for name, value in catalogue.records[0].items()} == {
        "title": ["Oil"],
        "price": ["5.1"],
        "rating_number": ["12"],
        "features": ["Pure", "Natural"],
        "categories": ["Beauty", "Hair", "Oil"],
        "description": [],
        "details": ["Brand: Leaf", "Sizes: S, M", "Rank: Beauty: 3", "Vegan: true"],
        "store": [],
        "subtitle": [],
        "bought_together": [],
    }


def test_item_id_goes_before_parent_asin_and_the_caller_before_both(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"parent_asin": "P", "item_id": 7, "sku": "S"}\n')
    assert read_catalogue(path).item_tokens == ("7",)
    assert read_catalogue(path, item_id="sku").item_tokens == ("S",)
    assert read_catalogue(path, item_id="sku").fields == ("parent_asin", "item_id")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.item", "", "has no item"),
        ("a.item", "item_id:token\ttitle:token_seq\n", "holds no item"),
        ("a.item", "item_id:token\ta:token\n1\tx\n2\tx\ty\n", r"line 3: 3 columns, but the first line has 2"),
        ("a.item", "item_id:token\ta:token\n1\n", r"line 2: 1 column, but the first line has 2"),
        ("a.item", "item_id:token\ta:token\n\tx\n", r"line 2: item_id is empty or missing"),
        ("a.item", "item_id:token\ta:token\nb\0\tx\n", r"line 2: item_id is 'b\\x00', which holds a NUL character"),
        ("a.item", "item_id:token\ta:token\ta:float\n", r"line 1: two columns are called 'a'"),
        ("a.item", "1\tToy Story\n", r"line 1: the column '1' is not in RecBole's format"),
        ("a.item", "item:token\ttitle:token\n1\tx\n", r"no field 'item_id' or 'parent_asin'.*fields: item, title"),
        ("a.json", '{"asin": "1", "title": "x"}', r"no field 'item_id' or 'parent_asin'.*fields: asin, title"),
        ("a.jsonl", '{"item_id": "1"}\n\n{"item_id": "2"\n', r"line 3: broken JSON"),
        ("a.jsonl", '[{"item_id": "1"}]', r"line 1: a list, not an object"),
        ("a.jsonl", '{"item_id": "1"}\n{"title": "x"}\n', r"line 2: item_id is empty or missing"),
        ("a.jsonl", '{"item_id": ["1"]}\n', r"line 1: item_id is \['1'\]"),
        ("a.xlsx", "item_id,title\n", r"unknown kind of file; known endings: \.item, \.jsonl.*\.csv, \.tsv"),
        ("a.jsonl", '{"item_id": "a\\u0000b"}\n', r"line 1: item_id is 'a\\x00b', which holds a NUL character"),
        ("a.csv", "", "holds no item"),
        ("a.csv", "item_id,title\n", "holds no item"),
        ("a.csv", "item_id,title,title\n1,a,b\n", r"line 1: two columns are called 'title'"),
        ("a.csv", "sku,title\n1,a\n", r"line 1: there is no field 'item_id' or 'parent_asin' .*fields: sku, title"),
        ("a.csv", "item_id,title\n1,a\n\n2,a,b\n", r"line 4: 3 cells where the first line has 2"),
        ("a.csv", "item_id,title\n1,a\n,b\n", r"line 3: item_id is empty or missing"),
        ("a.csv", 'item_id,title\n1,a\n2,"Open\n3,b\n', r"from line 3 on: unexpected end of data; a quotation mark"),
        ("a.csv", 'item_id,title\n1,"27" screen"\n2,b\n', r"from line 2 on: ',' expected after '\"'"),
        (
            "a.csv",
            'item_id,title\n1,"Open\n2,b\n3,5"\n4,c\n',
            r"line 2: a quotation .* closes in line 4, and 1 of the 1 ",
        ),
        ("a.jsonl", '{"item_id": "1", "a": 1, "a": 2}\n', r"line 1: the field 'a' appears twice; rename one"),
        ("a.jsonl", '{"item_id": " "}\n', r"line 1: item_id is empty or missing"),
        (
            "a.jsonl",
            '{"item_id": "1", "a": ' + "[" * 3000 + "]" * 3000 + "}",
            r"line 1: lists or objects are nested too deeply",
        ),
        ("a.tsv", "item_id\ttitle\n1\ta\n2\n", r"line 3: 1 cell where the first line has 2"),
        ("a.csv.gz", "not gzip", r"broken gzip file"),
        ("a.jsonl.gz", "not gzip", r"broken gzip file"),
    ],
)
def test_invalid_content_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        read_catalogue(written(tmp_path / name, content))


def test_a_cut_off_gzip_file_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"item_id": "1"}\n' * 99)[:-9])
    with pytest.raises(CatalogueError, match="broken gzip file"):
        read_catalogue(tmp_path / "a.jsonl.gz")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.item"])
def test_a_file_that_is_packed_or_encoded_in_another_way_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"item_id,title"))
    with pytest.raises(CatalogueError, match=r"is compressed by gzip, but its name doesn't end in \.gz"):
        read_catalogue(tmp_path / name)
    (tmp_path / name).write_bytes("item_id,title".encode("utf-16"))
    with pytest.raises(CatalogueError, match=r"UTF-16" if name != "a.item" else r"0xff\) is not UTF-8"):
        read_catalogue(tmp_path / name)


@given(st.lists(st.sampled_from([r"\ud83d", r"\uDE00", r"\\", r"\u00e9", "ud83d", "x"]), max_size=8).map("".join))
def test_half_a_character_is_named_and_a_whole_one_is_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = written(tmp_path_factory.mktemp("items") / "a.jsonl", f'{{"item_id": "1", "a": "{text}"}}\n')
    meant = json.loads(f'"{text}"')
    if any("\ud800" <= sign <= "\udfff" for sign in meant):
        with pytest.raises(CatalogueError, match=r"line 1: \\u.... is half of a character; write the whole character"):
            read_catalogue(path)
    else:
        assert read_catalogue(path).records == ({"a": meant},)


def test_a_name_inside_an_object_is_no_second_one(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"item_id": "1", "a": {"a": [{"a": "x"}, {"a": "y"}]}}\n')
    assert read_catalogue(path).records == ({"a": {"a": [{"a": "x"}, {"a": "y"}]}},)


@pytest.mark.parametrize(("separator", "encoding"), [(";", "latin-1"), ("\t", "utf-16"), (",", "utf-8")])
def test_an_item_file_has_the_separator_and_encoding_that_are_named(
    tmp_path: Path, separator: str, encoding: str
) -> None:
    rows = [["item_id:token", "title:token_seq"], ["1", "caf\u00e9"], ["2", f'"two{separator} ""three"""']]
    (tmp_path / "a.item").write_bytes("".join(f"{separator.join(row)}\n" for row in rows).encode(encoding))
    read = read_catalogue(tmp_path / "a.item", separator=separator, encoding=encoding)
    assert [record["title"] for record in read.records] == ["caf\u00e9", f'two{separator} "three"']


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=re.escape(f"{tmp_path / 'no.item'} is not there")):
        read_catalogue(tmp_path / "no.item")
    with pytest.raises(CatalogueError, match="not a file"):
        read_catalogue(tmp_path)


def as_csv(path: Path, rows: list[list[str]], **how: Any) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **how).writerows(rows)
    return path


cells = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), max_size=12)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_every_text_survives_a_csv_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], encoding: str
) -> None:
    path = tmp_path_factory.mktemp("items") / "a.csv"
    as_csv(path, [["item_id", "title", "note"], *([f"i{i}", a, b] for i, (a, b) in enumerate(rows))])
    path.write_bytes(path.read_bytes().decode("utf-8").encode(encoding))
    catalogue = read_catalogue(path)
    assert catalogue.item_tokens == tuple(f"i{row}" for row in range(len(rows)))
    expected = [{"title": a if a.strip() else None, "note": b if b.strip() else None} for a, b in rows]
    assert list(catalogue.records) == expected


def test_a_long_cell_and_a_packed_table_are_read(tmp_path: Path) -> None:
    text = 'a "long" text,\n' * 30_000
    path = as_csv(tmp_path / "a.csv", [["sku", "about"], ["7", text]])
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, tmp_path / "a.csv.gz"):
        assert read_catalogue(file, item_id="sku").records == ({"about": text},)


def test_a_quotation_mark_in_a_tsv_file_is_a_character(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", 'item_id\ttitle\n1\t"Open quote\n2\t27" screen\n')
    assert [record["title"] for record in read_catalogue(path).records] == ['"Open quote', '27" screen']


def test_bytes_of_a_table_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"item_id,title\n1,Caf\xe9\n")
    with pytest.raises(CatalogueError, match=r"0xe9 is not UTF-8.*iconv"):
        read_catalogue(tmp_path / "a.csv")


TITLE = Template("fields", ("title",))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", " ", "x", "y"])), min_size=1, max_size=9))
def test_of_repeated_items_the_first_row_with_text_counts_and_repeats_are_counted(rows: list[tuple[str, str]]) -> None:
    catalogue = Catalogue.of([(token, {"title": text}) for token, text in rows], Path("a.csv"))
    expected: dict[str, str] = {}
    for token, text in rows:
        expected[token] = expected.get(token) or text.strip()
    assert dict(zip(catalogue.item_tokens, catalogue_texts(catalogue, TITLE), strict=True)) == expected
    assert catalogue.repeats == len(rows) - len(expected)


def test_a_field_that_only_a_repeated_row_has_is_known(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"item_id": 1}\n{"item_id": "1", "title": "x"}\n')
    catalogue = read_catalogue(path)
    assert (catalogue.fields, catalogue.repeats) == (("title",), 1)
    assert catalogue_texts(catalogue, TITLE) == ["x"]


@pytest.mark.parametrize("text", ["[12]", "{}", "[a, b]", "12", "null", '["x"]'])
def test_a_string_that_looks_like_something_else_stays_a_string(tmp_path: Path, text: str) -> None:
    written(tmp_path / "a.jsonl", json.dumps({"item_id": "1", "title": text}) + "\n")
    as_csv(tmp_path / "a.csv", [["item_id", "title"], ["1", text]])
    for name in ("a.jsonl", "a.csv"):
        catalogue = read_catalogue(tmp_path / name)
        assert catalogue.records[0]["title"] == text
        assert catalogue_texts(catalogue, TITLE) == [text]


def test_an_asked_for_id_field_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.item", "item_id:token\n1\n")
    with pytest.raises(CatalogueError, match="there is no field 'asin' for the item token; fields: item_id"):
        read_catalogue(path, item_id="asin")


def test_bytes_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    data = "\ufeffitem_id:token\ttitle:token_seq\n1\tCafé\n".encode() + b"2\tCaf\xe9\n"
    (tmp_path / "a.item").write_bytes(data)
    byte = data.rindex(b"\xe9")
    with pytest.raises(CatalogueError, match=rf"line 3: byte {byte} \(0xe9\) is not UTF-8.*iconv"):
        read_catalogue(tmp_path / "a.item")


def test_as_many_records_as_tokens() -> None:
    with pytest.raises(CatalogueError, match="2 item tokens for 1 record"):
        Catalogue(("a", "b"), ({},), Path("x.item"))


def real_data() -> Path:
    if not (folder := os.environ.get("BLAIR_REC_DATA")):
        pytest.skip("BLAIR_REC_DATA is not set: the real data sets are not on this machine")
    return Path(folder)


def test_real_catalogues_can_be_read() -> None:
    data = real_data()
    beauty = read_catalogue(data / "Beauty" / "Beauty.item")
    assert len(beauty) == 12101
    assert sum(record["title"] is None for record in beauty.records) == 7
    amazon = read_catalogue(data / "All_Beauty_2023" / "meta_All_Beauty.jsonl")
    assert len(amazon) == 356
    assert {"title", "features", "description", "details"} <= set(amazon.fields)
