"""Files read block by block: the rows of each kind of file, and how broken lines are handled."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import importlib
import json
import lzma
import re
import shlex
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blair_rec.errors import CatalogueError, MissingExtra, RejectedLines, SourceError
from blair_rec.lines.rejected import Rejected
from blair_rec.prepare.reading import blocks
from blair_rec.prepare.reading.records import columns_among, read_table
from blair_rec.text.catalogue import read_catalogue

Row = tuple[str | None, ...]


def read(path: Path, *columns: str, limit: float = 1.0, **how: Any) -> tuple[dict[int, Row], list[dict[str, Any]]]:
    """Return the rows by line, and the rejected lines."""
    rejected = Rejected(path.parent / "rejected.jsonl", limit)
    rejected.path.unlink(missing_ok=True)
    found: dict[int, Row] = {}
    for table, lines in read_table(path, columns, rejected, **how):
        assert list(table.columns) == list(columns) and set(table.dtypes) <= {pl.String}
        found.update(zip(lines, table.rows(), strict=True))
    rejected.check()
    lines = rejected.path.read_text("utf-8").splitlines() if rejected.path.exists() else []
    assert len(lines) == rejected.count and len(found) + rejected.count <= rejected.lines
    return found, [json.loads(line) for line in lines]


@pytest.fixture(params=[None, 16], ids=["in one block", "in blocks of a line or two"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(blocks, "BLOCK", request.param)


KINDS = {
    "a.csv": b"user,item,when\nu1,a,1\nu2,b,2\n",
    "crlf.csv": b"user,item,when\r\nu1,a,1\r\nu2,b,2\r\n",
    "unended.csv": b"user,item,when\nu1,a,1\nu2,b,2",
    "marked.csv": b"\xef\xbb\xbfuser,item,when\nu1,a,1\nu2,b,2\n",
    "marked.jsonl": b'\xef\xbb\xbf{"user": "u1", "item": "a", "when": 1}\n{"user": "u2", "item": "b", "when": "2"}',
    "marked-quoted.csv": b'\xef\xbb\xbf"user",item,when\n"u1","a",1\nu2,"b",2\n',
    "quoted.csv": b'"user",item,when\n"u1","a",1\nu2,"b",2\n',
    "a.tsv": b"user\titem\twhen\nu1\ta\t1\nu2\tb\t2\n",
    "a.jsonl": b'{"user": "u1", "item": "a", "when": 1}\n{"when": 2, "x": [1], "user": "u2", "item": "b"}\n',
    "blank.jsonl": b'{"user": "u1", "item": "a", "when": "1"}\n\n \r\n{"when": 2, "user": "u2", "item": "b"}',
}


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, zipped: bool) -> None:
    path = tmp_path / (f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(KINDS[name]) if zipped else KINDS[name])
    found, rejected = read(path, "item", "user", "when")
    assert list(found.values()) == [("a", "u1", "1"), ("b", "u2", "2")] and not rejected
    assert list(found) == {"a.jsonl": [1, 2], "marked.jsonl": [1, 2], "blank.jsonl": [1, 4]}.get(name, [2, 3])


def test_parquet_is_read_as_text(tmp_path: Path) -> None:
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5)
    table = pl.DataFrame({"user": [1, 2], "when": [moment, None], "tags": [["a", "b"], []]})
    table.write_parquet(tmp_path / "a.parquet")
    found, _ = read(tmp_path / "a.parquet", "user", "when", "tags")
    assert found == {1: ("1", "2020-01-02 03:04:05.000000", "a b"), 2: ("2", None, "")}
    table.select(pl.struct("user", "when").alias("both")).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="column 'both' has type Struct.*make it text"):
        read(tmp_path / "a.parquet", "both")


@pytest.mark.usefixtures("_blocks")
def test_a_quoted_cell_may_hold_separators_quotes_and_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,title,x\n1,"TV, 40"" wide\nand\r\nhigh",\n2,"b",3\n')
    found, _ = read(tmp_path / "a.csv", "id", "title")
    assert found == {2: ("1", 'TV, 40" wide\nand\r\nhigh'), 5: ("2", "b")}


def test_a_quotation_mark_in_tsv_is_a_character_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b'id\ttitle\n1\t"TV\n2\tb"\n')
    assert read(tmp_path / "a.tsv", "title")[0] == {2: ('"TV',), 3: ('b"',)}


def test_json_lists_and_mappings_stay_json_and_missing_fields_are_null(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": ["x", "y"], "b": {"k": 1}}\n{"a": null, "b": true}\n{"b": "1"}\n')
    found, _ = read(tmp_path / "a.jsonl", "a", "b")
    assert found == {1: ('["x", "y"]', '{"k": 1}'), 2: (None, "true"), 3: (None, "1")}


NUMBERS = ["1", "-3", "1.5", "1000.0", "1e3", '"12"', '"x"', "null", "true", "[1]", "99999999999999999999", "1.7e308"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)), min_size=1, max_size=5))
def test_what_is_read_as_numbers_is_what_the_texts_say(tmp_path: Path, values: list[tuple[str, str]]) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"a": {a}, "b": {b}, "c": "5"}}\n' for a, b in values))
    kinds = {"a": pl.Int64, "b": pl.Float64}
    rejected = Rejected(tmp_path / "rejected.jsonl")
    typed, texts = (
        pl.concat(chunk.table for chunk in read_table(tmp_path / "a.jsonl", ["a", "b", "c"], rejected, numbers=numbers))
        for numbers in (kinds, None)
    )
    assert typed.cast(kinds, strict=False).rows() == texts.cast(kinds, strict=False).rows()  # type: ignore[arg-type]
    assert not rejected.count


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["user", "item", "n\u00f6te"]), min_size=1, max_size=4), min_size=1, max_size=8)
)
def test_an_object_that_has_an_asked_name_twice_is_rejected(tmp_path: Path, lines: list[list[str]]) -> None:
    """Rejected lines are found from the pairs of each object; a name in a nested object doesn't count."""
    texts = [
        "{"
        + ", ".join(f'"{name}": {{"user": "{at}"}}' if at > 2 else f'"{name}": "{at}"' for at, name in enumerate(line))
        + "}"
        for line in lines
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(['{"user": "u", "n\u00f6te": "x"}', *texts]) + "\n", encoding="utf-8")
    found, rejected = read(tmp_path / "a.jsonl", "user", "n\u00f6te")
    twice = [at for at, line in enumerate(lines, 2) if max(line.count("user"), line.count("n\u00f6te")) > 1]
    assert [one["line"] for one in rejected] == twice
    assert all("occurs twice; rename one" in one["why"] for one in rejected)
    assert set(found) == set(range(1, len(lines) + 2)) - set(twice)


