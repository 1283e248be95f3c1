"""Files of pairs: the texts that come out equal those that went in, whatever the kind of file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from blair_rec.errors import PairsError
from blair_rec.pretrain.pair_files import open_rows
from blair_rec.pretrain.pairs import open_pairs

COLUMNS = ("review", "other", "meta")
Rows = Sequence[Sequence[str]]


def as_csv(rows: Rows, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def as_tsv(rows: Rows, path: Path) -> None:
    """Write the file as pandas does: a cell with a separator or a quotation mark is quoted."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([COLUMNS, *rows])


def as_json(rows: Rows, path: Path) -> None:
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def as_parquet(rows: Rows, path: Path) -> None:
    columns = zip(*rows, strict=True) if rows else [[]] * len(COLUMNS)
    parquet.write_table(pyarrow.table({name: list(cells) for name, cells in zip(COLUMNS, columns, strict=True)}), path)


KINDS = {"csv": as_csv, "tsv": as_tsv, "jsonl": as_json, "parquet": as_parquet}


def texts_of(path: Path, columns: Sequence[str] = ("meta", "review")) -> list[list[str]]:
    """All rows, read in order and once more by their number, from the last one on."""
    read, rows = open_rows(path, columns)
    found = list(rows)
    assert [read(number) for number in reversed(range(len(found)))] == found[::-1]
    return found


