"""The items file: texts exactly as written, fields from any line, and one row per item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blair_rec.errors import SourceError
from blair_rec.lines.rejected import Rejected
from blair_rec.prepare.dataset import write_items
from blair_rec.prepare.items import ItemFile, flat
from blair_rec.prepare.own import OwnData, prepare_own
from blair_rec.prepare.reading import jsonlines


def names_and_rows(
    path: Path, wanted: list[str], fields: tuple[str, ...] = ("title",)
) -> tuple[Any, list[dict[str, Any]]]:
    items = ItemFile(path, "sku", fields)
    names = items.names(Rejected(path.with_name("rejected.jsonl")))
    return names, list(items.rows(wanted, repeated=names.repeated))


BRACKETS = [
    "[12]",
    "[]",
    "{}",
    '["quoted"]',
    "[NEW] cup",
    '{"a": 1}',
    "[null]",
    "[1.50]",
    "[true]",
    "[[x]]",
    "{x}",
    "NaN",
]
SCALARS = st.one_of(
    st.sampled_from(BRACKETS), st.text(st.characters(exclude_categories=["Cs"])), st.none(), st.booleans()
)
VALUES = st.recursive(
    SCALARS | st.integers() | st.floats(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inside, max_size=3),
    max_leaves=6,
)


def said(value: Any) -> str:
    """Return the text of a value as the json module reads it, with numbers as written."""
    if isinstance(value, list):
        return " ".join(map(said, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {said(one)}" for key, one in value.items() if one is not None)
    return {None: "", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=6), ascii_only=st.booleans())
def test_the_texts_of_json_lines_are_those_that_the_json_module_reads(
    tmp_path: Path, values: list[Any], ascii_only: bool
) -> None:
    """NaN, which json.dumps writes, is not a text; a string that looks like a list is a string."""
    lines = [json.dumps({"sku": f"s{n}", "title": one}, ensure_ascii=ascii_only) for n, one in enumerate(values)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    names, rows = names_and_rows(tmp_path / "a.jsonl", [f"s{n}" for n in range(len(values))])
    expected = [json.loads(one, parse_float=str, parse_int=str, parse_constant=lambda _: None) for one in lines]
    assert not (tmp_path / "rejected.jsonl").exists()
    assert [(row["item_id"], flat(row["title"])) for row in rows] == [
        (one["sku"], said(one["title"])) for one in expected
    ]
    plain = [json.loads(one, parse_constant=lambda _: None)["title"] for one in lines]
    write_items(tmp_path / "a.item", iter(rows), ["title"], tmp_path / "items.jsonl")
    kept = [json.loads(one)["title"] for one in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert [one for one in kept if isinstance(one, (list, dict))] == [
        one for one in plain if isinstance(one, (list, dict))
    ]


def test_half_a_surrogate_pair_is_a_space_in_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(rb'{"sku": "1", "title": "a\ud83d\ude00b\ud800c\\ud800"}')
    _, rows = names_and_rows(tmp_path / "a.jsonl", ["1"])
    write_items(tmp_path / "a.item", iter(rows), ["title"])
    assert (tmp_path / "a.item").read_text("utf-8").splitlines()[1] == "1\ta\U0001f600b c\\ud800"


@pytest.mark.parametrize("overflows", [True, False])
@pytest.mark.parametrize("depth", [90, 150, 5000])
def test_very_deep_lists_are_refused(
    tmp_path: Path, depth: int, overflows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if overflows:
        read = jsonlines.pl.read_ndjson

        def crashing(block: bytes, **options: Any) -> Any:
            assert b"[" * 3001 not in block, "Polars 2.0 crashes here"
            return read(block, **options)

        monkeypatch.setattr(jsonlines, "OVERFLOWS", True)
        monkeypatch.setattr(jsonlines.pl, "read_ndjson", crashing)
    deep = '{"sku": "1", "title": ' + "[" * depth + '"x"' + "]" * depth + "}\n"
    (tmp_path / "a.jsonl").write_text(deep + '{"sku": "2", "title": "y"}\n' * 200)
    too_deep = "lists or objects are nested more than 100 deep; convert them to text"
    if depth == 90:
        assert flat(names_and_rows(tmp_path / "a.jsonl", ["1"])[1][0]["title"]) == "x"
    elif depth == 150:
        with pytest.raises(SourceError, match=f"line 1: {too_deep}"):
            names_and_rows(tmp_path / "a.jsonl", ["1"])
    else:  # more than the parsers of whole blocks can read: a rejected line, which is counted
        names, rows = names_and_rows(tmp_path / "a.jsonl", ["2"])
        rejected = json.loads((tmp_path / "rejected.jsonl").read_text("utf-8"))
        assert (rejected["line"], rejected["why"]) == (1, too_deep)
        assert names.known == {"2"} and [row["title"] for row in rows] == ["y"]


def test_many_lists_that_are_not_deep_are_a_text_for_every_polars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blair_rec.prepare.reading.jsonlines.OVERFLOWS", True)
    many = [[] for _ in range(3000)]
    (tmp_path / "a.jsonl").write_text(json.dumps({"sku": "1", "title": many}) + "\n")
    assert names_and_rows(tmp_path / "a.jsonl", ["1"])[1][0]["title"] == many


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", " ", "x", "y"])), min_size=1, max_size=12),
    st.sampled_from(["a.csv", "a.jsonl"]),
)
def test_the_first_row_with_text_of_a_repeated_item_is_used(
    tmp_path: Path, rows: list[tuple[str, str]], name: str
) -> None:
    if name == "a.csv":
        content = "\n".join(["sku,title", *map(",".join, rows)]) + "\n"
    else:
        content = "".join(json.dumps({"sku": sku, "title": title}) + "\n" for sku, title in rows)
    (tmp_path / name).write_text(content)
    names, found = names_and_rows(tmp_path / name, list("abcd"))
    expected = dict.fromkeys("abcd", "")
    for sku, title in rows:
        expected[sku] = expected[sku] or title.strip()
    assert {row["item_id"]: (row["title"] or "").strip() for row in found} == expected and len(found) == 4
    assert names.surplus == len(rows) - len(names.known)
    assert set(names.repeated) == {sku for sku, _ in rows if sum(other == sku for other, _ in rows) > 1}


def events(folder: Path, items: list[str]) -> Path:
    lines = [f"u{number % 3},{item},{number}" for number, item in enumerate(items)]
    (folder / "log.csv").write_text("\n".join(["who,sku,when", *lines]) + "\n")
    return folder / "log.csv"


def prepared(folder: Path, items: Path, log: list[str], fields: tuple[str, ...] = ("title",)) -> list[str]:
    told: list[str] = []
    prepare_own(
        OwnData(events(folder, log), "who", "sku", "when", items=items, fields=fields), folder / "out", told.append
    )
    return told


def test_repeated_items_are_counted_and_reported(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,title\na,\nb,bowl\na,cup\nb,other bowl\nb,\n")
    told = prepared(tmp_path, tmp_path / "items.csv", ["a", "b", "a"])
    assert f"rows of {tmp_path / 'items.csv'} that repeat an item: 3 (first: a, b); " in "\n".join(told)
    assert (tmp_path / "out" / "out.item").read_text().splitlines()[1:] == ["b\tbowl", "a\tcup"]
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["found"]["item_rows_repeated"] == 3


def test_an_items_file_without_any_item_of_the_log_is_an_error_that_shows_both(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,title\n7,cup\n8,bowl\n")
    with pytest.raises(
        SourceError, match=r"none of the 2 items of .*log\.csv is in .*such as '7.0', '8.0', .*such as '7', '8'"
    ):
        prepared(tmp_path, tmp_path / "items.csv", ["7.0", "8.0"])
    assert not (tmp_path / "out").exists()


def test_a_field_that_only_a_late_line_has_is_read(tmp_path: Path) -> None:
    lines = [json.dumps({"sku": f"s{number}", "about": {"title": "nested"}}) for number in range(1500)]
    (tmp_path / "items.jsonl").write_text("\n".join([*lines, '{"sku": "late", "title": ["a", "b"]}']))
    prepared(tmp_path, tmp_path / "items.jsonl", ["s1", "late"])
    assert (tmp_path / "out" / "out.item").read_text().splitlines()[1:] == ["s1\t", "late\ta b"]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    with pytest.raises(SourceError, match="no line has a field 'title'; fields of the first lines: sku, about"):
        prepared(tmp_path / "..", tmp_path / "items.jsonl", ["s1"])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_a_requested_column_that_occurs_twice_is_refused(tmp_path: Path, name: str) -> None:
    import pyarrow
    import pyarrow.parquet

    path, names = tmp_path / name, ["who", "when", "sku", "when", "x", "x"]
    if name == "a.parquet":
        table = pyarrow.Table.from_arrays([pyarrow.array(["1"])] * 6, names=names)
        pyarrow.parquet.write_table(table, path)
    else:
        between = "," if name == "a.csv" else "\t"
        path.write_text(between.join(names) + "\n" + between.join("111111") + "\n")
    with pytest.raises(SourceError, match=r"2 columns are named 'when' \(columns 2, 4\); rename all but one"):
        prepare_own(OwnData(path, "who", "sku", "when"), tmp_path / "out", print)
    with pytest.raises(SourceError, match="2 columns are named 'x'"):
        prepare_own(OwnData(path, "who", "sku", "x"), tmp_path / "out", print)
    if name != "a.parquet":
        path.write_text(path.read_text().replace("when", "time", 1))
        assert prepare_own(OwnData(path, "who", "sku", "when"), tmp_path / "out", print)
