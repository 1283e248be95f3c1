"""An interrupted reading resumes from its saved parts, and the result equals that of one complete reading."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_prepare_amazon import a_source, some_reviews, written_log

from blair_rec.lines.rejected import Rejected
from blair_rec.prepare import folder
from blair_rec.prepare.public.reviews import Amazon, prepare_amazon
from blair_rec.prepare.reading import blocks, kept
from blair_rec.prepare.reading.jsonlines import JsonLines
from blair_rec.prepare.reading.records import read_table

NUMBERS = {"a": pl.Int64}
LINES = [b'{"a": 1, "b": "x"}', b'{"a": "1"}', b'{"a": 2.5}', b'{"a": null, "b": [1]}', b"{", b"[]", b""]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few lines, and parts of two blocks."""
    monkeypatch.setattr(blocks, "BLOCK", 40)
    monkeypatch.setattr(kept, "PART", 2)


def read(path: Path, keep: Path | None, stop: int | None = None) -> tuple[list[Any], list[Any], int]:
    """Return (line, values as text) of each row, the rejected lines, and the number of lines; stop after `stop`."""
    rejected = Rejected(path.with_name("rejected.jsonl"), limit=1.0)
    rejected.path.unlink(missing_ok=True)
    rows: list[Any] = []
    chunks = read_table(path, ["a", "b"], rejected, numbers=NUMBERS, keep=keep)
    for table, lines in itertools.islice(chunks, stop):
        rows += zip(list(lines), table.cast(pl.String).rows(), strict=True)
    said = rejected.path.read_text("utf-8").splitlines() if rejected.path.exists() else []
    return sorted(rows), sorted(said), rejected.lines


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(LINES), max_size=60), st.lists(st.integers(0, 12), max_size=3))
def test_a_reading_interrupted_anywhere_resumes_with_the_same_result(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], stops: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    path = folder / "r.jsonl"
    path.write_bytes(b"\n".join([b'{"a": 0, "b": ""}', *lines]))
    expected = read(path, None)
    for stop in stops:
        read(path, folder / "keep", stop)
    assert read(path, folder / "keep") == expected
    assert read(path, folder / "keep") == expected


def a_file(folder: Path, count: int = 42) -> Path:
    path = folder / "r.jsonl"
    path.write_text("".join(f'{{"a": {number}, "b": "text"}}\n' for number in range(count)))
    return path


def parsed_blocks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record the blocks of two lines that are parsed from now on."""
    seen: list[bytes] = []
    parse = JsonLines.__call__
    monkeypatch.setattr(JsonLines, "__call__", lambda self, block: seen.append(block) or parse(self, block))
    return seen


def test_what_was_read_is_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, keep = a_file(tmp_path), tmp_path / "keep"
    seen = parsed_blocks(monkeypatch)
    expected = read(path, keep)
    assert len(seen) == 21
    seen.clear()
    assert read(path, keep) == expected
    assert len(seen) == 1, "what makes up no whole part is read again"


def damage_rows(keep: Path) -> None:
    part = next(keep.glob("*/1.arrow"))
    part.write_bytes(part.read_bytes()[:100])


def lose_rows(keep: Path) -> None:
    next(keep.glob("*/1.arrow")).unlink()


def damage_state(keep: Path) -> None:
    next(keep.glob("*/1.json")).write_text("{")


@pytest.mark.parametrize("accident", [damage_rows, lose_rows, damage_state])
def test_a_damaged_part_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accident: Any) -> None:
    path, keep = a_file(tmp_path), tmp_path / "keep"
    expected = read(path, keep)
    accident(keep)
    seen = parsed_blocks(monkeypatch)
    assert read(path, keep) == expected
    assert len(seen) == 21 - kept.PART, "the part before it still counts"


def test_a_file_that_has_changed_is_read_from_the_beginning(tmp_path: Path) -> None:
    read(a_file(tmp_path), tmp_path / "keep")
    path = a_file(tmp_path)
    path.write_text(path.read_text().replace('"text"', '"other"'))
    assert {row[1][1] for row in read(path, tmp_path / "keep")[0]} == {"other"}


KILLED = """
import os, signal, sys
from pathlib import Path
from blair_rec.prepare.reading import blocks, kept
from blair_rec.prepare import folder
from blair_rec.prepare.public.reviews import Amazon, prepare_amazon

