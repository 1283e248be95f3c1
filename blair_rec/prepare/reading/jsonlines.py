"""Read JSON lines: whole blocks with Polars, single lines exactly as written; and find their fields."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from blair_rec.errors import SourceError
from blair_rec.prepare.reading.blocks import blocks_of, texts_of
from blair_rec.prepare.reading.lines import UNREADABLE, Misfit, not_unicode

LINE = "\n"
"""The name of a column with the bytes of each line; no field can have this name."""
DEEPEST = 100
"""Maximum nesting depth of lists and objects that are read as a text."""
OVERFLOWS = tuple(map(int, pl.__version__.split(".")[:2])) < (2, 1)
"""Whether this Polars crashes the process if lists are nested thousands deep. 2.1 does not; it needs Python 3.11."""
MANY = 1000
"""Brackets of a line from which its depth is measured before Polars reads it, if OVERFLOWS."""
TOO_DEEP = f"lists or objects are nested more than {DEEPEST} deep; convert them to text"
SHOWN = 1000
"""Number of lines whose fields an error message lists."""
_CONSTANT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|NaN|-?Infinity')
"""A string, or a constant that Python's json module writes but JSON doesn't have."""
_SURROGATE = re.compile(rb"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u[dD][89a-fA-F]..")
"""An escaped backslash, a surrogate pair (one character), or half of a surrogate pair."""


JSON_KINDS = {list: "a JSON list", str: "a JSON text", bool: "true or false", type(None): "null"}


class WrittenNumber(str):
    """A number of a JSON file, exactly as written: 5.10 stays 5.10."""


_to_the_letter = json.JSONDecoder(parse_float=WrittenNumber, parse_int=WrittenNumber, parse_constant=lambda _: None)


class JsonLines:
    """Parser for whole lines of JSON objects; scalars become text, lists and objects JSON text, NaN null.

    `numbers` are columns that stay numbers if a block has only numbers in them. With `whole`, the column LINE also has
    the bytes of each line.
    """

    def __init__(
        self, columns: Sequence[str], numbers: Mapping[str, type[pl.DataType]] | None = None, whole: bool = False
    ) -> None:
        texts: dict[str, type[pl.DataType]] = dict.fromkeys(columns, pl.String)
        self.schemas = [{**texts, **numbers}, texts] if numbers else [texts]
        self.whole = whole

    def __call__(self, block: bytes) -> pl.DataFrame:
        """Parse like lines.Parse; raises Misfit if a line has one of the columns twice."""
        try:
            table = self._parsed(block)
        except UNREADABLE:
            if b"NaN" not in block and b"Infinity" not in block:
                raise
            table = self._parsed(_CONSTANT.sub(lambda found: found[0] if found[0][:1] == b'"' else b"null", block))
        for column in table.columns:
            # Each value needs one mention of the name. If there are no further mentions, no line has the name twice.
            name = json.dumps(column, ensure_ascii=False).encode()
            if block.count(name) > table.height - table[column].null_count() and _has_twice(block, name, column):
                raise Misfit(f"a line has the field {column!r} twice")
        lines = block.removesuffix(b"\n").split(b"\n") if self.whole else []
        # Polars skips empty lines, so it then has fewer rows; the caller tries the lines one by one.
        return table.with_columns(pl.Series(LINE, lines, pl.Binary)) if len(lines) == table.height > 0 else table

    def _parsed(self, block: bytes) -> pl.DataFrame:
        if OVERFLOWS and any(
            line.count(b"[") + line.count(b"{") > MANY and self.why(line) == TOO_DEEP for line in block.split(b"\n")
        ):
            raise Misfit(TOO_DEEP)
        *typed, texts = self.schemas
        for schema in typed:
            with contextlib.suppress(*UNREADABLE):  # a value of another type: neither 1.5 nor "1" is an Int64
                return pl.read_ndjson(block, schema=schema)
        return pl.read_ndjson(block, schema=texts)

    def why(self, line: bytes) -> str:
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError:
            return not_unicode(line)
        except json.JSONDecodeError as error:
            return f"broken JSON ({error.msg} at character {error.pos + 1})"
        except RecursionError:
            return TOO_DEEP
        except ValueError:  # a number with thousands of digits
            return ""
        if _depth(row) > DEEPEST:  # Polars has a limit, too, and Python has none for lists from 3.13 on
            return TOO_DEEP
        if not isinstance(row, dict):
            return f"{JSON_KINDS.get(type(row), 'a JSON number')}, not an object"
        twice = [name for name in self.schemas[-1] if name in repeated_names(line)]
        return f"the field {twice[0]!r} occurs twice; rename one" if twice else ""


def row_of(line: bytes, where: str) -> dict[str, Any]:
    """Return the object on a line; numbers are WrittenNumber, null and NaN are None, half a surrogate pair is NUL.

    Raises:
        SourceError: the object is nested too deeply to be read as text.
    """
    if b"\\ud" in line or b"\\uD" in line:
        line = _SURROGATE.sub(lambda found: rb"\u0000" if len(found[0]) == 6 else found[0], line)
    try:
        row = _to_the_letter.decode(line.decode())
    except RecursionError:
        row = None
    if row is None or (line.count(b"[") + line.count(b"{") > DEEPEST and _depth(row) > DEEPEST):
        raise SourceError(f"{where}: {TOO_DEEP}")
    return dict(row)


def repeated_names(line: bytes | str) -> list[str]:
    """Return the field names that occur more than once in the object on a line; nested objects don't count."""
    # `pairs` is the outermost object as a list of its pairs; nested objects don't matter.
    pairs = json.loads(line, object_pairs_hook=lambda pairs: pairs)
    counts = Counter(pair[0] for pair in pairs if isinstance(pair, tuple))
    return sorted(name for name, count in counts.items() if count > 1)


