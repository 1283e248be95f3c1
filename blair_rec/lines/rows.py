"""CSV, JSON lines and Parquet as columns of Python values, some rows at a time; only Parquet needs an extra."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from blair_rec.errors import SourceError, counted, did_you_mean, encoding_hint, first_of, out_of, separator_hint
from blair_rec.extras import need

ROWS = 1 << 16
"""Rows that are read together."""
CSV, JSON_LINES, PARQUET = ".csv", ".jsonl", ".parquet"
KINDS = (CSV, JSON_LINES, PARQUET)

OnRead = Callable[[int, int], None]
"""Called with (bytes or rows read, bytes or rows in all)."""


class Columns(NamedTuple):
    """Some rows of a file, column by column."""

    values: dict[str, list[Any]]
    """By the name of the column; as long as each other."""
    lines: Sequence[int]
    """The line of each row in its file, from 1; of Parquet the row."""


def kind_of(path: Path) -> str:
    """One of KINDS, by the ending.

    Raises:
        SourceError: another ending.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise SourceError(f"{path}: unknown kind of file; known endings: {', '.join(KINDS)}")
    return kind


def read_columns(path: Path, known: Sequence[str], told: OnRead = lambda done, total: None) -> Iterator[Columns]:
    """The rows of a file that has some of the `known` columns and no others; values stay as the file has them.

    Values of CSV are text; values of the other kinds are Python's numbers, texts and lists.

    Raises:
        SourceError: no such file, an unreadable or an empty one, or one with other columns; the line is named.
        MissingExtra: Parquet without pyarrow.
    """
    kind = kind_of(path)
    if not path.is_file():
        raise SourceError(f"{path} is not there, or not a file")
    if kind == PARQUET:
        rows = _parquet(path, known, told)
    else:
        rows = _text(path, known, told, _csv if kind == CSV else _json)
    empty = True
    for columns in rows:
        empty = empty and not columns.lines
        if columns.lines:
            yield columns
    if empty:
        raise SourceError(f"{path} holds no row")


def _text(
    path: Path,
    known: Sequence[str],
    told: OnRead,
    read: Callable[[Path, TextIO, Sequence[str]], Iterator[Columns]],
) -> Iterator[Columns]:
    try:
        size = path.stat().st_size
        with path.open("rb") as raw, open(raw.fileno(), encoding="utf-8-sig", newline="", closefd=False) as file:
            for columns in read(path, file, known):
                yield columns
                told(min(raw.tell(), size), size)
    except UnicodeDecodeError as error:
        with path.open("rb") as raw:
            hint = encoding_hint(raw.read(2))
        raise SourceError(f"{path} is not UTF-8 (byte {error.object[error.start]:#04x}); {hint}") from None
    except OSError as error:
        raise SourceError(f"{path} can't be read ({error.strerror or error})") from None


def _csv(path: Path, file: TextIO, known: Sequence[str]) -> Iterator[Columns]:
    reader = csv.reader(file, strict=True)
    try:
        header = next(reader, [])
        if not any(header):
            raise SourceError(f"{path} is empty, or its first line is; the first line has to name the columns")
        check_columns(path, header, known)
        rows: list[list[str]] = []
        lines: list[int] = []
        for row in reader:
            if row:  # an empty line is no row, but no error either
                if len(row) != len(header):
                    raise SourceError(
                        f"{path}, line {reader.line_num}: {counted(len(row), 'column')} where there should be "
                        f"{len(header)}"
                    )
                rows.append(row)
                lines.append(reader.line_num)
            if len(rows) == ROWS:
                yield _columns(header, rows, lines)
                rows, lines = [], []
        yield _columns(header, rows, lines)
    except csv.Error as error:
        raise SourceError(f"{path}, line {reader.line_num}: {error}; mend the quotation marks") from None


def _columns(header: Sequence[str], rows: list[list[str]], lines: list[int]) -> Columns:
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    return Columns({name: list(values) for name, values in zip(header, columns, strict=True)}, lines)


class _WithoutMeaning(ValueError):
    """A line that is JSON, but no row."""


def _json(path: Path, file: TextIO, known: Sequence[str]) -> Iterator[Columns]:
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
    names: list[str] = []
    values: dict[str, list[Any]] = {}
    lines: list[int] = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = decoder.decode(line)
        except _WithoutMeaning as error:
            raise SourceError(f"{path}, line {number}: {error}") from None
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            raise SourceError(f"{path}, line {number} is not JSON ({str(error)[:100]})") from None
        if not isinstance(row, dict):
            raise SourceError(f"{path}, line {number}: a JSON object is expected, such as {EXAMPLE}")
        if not names:
            check_columns(path, list(row), known)
            names, values = list(row), {name: [] for name in row}
        if row.keys() != values.keys():
            differing = sorted(row.keys() ^ values.keys())
            raise SourceError(
                f"{path}, line {number}: every line has to have the same fields as the first one "
                f"(differing: {first_of(differing)})"
            )
        for name in names:
            values[name].append(row[name])
        lines.append(number)
        if len(lines) == ROWS:
            yield Columns(values, lines)
            values, lines = {name: [] for name in names}, []
    yield Columns(values, lines)


EXAMPLE = '{"user_id": "u1", "item_id": "i7"}'


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _WithoutMeaning("a field is there twice; rename one")
    return found


def _constant(name: str) -> Any:
    raise _WithoutMeaning(f"{name} is not a value")


def _parquet(path: Path, known: Sequence[str], told: OnRead) -> Iterator[Columns]:
    need("pyarrow", "prepare", "reading Parquet")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            check_columns(path, names, known)
            done, total = 0, file.metadata.num_rows
            for batch in file.iter_batches(ROWS, columns=names):
                batch.validate(full=True)
                values = {name: _python(batch.column(place)) for place, name in enumerate(batch.schema.names)}
                yield Columns(values, range(done + 1, done + batch.num_rows + 1))
                done += batch.num_rows
                told(done, total)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, SourceError):
            raise
        words = str(error).partition("\n")[0] or type(error).__name__
        raise SourceError(f"{path} is not a Parquet file, or is damaged ({words}); get it again") from None


def _python(column: Any) -> list[Any]:
    """Python's values; times as whole numbers of their unit, days as their dates, decimals as floats."""
    import pyarrow

    if pyarrow.types.is_timestamp(column.type):
        column = column.cast(pyarrow.int64())
    elif pyarrow.types.is_date(column.type):
        column = column.cast(pyarrow.date32()).cast(pyarrow.string())
    elif pyarrow.types.is_decimal(column.type):
        column = column.cast(pyarrow.float64())
    values: list[Any] = column.to_pylist()
    return values


def check_columns(path: object, names: Sequence[str], known: Sequence[str]) -> None:
    """
    Raises:
        SourceError: a column that is not known, or one that is there twice.
    """
    if twice := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
        raise SourceError(f"{path}: several columns are called {twice[0]!r}; rename all but one")
    if others := [name for name in names if name not in known]:
        shown = first_of([name or "one without a name" for name in others])
        raise SourceError(
            f"{path}: {out_of(len(others), len(names), 'column', 'are')} unknown ({shown}); "
            + did_you_mean(others[0], known)
            + ("is the first line, with the column names, missing? " if len(others) == len(names) else "")
            + f"columns can be called {', '.join(known)}; rename yours, or leave them out{separator_hint(path, names)}"
        )