blocks.BLOCK, kept.PART = 40, 2
reading = iter(range(60))

def progress(what, done, total):
    if what == "X.jsonl" and next(reading, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

prepare_amazon(Amazon("X", 4, "last_out", Path("source")), Path("out"), print, progress)
"""


def test_a_killed_preparation_resumes_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = a_source(tmp_path / "source", some_reviews(3), "raw") / "raw" / "review_categories" / "X.jsonl"
    text = reviews.read_text("utf-8").splitlines(keepends=True)
    reviews.write_text("".join([*text[:20], "{broken\n", *text[20:], text[-1][:30]]), "utf-8")
    died = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    left = sorted(path.name for path in tmp_path.iterdir())
    assert ".out.read" in left and "out" not in left
    asked = Amazon("X", 4, "last_out", tmp_path / "source")
    assert prepare_amazon(asked, tmp_path / "whole", lambda line: None)
    seen = parsed_blocks(monkeypatch)
    assert prepare_amazon(asked, tmp_path / "out", lambda line: None)
    assert text[0].encode() not in b"".join(seen) and text[-1].encode() in b"".join(seen)
    assert written_log(tmp_path / "out") == written_log(tmp_path / "whole")
    rejected = [sorted((tmp_path / name / "rejected.jsonl").read_text().splitlines()) for name in ("out", "whole")]
    assert rejected[0] == rejected[1] and len(rejected[0]) == 2
    assert recorded(tmp_path / "out") == recorded(tmp_path / "whole")
    assert recorded(tmp_path / "out")["X.jsonl"] == hashlib.sha256(reviews.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def recorded(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each source by its name."""
    return {one["name"]: one["sha256"] for one in json.loads((folder / "prepared.json").read_text())["sources"]}


@pytest.mark.parametrize("form", ["plain", "marked", "gz"])
def test_the_record_names_the_sha256_of_what_was_read(tmp_path: Path, form: str) -> None:
    source = a_source(tmp_path / "source", some_reviews(3), "raw")
    reviews, meta = source / "raw/review_categories/X.jsonl", source / "raw/meta_categories/meta_X.jsonl"
    if form == "marked":
        reviews.write_bytes(b"\xef\xbb\xbf" + reviews.read_bytes())
    elif form == "gz":
        plain, reviews = reviews, reviews.with_name("X.jsonl.gz")
        reviews.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    asked = Amazon("X", 4, "last_out", source)
    prepare_amazon(asked, tmp_path / "out", lambda line: None)
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (reviews, meta)}
    assert recorded(tmp_path / "out") == expected
    assert not prepare_amazon(asked, tmp_path / "out", lambda line: None), "it is the same command"


def test_what_is_read_through_is_not_read_again_for_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = a_source(tmp_path / "source", some_reviews(3), "raw")
    read_for_hash: list[str] = []
    monkeypatch.setattr(folder, "sha256_of", lambda path: read_for_hash.append(path.name) or "0")
    prepare_amazon(Amazon("X", 4, "last_out", source), tmp_path / "out", lambda line: None)
    assert "meta_X.jsonl" in read_for_hash and "X.jsonl" not in read_for_hash


def test_a_file_that_was_not_seen_to_its_end_is_hashed_from_the_disk(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    whole.write_bytes(b"abc" * 1000)
    part.write_bytes(b"abc" * 1000)
    hashes = folder.Hashes([whole, part])
    for begin in range(0, 3000, 700):
        hashes.see(whole, whole.read_bytes()[begin : begin + 700])
        if begin:
            hashes.see(part, b"other bytes")
    hashes.begin()
    assert set(hashes.all().values()) == {hashlib.sha256(b"abc" * 1000).hexdigest()}


def test_a_short_file_leaves_nothing_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    read(a_file(tmp_path), tmp_path / "keep")
    assert not (tmp_path / "keep").exists()
    assert os.listdir(tmp_path) == ["r.jsonl"]
