"""Atomic files character by character: cells, lines and files, compared with the csv module and plain Python."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_folders import cells_of, value_of, written

from blair_rec.errors import AtomicFileError, CatalogueError, DatasetError
from blair_rec.lines import atomic
from blair_rec.lines.atomic import AtomicFile, Block, Column, problem, quoted, unquoted

NUL = "\0" if sys.version_info >= (3, 11) else ""  # before 3.11 Python's csv module writes no NUL
awkward = st.text(st.sampled_from(f'"\t\r a,1e-.é{NUL}\ufeff\u2028'), max_size=8)
others = st.characters(blacklist_categories=["Cs"], blacklist_characters="\n" if NUL else "\n\0")
texts = st.one_of(awkward, st.text(others, max_size=9))


def file_of(folder: Path, lines: list[str], width: int, **settings: str) -> AtomicFile:
    separator = settings.get("separator", "\t")
    header = separator.join(f"c{at}:token" for at in range(width))
    path = folder / "a.inter"
    path.write_bytes("".join(f"{line}\n" for line in [header, *lines]).encode())
    return AtomicFile(path, **settings)


@given(st.lists(st.lists(texts, min_size=3, max_size=3), max_size=6))
def test_what_pandas_writes_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    rows = [row for row in rows if any(row)]
    file = file_of(tmp_path_factory.mktemp("a"), [written(row).removesuffix("\n") for row in rows], 3)
    # A carriage return at the end of a line belongs to the line end, unless it is inside quotation marks.
    assert [line.cells for line in file.lines()] == rows


@given(st.lists(st.text(st.sampled_from('"ab \t'), max_size=12), max_size=6), st.integers(1, 4))
def test_any_line_is_split_as_a_plain_reader_splits_it(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], width: int
) -> None:
    file = file_of(tmp_path_factory.mktemp("a"), lines, width)
    found = {line.number: line.cells for line in file.lines()}
    assert found == {number: cells_of(line, width) for number, line in enumerate(lines, start=2) if line}


@given(texts)
def test_a_text_is_quoted_only_where_it_would_be_read_as_another(text: str) -> None:
    assert unquoted(quoted(text)) == text
    assert quoted(text) == text or unquoted(text) != text


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ('"7"" tablet"', '7" tablet'),
        ('7" tablet', '7" tablet'),
        ('"all of it"', '"all of it"'),
        ('"Open', '"Open'),
        ('"a"b"', '"a"b"'),
        ('""', ""),
        ('"', '"'),
        ('""""', '"'),
        ('"a\tb"', "a\tb"),
        ('"a,b"', '"a,b"'),
    ],
)
def test_only_the_quotation_marks_of_pandas_are_removed(cell: str, meant: str) -> None:
    assert unquoted(cell) == meant
    row = next(csv.reader(io.StringIO(written([meant, "x"])), delimiter="\t"))
    assert row[0] == meant


def test_a_separator_inside_quotation_marks_is_text_only_if_the_line_has_too_many(tmp_path: Path) -> None:
    lines = ['"a\tb"\tc', '"a\tb"', '"a\tb\tc', 'a\t"b\tc"', '"a"\tb"\tc']
    assert [line.cells for line in file_of(tmp_path, lines, 2).lines()] == [
        ["a\tb", "c"],
        ['"a', 'b"'],
        ['"a', "b", "c"],
        ["a", "b\tc"],
        ['"a"', 'b"', "c"],
    ]


@given(st.lists(st.text(st.sampled_from('a\t\r\n"\0 '), max_size=9), max_size=5), st.integers(1, 4))
def test_a_regular_block_has_a_cell_for_each_column_in_every_line(lines: list[str], width: int) -> None:
    content = "".join(f"{line}\n" for line in lines)
    file = AtomicFile(Path("a.inter"))
    file.__dict__["columns"] = tuple(Column(str(at), "token", at) for at in range(width))
    regular = file.is_regular(Block(1, content.encode()))
    cut = [line.split("\t") for line in content.split("\n")[:-1]]
    expected = not set("\r\0") & set(content) and all(len(cells) == width and cells != [""] for cells in cut)
    assert regular == expected


numbers = st.one_of(
    st.text(st.sampled_from("0123456789+-.eE \r_xnaif"), max_size=7), st.floats().map(str), st.integers().map(str)
)


@given(numbers)
def test_a_number_is_a_finite_one_in_digits(cell: str) -> None:
    assert (problem(Column("t", "float", 0), cell) == "") == (value_of(cell, "float", False) is not None)


@given(st.lists(numbers, max_size=3).map(" ".join))
def test_a_list_of_numbers_holds_nothing_else(cell: str) -> None:
    expected = all(value_of(piece, "float", False) is not None for piece in cell.split(" ") if piece)
    assert (problem(Column("t", "float_seq", 0), cell) == "") == expected


@pytest.mark.parametrize(
    ("kind", "cell", "why"),
    [
        ("token", "", "x is empty"),
        ("token", " ", "x is empty"),
        ("token", "a\0", r"x 'a\x00' holds a NUL character"),
        ("token_seq", " ", "x is empty"),
        ("token_seq", "a \0", r"x 'a \x00' holds a NUL character"),
        ("token", "NA", ""),
        ("token_seq", "nan", ""),
        (
            "float",
            "2024-07-01",
            "x '2024-07-01' is not a finite number; write dates as numbers, such as seconds since 1970",
        ),
    ],
)
def test_ids_are_not_blank_and_hold_no_nul(kind: str, cell: str, why: str) -> None:
    assert problem(Column("x", kind, 0, needed=True), cell) == why
    if why.endswith("empty"):
        assert problem(Column("x", kind, 0), cell) == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "latin-1", "utf-8-sig"])
@pytest.mark.parametrize("block", [1, 1 << 24])
def test_every_encoding_and_size_of_block_gives_the_same(
    tmp_path: Path, encoding: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "BLOCK_BYTES", block)
    (tmp_path / "a.item").write_bytes("\n\na:token::b:float\né::1\r\n\n::2\nx::3".encode(encoding))
    file = AtomicFile(tmp_path / "a.item", "::", encoding)
    assert file.columns == (Column("a", "token", 0), Column("b", "float", 1))
    assert [(line.number, line.cells) for line in file.lines()] == [(4, ["é", "1"]), (6, ["", "2"]), (7, ["x", "3"])]


def test_a_cell_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    long = "x" * 400_000
    (line,) = file_of(tmp_path, [f'"{long}""\t"\t1'], 2).lines()
    assert line.cells == [f'{long}"\t', "1"]


def test_an_error_counts_as_dataset_error_and_as_catalogue_error(tmp_path: Path) -> None:
    (tmp_path / "a.item").write_bytes(b"\n")
    for error in (AtomicFileError, DatasetError, CatalogueError):
        with pytest.raises(error, match=r"a\.item is empty and has no item or event; the first line must name"):
            _ = AtomicFile(tmp_path / "a.item").columns