def test_numbers_are_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": 2}\n{"a": null}\n')
    chunks = read_table(tmp_path / "a.jsonl", ["a", "b"], Rejected(tmp_path / "r"), numbers={"a": pl.Int64})
    assert [chunk.table.schema for chunk in chunks] == [{"a": pl.Int64, "b": pl.String}]


BROKEN = {
    "short.csv": (b"a,b\n1,2\n3\n4,5\n", 3, "1 column instead of 2"),
    "long.csv": (b"a,b\n1,2\n3,4,5\n4,5\n", 3, "3 columns instead of 2"),
    "both.csv": (b"a,b\n3,4,5\n1,2\n4,5\n", 2, "3 columns instead of 2"),
    "latin.csv": (b"a,b\n1,2\n3,\xe4\n4,5\n", 3, r"not UTF-8 \(byte 0xe4\)"),
    "short-quoted.csv": (b'a,b\n1,"2"\n3\n4,5\n', 3, "1 column instead of 2"),
    "latin-quoted.csv": (b'a,b\n1,"2"\n3,\xe4\n4,5\n', 3, "not UTF-8"),
    "open-quote.csv": (b'a,b\n1,"2"\n4,5\n3,"4', 4, "a quoted cell is never closed"),
    "half.jsonl": (b'{"a": 1, "b": 2}\n{"a": 4, "b": 5}\n{"a": 3, "b', 3, "ends here without a line end"),
    "list.jsonl": (b'{"a": 1, "b": 2}\n[1]\n{"a": 4, "b": 5}\n', 2, "a JSON list, not an object"),
    "latin.jsonl": (b'{"a": 1, "b": 2}\n{"a": 3, "b": "\xe4"}\n{"a": 4, "b": 5}\n', 2, r"not UTF-8 \(byte 0xe4\)"),
    "two.jsonl": (
        b'{"a": 1, "b": 2}\n{"a": 3, "b": 3}{}\n{"a": 4, "b": 5}\n',
        2,
        r"broken JSON \(Extra data at",
    ),
}


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_rejected_with_its_number_and_the_others_are_read(tmp_path: Path, name: str) -> None:
    content, line, why = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    found, rejected = read(tmp_path / name, "a", "b")
    assert sorted(found.values()) == [("1", "2"), ("4", "5")] and line not in found  # type: ignore[type-var]
    assert [(one["file"], one["line"]) for one in rejected] == [(name, line)]
    assert re.search(why, rejected[0]["why"]), rejected[0]["why"]