text = st.text(
    st.one_of(st.sampled_from(' ,"\t;\u2028\x85é€😀'), st.characters(codec="utf-8")), min_size=1, max_size=12
)
one_line = text.map(lambda value: value.replace("\n", " ").replace("\r", " ").replace("\0", " "))


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("kind", KINDS)
@given(rows=st.lists(st.tuples(one_line, one_line, one_line), max_size=5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_text_comes_out_as_it_went_in(kind: str, bom: bytes, rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.{kind}"
    KINDS[kind](rows, path)
    if kind != "parquet":
        path.write_bytes(bom + path.read_bytes())
    assert texts_of(path) == [[meta, review] for review, _, meta in rows]


# A line inside a row that looks like a row itself is refused. So one cell of a row spans lines here, without a comma.
spanning = text.map(lambda value: value.replace(",", ";"))
rows_over_lines = st.one_of(
    st.tuples(*(spanning if at == spans else one_line for at in range(len(COLUMNS)))) for spans in range(len(COLUMNS))
)


@given(rows=st.lists(rows_over_lines, min_size=1, max_size=5))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_csv_file_is_read_as_the_csv_module_reads_it(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    as_csv(rows, path)
    with path.open(encoding="utf-8", newline="") as file:
        assert texts_of(path) == [[row[2], row[0]] for row in csv.reader(file)][1:]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_a_megabyte_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.{kind}"
    long = "long text " * 100_000
    before = csv.field_size_limit()
    KINDS[kind]([("a", "b", long), (long, "b", 'c"d')], path)
    assert texts_of(path) == [[long, "a"], ['c"d', long]]
    assert csv.field_size_limit() == before


def test_lists_are_joined_and_zero_is_a_value_in_json_and_in_parquet(tmp_path: Path) -> None:
    records = [
        {"review": ["one", "", "two"], "meta": {"made of": ["oak", "iron"], "size": None}, "id": 0},
        {"review": "as  it is ", "meta": [["deep"], True], "id": 10},
        {"review": None, "meta": [], "id": None},
    ]
    expected = [["one two", "made of: oak, iron", "0"], ["as  it is ", "deep true", "10"], ["", "", ""]]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    assert texts_of(path, ["review", "meta", "id"]) == expected
    path.write_text('{"review": 5.10, "meta": NaN, "id": 1e3}\n', encoding="utf-8")
    assert texts_of(path, ["review", "meta", "id"]) == [["5.10", "", "1e3"]], "numbers as they are written"
    columns = {
        "review": [["one", "", "two"], [], None],
        "meta": [0.0, float("nan"), 2.5],
        "id": [0, 10, None],
        "made": pyarrow.array([b"caf\xc3\xa9", None, b""], pyarrow.binary()),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    assert texts_of(tmp_path / "pairs.parquet", ["review", "meta", "id", "made"]) == [
        ["one two", "0.0", "0", "café"],
        ["", "", "10", ""],
        ["", "2.5", "", ""],
    ]


def test_quotation_marks_between_tabs_are_characters_unless_pandas_put_them_there(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    rows = ['7" tablet\t"quoted"', '"7"" tablet"\t""', '"open\t5"', '"a\tb"\tc']
    path.write_text("review\tmeta\n" + "\r\n".join(rows) + "\n", encoding="utf-8", newline="")
    assert texts_of(path, ["review", "meta"]) == [
        ['7" tablet', '"quoted"'],
        ['7" tablet', ""],
        ['"open', '5"'],
        ["a\tb", "c"],
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", 'review,meta\na,b\n"7 inch,b\nc,d\n', "line 3: unexpected end of data; look for a quotation mark"),
        ("p.csv", 'review,meta\n"7 inch,b\nc,d\n"8 inch,e\n', r"line 2: ',' expected after '\"'"),
        (
            "p.csv",
            'review,meta\n"7 inch,b\nc,d\ne,f\ng 8",h\ni,j\n',
            r"line 2: .* closes in line 5, and 2 of the 2 lines between",
        ),
        ("p.csv", "review,meta\na,b,c\n", "line 2: a row has 3 columns, the header 2"),
        ("p.csv", "review,meta\na\rb,c\n", "line 2: new-line character"),
        ("p.csv", "", "no column 'review', 'meta'; columns: none"),
        ("p.csv", "review,meta,meta\na,b,c\n", r"repeated columns: meta; rename"),
        ("p.tsv", "review\tmeta\tmeta\na\tb\tc\n", r"repeated columns: meta; rename"),
        ("p.tsv", "review\tmeta\n\n\ta\tb\n", "line 3: a row has 3 columns, the header 2"),
        ("p.jsonl", '{"review": "a", "meta": "b"}\n\n{"review": "a"\n', "line 3: broken JSON"),
        ("p.jsonl", '{"review": "a", "meta": "b"}\n{"review": "a"}\n', "line 2: no column 'meta'; columns: review"),
        ("p.jsonl", "[1]\n", "line 1: a list, not an object"),
        ("p.jsonl", '{"review": ' + "[" * 100_000 + "\n", "line 1: lists or objects are nested too deeply"),
        ("p.jsonl", b'{"review": "\xff"}\n', "line 1: not UTF-8"),
        ("p.parquet", b"PAR1 no more", "p.parquet: no Parquet file, or a broken one"),
        ("p.jsonl", b"\x1f\x8b\x08", "is compressed by gzip"),
        ("p.tsv", "review\tmeta\n\t\t\n", "line 2: a row has 3 columns"),
    ],
)
def test_a_line_that_cannot_be_read_is_an_error_with_its_number(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PairsError, match=message):
        list(open_rows(path, ["review", "meta"])[1])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", "review;meta\na;b\n", "columns: review;meta; its columns are separated by semicolons: save the file"),
        ("p.csv", "review\tmeta\na\tb\n", "its columns are separated by tabs: give the file the ending .tsv"),
        ("p.tsv", "review,meta\na,b\n", "its columns are separated by commas: give the file the ending .csv"),
        ("p.tsv", "review\tmeta\ra\tb\r", "its lines end with carriage returns alone: write the file again"),
        ("p.tsv", "x" * 999, f"columns: {'x' * 60}..."),
    ],
)  # fmt: skip
def test_a_header_of_another_kind_of_file_is_an_error_with_a_cure(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    with pytest.raises(PairsError, match=re.escape(said)):
        open_pairs(path, "review", "meta")


@pytest.mark.parametrize("encoding", ["utf-16", "latin1"])
def test_another_encoding_is_an_error_with_the_command_that_converts_it(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "p.tsv"
    path.write_bytes("review\tmeta\ncaf\xe9\tb\n".encode(encoding))
    with pytest.raises(PairsError, match=f"not UTF-8 .*; save it as UTF-8, for instance with `iconv -f {encoding} -t"):
        open_pairs(path, "review", "meta")


def test_bytes_that_are_no_text_are_an_error_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.table({"review": pyarrow.array([b"a", b"\xff"], pyarrow.binary())}), path)
    with pytest.raises(PairsError, match="row 2: not UTF-8"):
        list(open_rows(path, ["review"])[1])


def test_half_a_character_is_an_error_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"review": "\\ud83d", "meta": "a"}\n{"review": "\\ud83d\\ude00", "meta": "b"}\n', encoding="utf-8")
    with pytest.raises(PairsError, match=r"1 of 2 pairs holds half of a surrogate pair.* \(row 1\)"):
        open_pairs(path, "review", "meta")


def test_a_list_and_the_same_text_are_one_item(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows: list[dict[str, object]] = [
        {"review": "a", "meta": ["oak", "comb"], "id": 0},
        {"review": "b", "meta": "oak comb", "id": 0},
        {"review": "c", "meta": "tin", "id": 1},
    ]
    out = io.StringIO()
    out.writelines(json.dumps(row) + "\n" for row in rows)
    path.write_text(out.getvalue(), encoding="utf-8")
    pairs = open_pairs(path, "review", "meta", "id")
    assert [pair.item for pair in pairs] == ["oak comb", "oak comb", "tin"] and pairs.n_items == 2
