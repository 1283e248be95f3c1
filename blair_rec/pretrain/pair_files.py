"""Rows of CSV, TSV, JSON lines and Parquet files as texts, each read again by its place in the file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from blair_rec.errors import SEPARATORS, CatalogueError, PairsError, counted, encoding_hint, separator_hint
from blair_rec.extras import need
from blair_rec.lines.atomic import unquoted
from blair_rec.lines.swallowed import swallowed
from blair_rec.text.catalogue import json_row, texts_in

Reader = tuple[Callable[[int], list[str]], Iterator[list[str]]]
"""(row -> its texts, iterator over the texts of all rows); a row can be read once the iterator has passed it."""

JSON_LINES = (".jsonl", ".json", ".ndjson")
SHOWN = 60
"""How many characters of a column's name a message shows, and how many names."""
BOM = b"\xef\xbb\xbf"


def open_rows(path: Path, columns: Sequence[str]) -> Reader:
    """Open the texts in these columns of a file, row by row; the file's ending names its format, TSV by default.

    A CSV file has quoted cells, which may hold line breaks. In a TSV file a quotation mark is an ordinary character,
    except in a cell that is quoted as pandas writes it and closed within its line. A list of texts is joined by spaces,
    a number is text as it is written, null and NaN are "". Empty lines and a byte order mark are skipped.

    Raises:
        PairsError: no such file, a missing or repeated column, a line that can't be read, with its number; also while
            the rows are read.
    """
    if not path.is_file():
        raise PairsError(f"{path}: no such file; `pairs` names a .tsv, .csv, .jsonl or .parquet file")
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise PairsError(f"{path} is compressed by gzip; unpack it, since rows are read by their place in the file")
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet(path, columns)
    if kind in JSON_LINES:
        return _json_lines(path, columns)
    return _csv(path, columns) if kind == ".csv" else _tsv(path, columns)