LINES = {b'{"a": 1}': ("1",), b'{"a": 1} ': ("1",), b'{"b": 2}': (None,), b'{"a": NaN, "b": -Infinity}': (None,)}
LINES |= {b'{"a": "NaN \\" Infinity"}': ('NaN " Infinity',), b'{"a": "[12]"}': ("[12]",)}
BAD_LINES = (b"{", b'{"a": "\xff"}', b"[]", b'{"a": 1}}', b'{"a": nan}', b'{"a": NaNa}')


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*LINES, *BAD_LINES, b""]), max_size=40))
def test_each_line_of_json_is_parsed_alone(tmp_path: Path, lines: list[bytes]) -> None:
    """The result is as if every line were parsed alone, wherever broken lines are."""
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([b'{"a": 0}', *lines]))
    found, rejected = read(tmp_path / "a.jsonl", "a")
    assert found == {1: ("0",), **{number: LINES[line] for number, line in enumerate(lines, 2) if line in LINES}}
    assert [one["line"] for one in rejected] == [number for number, line in enumerate(lines, 2) if line in BAD_LINES]


def test_more_broken_lines_than_allowed_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n" + b"1,2\n" * 98 + b"x\ny\n")
    with pytest.raises(
        RejectedLines, match=r"2 of 100 lines can't be used; the limit is 0\.019 of all lines.*line 100.*line 101"
    ):
        read(tmp_path / "a.csv", "a", limit=0.019)
    assert len(read(tmp_path / "a.csv", "a", limit=0.02)[0]) == 98


