"""CSV with quoted cells: what Python's csv module wrote is read back; a stray quotation mark costs only its line."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blair_rec.errors import RejectedLines
from blair_rec.lines.rejected import Rejected
from blair_rec.prepare.reading import blocks, quoted
from blair_rec.prepare.reading.records import read_table

NAMES = ["user", "item", "time", "note"]


def read(path: Path, columns: list[str], limit: float = 1.0) -> tuple[list[tuple[Any, ...]], list[dict[str, Any]], int]:
    """Return (line, cells) of each row, the rejected lines, and the number of lines."""
    rejected = Rejected(path.with_name("rejected.jsonl"), limit)
    rejected.path.unlink(missing_ok=True)
    rows: list[tuple[Any, ...]] = []
    for table, lines in read_table(path, columns, rejected):
        rows += [(line, *cells) for line, cells in zip(lines, table.rows(), strict=True)]
    rejected.check()
    said = rejected.path.read_text("utf-8").splitlines() if rejected.path.exists() else []
    return rows, [json.loads(line) for line in said], rejected.lines


@pytest.fixture(params=[16 << 20, 20], ids=["in one block", "in blocks of a line or two"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", request.param)


PROSE = st.lists(st.sampled_from(["good", "so ", ", ", '"', "\n", "\r\n", "\n\n", "é", "7"]), max_size=12).map("".join)


@pytest.mark.usefixtures("_blocks")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(notes=st.lists(PROSE, min_size=1, max_size=8), every=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_what_the_csv_module_wrote_comes_back_with_the_lines_on_which_it_begins(
    tmp_path: Path, notes: list[str], every: int
) -> None:
    written = [(f"u{number}", f"i{number % 3}", str(100 + number), note) for number, note in enumerate(notes)]
    path, begins = tmp_path / "a.csv", []
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=every, lineterminator="\n")  # type: ignore[arg-type]
        writer.writerow([*NAMES[:3], 'a "note"'])
        for row in written:
            file.flush()
            begins.append(path.read_bytes().count(b"\n") + 1)
            writer.writerow(row)
    rows, rejected, lines = read(path, [*NAMES[:3], 'a "note"'])
    assert rows == [(begin, *row) for begin, row in zip(begins, written, strict=True)]
    assert not rejected and lines == path.read_bytes().count(b"\n") - 1


@pytest.mark.usefixtures("_blocks")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    count=st.integers(3, 30),
    opened=st.sets(st.integers(0, 29), min_size=1, max_size=3),
    closed=st.sets(st.integers(0, 29), max_size=3),
)
def test_a_stray_quotation_mark_costs_its_own_line_and_no_other(
    tmp_path: Path, count: int, opened: set[int], closed: set[int]
) -> None:
    """The next quotation mark may be at the end of a cell, at the start of one, or missing."""
    events = [[f"u{number % 7}", f"i{number % 5}", str(1000 + number), "fine"] for number in range(count)]
    opened &= set(range(count - 1))
    for number in closed - opened:
        if number < count:
            events[number][3] = '5"'
    lines = [",".join([*event[:3], ('"' * (number in opened)) + event[3]]) for number, event in enumerate(events)]
    (tmp_path / "a.csv").write_text("\n".join([",".join(NAMES), *lines]) + "\n")
    rows, rejected, total = read(tmp_path / "a.csv", NAMES)
    assert rows == [(number + 2, *event) for number, event in enumerate(events) if number not in opened]
    assert [one["line"] for one in rejected] == [number + 2 for number in sorted(opened)] and total == count
    assert [one["text"] for one in rejected] == [lines[number] for number in sorted(opened)]


def test_a_cell_that_joins_rows_is_reported_with_both_lines(tmp_path: Path) -> None:
    good = [f"u{number},i1,{number},fine" for number in range(40)]
    lines = [*good[:20], 'u7,i7,7,"tv', *good[20:30], 'u8,i8,8,5"', *good[30:]]
    (tmp_path / "a.csv").write_text("\n".join([",".join(NAMES), *lines]))
    rows, rejected, _ = read(tmp_path / "a.csv", ["user"])
    assert len(rows) == 41
    assert [(one["line"], one["why"]) for one in rejected] == [
        (
            22,
            "a quotation mark opens a cell here that closes in line 33; the 11 lines after it look like rows and "
            "will be read",
        )
    ]


def test_a_text_whose_lines_have_as_many_commas_as_rows_have_stays_one_cell(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'sku,about\n1,"Nice\nThis is good, thanks"\n2,plain words\n3,"Water, 5%\nSugar, 3%\nSalt, 1%"\n'
    )
    rows, rejected, lines = read(tmp_path / "a.csv", ["sku", "about"])
    assert [row[0] for row in rows] == [2, 4, 5] and not rejected and lines == 6
    assert rows[2] == (5, "3", "Water, 5%\nSugar, 3%\nSalt, 1%")


@pytest.mark.usefixtures("_blocks")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from(["a", "b c", "7", ""]), min_size=2, max_size=4), min_size=1, max_size=6))
def test_a_first_cell_of_several_lines_is_not_a_joined_row(tmp_path: Path, texts: list[list[str]]) -> None:
    """The last line of the row has as many commas as a row, because it contains all the other cells."""
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["note", *NAMES[:3]])
        writer.writerows(["\n".join(text), f"u{number}", "i1", number] for number, text in enumerate(texts))
    rows, rejected, _ = read(tmp_path / "a.csv", ["note", "user"])
    assert not rejected
    assert [row[1:] for row in rows] == [("\n".join(text), f"u{number}") for number, text in enumerate(texts)]


def test_each_line_of_a_broken_row_counts_against_the_limit(tmp_path: Path) -> None:
    rows = "".join(f'u{number},i1,{number},"fine, so"\n' for number in range(95))
    (tmp_path / "a.csv").write_text(f'{",".join(NAMES)}\n{rows}u1,i1,1,"so\n\nvery\ngood",x\n')
    found, rejected, lines = read(tmp_path / "a.csv", ["user"], limit=0.05)
    assert len(found) == 95 and lines == 99
    assert [(one["line"], one["why"]) for one in rejected] == [
        (97, "5 columns instead of 4"),
        *((line, "belongs to the broken row that begins in line 97") for line in (98, 99, 100)),
    ]
    with pytest.raises(RejectedLines, match="4 of 99 lines"):
        read(tmp_path / "a.csv", ["user"], limit=0.04)


@pytest.mark.usefixtures("_blocks")
def test_a_cell_may_be_longer_than_the_csv_module_allows_and_its_setting_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    text = 'word "so" ' * 30_000
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["sku", "about"], ["1", text], ["2", "x"]])
    rows, rejected, _ = read(tmp_path / "a.csv", ["sku", "about"])
    assert rows == [(2, "1", text), (3, "2", "x")] and not rejected
    assert csv.field_size_limit() == limit


def test_a_cell_longer_than_the_limit_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 100)
    monkeypatch.setattr(quoted, "LONGEST_LINE", 500)
    lines = [f"u{number},i1,{number},fine" for number in range(200)]
    lines[50] += ',"'
    lines[50] = lines[50].replace(",fine", "")
    (tmp_path / "a.csv").write_text("\n".join([",".join(NAMES), *lines]) + "\n")
    rows, rejected, _ = read(tmp_path / "a.csv", ["user"])
    assert [row[0] for row in rows] == [number for number in range(2, 202) if number != 52]
    assert [one["line"] for one in rejected] == [52]


@pytest.mark.usefixtures("_blocks")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b",", b",", b'"', b"\n", b"\r", b"\n", b"b c", b"\0", b"\xff", b'""']), max_size=40)
)
def test_each_line_of_any_file_is_in_a_row_or_rejected(tmp_path: Path, parts: list[bytes]) -> None:
    content = b"".join(parts)
    (tmp_path / "a.csv").write_bytes(b'x,"y"\n' + content)
    rows, rejected, total = read(tmp_path / "a.csv", ["x", "y"])
    lines = content.split(b"\n")
    in_rows = [row[0] + more for row in rows for more in range(1 + "".join(row[1:]).count("\n"))]
    found = in_rows + [one["line"] for one in rejected]
    assert len(set(found)) == len(found) == total
    assert all(number in found or not line.strip(b"\r") for number, line in enumerate(lines, 2))
    if b'"' not in content and b"\r" not in content:
        # Python 3.10 can't read NUL, so these lines are rejected there.
        bad = (b"\xff", b"\0") if sys.version_info < (3, 11) else (b"\xff",)
        whole = [line for line in lines if line.count(b",") == 1 and not any(byte in line for byte in bad)]
        good = [line.decode("latin1").split(",") for line in whole]
        assert [list(row[1:]) for row in rows] == good