class _Lines:
    """The decoded lines of a file, with the place and the number of the last line read."""

    def __init__(self, path: Path, file: IO[bytes], at: int = 0, number: int = 0) -> None:
        self.path, self.file, self.number = path, file, number
        if at == 0 and file.read(len(BOM)) == BOM:
            at = len(BOM)
        file.seek(at)
        self.at = at
        """Where the next line begins, in bytes."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self.file)
        self.at += len(line)
        self.number += 1
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            where = f"{self.path}, line {self.number}"
            with self.path.open("rb") as file:
                hint = encoding_hint(file.read(2))
            raise PairsError(f"{where}: not UTF-8 ({error.reason}); {hint}") from None


RowOf = Callable[[_Lines], "list[str] | None"]
"""Returns the texts of the row at the next line, None if there is no row; raises StopIteration at the end."""


def _rows(path: Path, row: RowOf, skip: Callable[[_Lines], object] | None = None) -> Reader:
    """A reader of a file of lines; `row` reads a row and `skip` the header."""
    starts: list[int] = []

    def scan() -> Iterator[list[str]]:
        with path.open("rb") as file:
            lines = _Lines(path, file)
            if skip is not None:
                skip(lines)
            while True:
                start = lines.at
                try:
                    texts = row(lines)
                except StopIteration:
                    return
                if texts is not None:
                    starts.append(start)
                    yield texts

    def read(number: int) -> list[str]:
        with path.open("rb") as file:
            texts = row(_Lines(path, file, starts[number]))
        assert texts is not None
        return texts

    return read, scan()


def _json_lines(path: Path, columns: Sequence[str]) -> Reader:
    def row(lines: _Lines) -> list[str] | None:
        line = next(lines)
        if not line.strip():
            return None
        where = f"{path}, line {lines.number}"
        try:
            record = json_row(line, where)
        except CatalogueError as error:
            raise PairsError(str(error)) from None
        except RecursionError:
            raise PairsError(f"{where}: lists or objects are nested too deeply to be read") from None
        _check_columns(where, columns, list(record))
        return [_text(record[column]) for column in columns]

    return _rows(path, row)


def _tsv(path: Path, columns: Sequence[str]) -> Reader:
    with path.open("rb") as file:
        header = _tab_separated(next(_Lines(path, file), ""))
    places = _places(path, columns, header, {",": ".csv"})

    def row(lines: _Lines) -> list[str] | None:
        line = next(lines)
        if not line.strip(" \r\n"):
            return None
        cells = _tab_separated(line)
        if len(cells) != len(header) and '"' in line:
            cells = next(csv.reader([line], delimiter="\t"))  # a quoted cell may hold a tab
        return _at(places, cells, header, f"{path}, line {lines.number}")

    return _rows(path, row, next)


def _tab_separated(line: str) -> list[str]:
    return [unquoted(cell) for cell in line.rstrip("\r\n").split("\t")]


def _csv(path: Path, columns: Sequence[str]) -> Reader:
    with path.open("rb") as file:
        header = _next_row(_Lines(path, file)) or []
    places = _places(path, columns, header, {"\t": ".tsv"})

    def row(lines: _Lines) -> list[str] | None:
        start, number = lines.at, lines.number + 1
        cells = _next_row(lines)
        if cells is None:
            raise StopIteration
        if lines.number > number:
            _refuse_swallowed(lines, start, number, len(header))
        return _at(places, cells, header, f"{path}, line {number}") if cells else None

    return _rows(path, row, _next_row)


def _next_row(lines: _Lines) -> list[str] | None:
    """The cells of the next row, of any length; None at the end of the file."""
    number = lines.number + 1
    before = csv.field_size_limit(1 << 30)  # a setting that all readers of the process share
    try:
        return next(csv.reader(lines, strict=True), None)
    except csv.Error as error:
        raise PairsError(
            f"{lines.path}, line {number}: {error}; look for a quotation mark that is not closed, or not doubled "
            "inside a quoted cell"
        ) from None
    finally:
        csv.field_size_limit(before)


def _refuse_swallowed(lines: _Lines, start: int, number: int, width: int) -> None:
    """Raise PairsError if lines inside a row look like separate rows, merged by a stray quotation mark."""
    with lines.path.open("rb") as file:
        file.seek(start)
        taken = file.read(lines.at - start).decode("utf-8").rstrip("\r\n").split("\n")
    if problem := swallowed(taken, width, lines.number):
        raise PairsError(f"{lines.path}, line {number}: {problem}")


def _at(places: Sequence[int], cells: Sequence[str], header: Sequence[str], where: str) -> list[str]:
    if len(cells) != len(header):
        raise PairsError(
            f"{where}: a row has {counted(len(cells), 'column')}, the header {len(header)}; look for a separator or a "
            "line break inside a text"
        )
    return [cells[place] for place in places]


def _parquet(path: Path, columns: Sequence[str]) -> Reader:
    need("pyarrow", "parquet", "reading Parquet")
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        _check_columns(str(path), columns, file.schema_arrow.names)
        table = file.read(columns=list(dict.fromkeys(columns)))
    except (pyarrow.ArrowException, OSError) as error:
        raise PairsError(f"{path}: no Parquet file, or a broken one ({error}); get it again") from None

    def read(row: int) -> list[str]:
        try:
            return [_text(_plain(table[column][row].as_py())) for column in columns]
        except UnicodeDecodeError as error:
            raise PairsError(f"{path}, row {row + 1}: not UTF-8 ({error.reason}); save its texts as UTF-8") from None

    return read, (read(row) for row in range(table.num_rows))


def _plain(value: Any) -> Any:
    """Turn a value from Arrow into what a JSON file would hold; numbers, dates and other types become text."""
    if value is None or value != value:  # NaN is how pandas writes a missing value
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(element) for element in value]
    if isinstance(value, dict):
        return {key: _plain(element) for key, element in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value if isinstance(value, bool) else str(value)


def _text(value: Any) -> str:
    """The texts in a value, joined by spaces; a single text is kept as it is."""
    return value if isinstance(value, str) else " ".join(texts_in(value))


def _places(path: Path, columns: Sequence[str], header: Sequence[str], endings: Mapping[str, str]) -> list[int]:
    """Return where the columns are in a header; `endings` as in _header_hint."""
    _check_columns(str(path), columns, header, _header_hint(path, header, endings))
    return [header.index(column) for column in columns]


def _header_hint(path: Path, header: Sequence[str], endings: Mapping[str, str]) -> str:
    """Advice for a header that was read with the wrong separator; `endings` are those of files with another one."""
    if any("\r" in name for name in header):
        return "; its lines end with carriage returns alone: write the file again with line feeds"
    for sign, ending in endings.items():
        if len(header) == 1 and sign in header[0]:
            return f"; its columns are separated by {SEPARATORS[sign]}: give the file the ending {ending}"
    return separator_hint(path, header)


def _check_columns(where: str, columns: Sequence[str], known: Sequence[str], hint: str = "") -> None:
    if missing := [column for column in columns if column not in known]:
        names = [name if len(name) <= SHOWN else f"{name[:SHOWN]}..." for name in known[:SHOWN]]
        named = ", ".join(names) or "none"
        cure = hint or "; the keys context, item, item_id and hard_negative name the columns of your file"
        raise PairsError(f"{where}: no column {', '.join(map(repr, missing))}; columns: {named}{cure}")
    if twice := [column for column in columns if list(known).count(column) > 1]:
        raise PairsError(f"{where}: repeated columns: {', '.join(twice)}; rename one of each")