def _has_twice(block: bytes, name: bytes, field: str) -> bool:
    """Return whether an object of the block has a field twice; `name` is the field as written in JSON."""
    twice = re.compile(re.escape(name) + rb"[^\n]*" + re.escape(name) + rb"[^\n]*")
    for found in twice.finditer(block):
        line = block[block.rfind(b"\n", 0, found.start()) + 1 : found.end()]
        with contextlib.suppress(ValueError, RecursionError):  # the reader says which lines are broken
            if field in repeated_names(line):
                return True
    return False


def _depth(value: Any) -> int:
    """Return the nesting depth of lists and objects, counted up to DEEPEST + 1."""
    depth, inside = 0, [value]
    while depth <= DEEPEST and (inside := [one for one in inside if isinstance(one, (list, dict))]):
        depth += 1
        inside = [each for one in inside for each in (one.values() if isinstance(one, dict) else one)]
    return depth


def as_numbers(value: Any) -> Any:
    """Return the value with each WrittenNumber converted to a number, if Python can parse it."""
    if isinstance(value, list):
        return [as_numbers(one) for one in value]
    if isinstance(value, dict):
        return {key: as_numbers(one) for key, one in value.items()}
    if isinstance(value, WrittenNumber):
        with contextlib.suppress(ValueError):  # thousands of digits
            return json.loads(value)
    return value


def fields_among(path: Path, asked: Sequence[str]) -> list[str]:
    """Return the fields of `asked` that occur in any line; stops reading once all of them are found.

    Raises:
        SourceError: the file can't be read.
    """
    missing = list(dict.fromkeys(asked))
    for block in blocks_of(path, None):
        missing = [name for name in missing if not _has_field(block, name)]
        if not missing:
            break
    return [name for name in dict.fromkeys(asked) if name not in missing]


def _has_field(block: bytes, name: str) -> bool:
    """Return whether any line of the block has this field; a nested field of the same name doesn't count."""
    for written in {json.dumps(name).encode(), json.dumps(name, ensure_ascii=False).encode("utf-8", "replace")}:
        place = block.find(written)
        while place >= 0:
            end = block.find(b"\n", place) + 1 or len(block)
            with contextlib.suppress(ValueError, RecursionError):  # the reader says which lines are broken
                row = json.loads(block[block.rfind(b"\n", 0, place) + 1 : end])
                if isinstance(row, dict) and name in row:
                    return True
            place = block.find(written, end)
    return False


def first_fields(path: Path) -> list[str]:
    """Return the fields of the first lines, in order of first appearance.

    Raises:
        SourceError: the file can't be read, or none of these lines is an object.
    """
    fields: dict[str, None] = {}
    begin = ""
    for number, line in enumerate(texts_of(path, None)):
        begin = begin or line.strip()
        if number == SHOWN:
            break
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            fields.update(dict.fromkeys(row if isinstance(row, dict) else ()))
    if not begin:
        raise SourceError(f"{path} is empty; each line must be one JSON object")
    if not fields:
        array = (
            "; this file starts with a JSON list: write each of its objects on its own line" if begin[:1] == "[" else ""
        )
        raise SourceError(f"{path}: none of the first {SHOWN:,} lines is a JSON object; each line must be one{array}")
    return list(fields)