def test_semicolons_instead_of_commas_are_named_with_a_command_that_works(tmp_path: Path) -> None:
    """Excel writes CSV like this in many countries, with a byte order mark."""
    rows = [["Kunde", "Titel"], ["k1", '7" Topf, "groß"'], ["NA", "a; b"]]
    with (tmp_path / "shop.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    with pytest.raises(SourceError, match=r"no column 'Kunde'; .*columns are separated by semicolons: ") as caught:
        read(tmp_path / "shop.csv", "Kunde")
    with pytest.raises(CatalogueError, match="separated by semicolons") as other:
        read_catalogue(tmp_path / "shop.csv", "Kunde")
    command = shlex.split(str(caught.value).partition("for instance by ")[2])
    assert str(other.value).endswith(str(caught.value).partition("for instance by ")[2])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    with (tmp_path / "commas.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == rows


def test_a_missing_column_of_a_file_with_commas_gives_no_hint_on_semicolons(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a;b,c\n1,2\n")
    with pytest.raises(
        SourceError, match=r"no column 'b'; columns: a;b, c; the first line has to be the names of the columns$"
    ):
        read(tmp_path / "a.csv", "b")


def test_a_file_of_another_kind_is_given_up_early(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n" + b"x\n" * 5000)
    rejected = Rejected(tmp_path / "rejected.jsonl")
    with pytest.raises(RejectedLines, match=r"1,001 of"):
        list(read_table(tmp_path / "a.csv", ["a"], rejected))


WHOLE = gzip.compress(b"a,b\n" + b"".join(b"%d,2\n" % number for number in range(9999)))
PACKED = {
    "cut.csv.gz": (WHOLE[:-100], "is cut off: its gzip data end too early"),
    "crc.csv.gz": (WHOLE[:-8] + b"abcd" + WHOLE[-4:], r"is a damaged gzip file \(CRC check failed"),
    "bytes.csv.gz": (WHOLE[:50] + b"\xff" * 20 + WHOLE[70:], r"is a damaged gzip file \(Error -3"),
    "behind.csv.gz": (WHOLE + b"garbage", "damaged gzip file .other bytes follow its gzip data"),
    "plain.csv.gz": (b"a,b\n1,2\n", r"is not gzipped, but its name ends in \.gz; rename it to plain\.csv$"),
    "packed.csv": (WHOLE, r"is gzipped, but its name doesn't end in .gz; rename it to packed\.csv\.gz"),
    "packed.jsonl": (WHOLE, r"is gzipped, but .* rename it to packed\.jsonl\.gz"),
    "log.csv.bz2": (bz2.compress(b"a,b\n1,2\n"), "is compressed as bzip2, which is not supported; unpack it"),
    "log.csv": (lzma.compress(b"a,b\n1,2\n"), "is compressed as xz"),
    "log.csv.zst": (b"\x28\xb5\x2f\xfd and so on", "is compressed as Zstandard"),
    "book.csv": (b"PK\x03\x04 and so on", "is compressed as zip or xlsx"),
    "table.csv": (b"PAR1 and so on", r"is a Parquet file; rename it to table\.parquet"),
    "wide.jsonl": ('{"a": 1}\n'.encode("utf-16"), "is UTF-16 or UTF-32; save it as UTF-8"),
    "mac.csv": (b"a,b\r1,2\r3,4\r", "its lines end only in a carriage return"),
}


@pytest.mark.parametrize("name", PACKED)
def test_another_compression_or_encoding_is_an_error(tmp_path: Path, name: str) -> None:
    content, message = PACKED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / name, "a")


def test_gzip_data_may_have_several_members_and_capital_endings(tmp_path: Path) -> None:
    (tmp_path / "LOG.CSV.GZ").write_bytes(gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n") + bytes(512))
    assert read(tmp_path / "LOG.CSV.GZ", "a")[0] == {2: ("1",), 3: ("3",)}


def test_a_broken_parquet_file_is_an_error(tmp_path: Path) -> None:
    pl.DataFrame({"a": list(range(1000))}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"a\.parquet is not a Parquet file, or is broken"):
        read(tmp_path / "a.parquet", "a")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", b"usr,item\n", r"no column 'user'; did you mean 'usr'\? columns: usr, item"),
        ("a.jsonl", b'{"item": 1}\n', "no line has a field 'user'; fields of the first lines: item"),
        ("a.csv", b"", "is empty, or its first line is"),
        ("a.csv", "user,item\n".encode("utf-16"), "is UTF-16 or UTF-32; save it as UTF-8"),
        ("a.jsonl", b"[1]\n[2]\n", "none of the first 1,000 lines is a JSON object; .*starts with a JSON list"),
        ("a.xlsx", b"", r"unknown kind of file; known endings: \.csv, \.tsv"),
    ],
)
def test_a_file_without_the_column_is_an_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / name, "user")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no\.csv doesn't exist"):
        columns_among(tmp_path / "no.csv", ["a"])


def test_a_file_without_line_ends_is_not_a_text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LONGEST_LINE", 1 << 10)
    monkeypatch.setattr(blocks, "BLOCK", 1 << 10)
    (tmp_path / "a.csv").write_bytes(b"a,b\n" + b"x" * (1 << 12))
    with pytest.raises(SourceError, match="this is not a text file"):
        read(tmp_path / "a.csv", "a")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.integers(0, 90).map(lambda size: b"x" * size), max_size=60), kept=st.integers(0, 20))
def test_blocks_are_the_file_however_many_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[bytes], kept: int
) -> None:
    """The memory of blocks is reused, but not while a block is still in use."""
    monkeypatch.setattr(blocks, "BLOCK", 100)
    whole = b"\n".join(b"%d %s" % numbered for numbered in enumerate(lines))
    (tmp_path / "a.txt").write_bytes(whole)
    held: deque[tuple[bytes, bytes]] = deque(maxlen=kept)
    read = bytearray()
    for block in blocks.blocks_of(tmp_path / "a.txt", None):
        read += block
        assert blocks.count_lines(block) == len(block.splitlines())
        assert block.endswith(b"\n") or len(read) == len(whole)
        held.append((block, bytes(bytearray(block))))
    assert read == whole
    assert all(block == copy for block, copy in held)


def test_columns_of_a_file_without_a_header_are_given(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"u1,a\nu2,b\n")
    assert read(tmp_path / "a.csv", "user", names=["user", "item"])[0] == {1: ("u1",), 2: ("u2",)}
    (tmp_path / "a.csv").write_bytes(b"user,item\nu2,b\n")
    assert read(tmp_path / "a.csv", "user", names=["user", "item"])[0] == {2: ("u2",)}


def test_progress_ends_with_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n")
    seen: list[tuple[str, int, int]] = []
    read(tmp_path / "a.csv", "a", progress=lambda *step: seen.append(step))
    assert seen == [("a.csv", 8, 8)]


def test_without_polars_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import blair_rec.extras
    import blair_rec.prepare

    monkeypatch.setattr(blair_rec.extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"preparing data needs polars.*pip install 'blair-rec\[prepare\]'"):
        importlib.reload(blair_rec.prepare)
