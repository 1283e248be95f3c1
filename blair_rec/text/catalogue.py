"""Item metadata: one record per item token, read from RecBole .item files, JSON lines, CSV and TSV."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from blair_rec.errors import CatalogueError, counted, separator_hint
from blair_rec.lines.atomic import AtomicFile
from blair_rec.lines.swallowed import swallowed

Value: TypeAlias = "str | bool | list[Any] | dict[str, Any] | None"
"""The value of an item's field, as the file holds it."""
Record: TypeAlias = Mapping[str, Value]

JSON_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
LONGEST_CELL = 2**31 - 1
"""Most characters of a CSV cell; by default Python's csv module refuses more than 131,072."""
_ID_HINT = "; name it as `item_id` (--item-id; in a comparison file: recbole: {ITEM_ID_FIELD: ...})"
ID_FIELDS = ("item_id", "parent_asin")
"""Default names of the field with the item token: RecBole's, then Amazon Reviews 2023's."""


_SURROGATE = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u[dD][89a-fA-F]..")
"""Matches an escaped backslash, a pair of escapes for one character, or half of such a pair, which can't be encoded."""


class Number(str):
    """A number of a JSON file, kept as it is written: 5.10 stays 5.10."""


@dataclass(frozen=True)
class Catalogue:
    """The metadata of a set of items."""

    item_tokens: tuple[str, ...]
    """The items' names in the data set, in file order, each once."""
    records: tuple[Record, ...] = field(repr=False)
    """[len(item_tokens)] the metadata of each item, as the file holds it; `texts_in` turns a value into texts."""
    source: Path
    """The file that was read."""
    repeated: Mapping[str, tuple[Record, ...]] = field(default_factory=dict, repr=False)
    """Further rows of items that have several rows in the file; they are used where the first row has no text."""

    def __post_init__(self) -> None:
        if len(self.item_tokens) != len(self.records):
            raise CatalogueError(
                f"{self.source}: {counted(len(self.item_tokens), 'item token')} for "
                f"{counted(len(self.records), 'record')}"
            )
        if not self.item_tokens:
            raise CatalogueError(f"{self.source} holds no item; a catalogue needs at least one")
        if surplus := len(self.item_tokens) - len(set(self.item_tokens)):
            raise CatalogueError(
                f"{self.source}: {surplus} item tokens are repeated; put their further rows into `repeated`"
            )

    @classmethod
    def of(cls, rows: Iterable[tuple[str, Record]], source: Path) -> Catalogue:
        """Make a catalogue from pairs of (item token, record), in this order; an item may have several rows.

        Raises CatalogueError if there is no row.
        """
        first: dict[str, Record] = {}
        repeated: dict[str, tuple[Record, ...]] = {}
        for token, record in rows:
            if token in first:
                repeated[token] = (*repeated.get(token, ()), record)
            else:
                first[token] = record
        return cls(tuple(first), tuple(first.values()), source, repeated)

    def __len__(self) -> int:
        return len(self.item_tokens)

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that at least one record has, in order of first appearance."""
        further = [record for rows in self.repeated.values() for record in rows]
        return tuple(dict.fromkeys(name for record in (*self.records, *further) for name in record))

    def rows(self) -> Iterator[tuple[str, Record]]:
        """Yield (item token, record) of every row; the rows of an item come together, in file order."""
        for token, record in zip(self.item_tokens, self.records, strict=True):
            yield token, record
            yield from ((token, further) for further in self.repeated.get(token, ()))

    @property
    def repeats(self) -> int:
        """Number of rows whose item already has an earlier row."""
        return sum(map(len, self.repeated.values()))


def read_catalogue(
    path: str | Path, item_id: str | Sequence[str] | None = None, *, separator: str = "\t", encoding: str = "utf-8"
) -> Catalogue:
    """Read item metadata from a RecBole `.item` file, JSON lines (`.jsonl`, `.json`), or CSV and TSV with a header.

    All kinds of files but `.item` may be compressed with gzip (`.gz`). In a CSV file a cell may be quoted, and a quoted
    cell may span several lines; in a TSV file a quotation mark is an ordinary character.

    `item_id` names the field that holds the item token. It may list several names: the first one that the file has is
    used. The default is `item_id`, then `parent_asin`. All other fields are kept as they are, numbers as they are
    written; null, NaN and a blank cell become None. If an item has several rows, the first one is its record and the
    others are kept in `repeated`. `separator` and `encoding` apply to a `.item` file only (RecBole's `field_separator`
    and `encoding`); all other files are UTF-8.

    Raises CatalogueError, with the line number, for anything in the file that can't be read reliably.
    """
    return Catalogue.of(iter_catalogue(path, item_id, separator=separator, encoding=encoding), Path(path))


def iter_catalogue(
    path: str | Path, item_id: str | Sequence[str] | None = None, *, separator: str = "\t", encoding: str = "utf-8"
) -> Iterator[tuple[str, Record]]:
    """Yield (item token, record) of each row, so that the catalogue need not fit into memory.

    Arguments and errors are those of read_catalogue. An item with several rows comes several times.
    """
    path = Path(path)
    if not path.is_file():
        raise CatalogueError(f"{path} is not there, or not a file; name a RecBole .item file, JSON lines, CSV or TSV")
    with path.open("rb") as file:
        first = file.read(2)
    if first == b"\x1f\x8b" and path.suffix != ".gz":
        raise CatalogueError(f"{path} is compressed by gzip, but its name doesn't end in .gz; rename or unpack it")
    if first in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and not path.name.endswith(".item"):
        raise CatalogueError(f"{path} is UTF-16; save it as UTF-8, for instance with `iconv -f utf-16 -t utf-8`")
    if path.name.endswith(".item"):
        return _recbole_items(AtomicFile(path, separator, encoding), item_id)
    if path.name.endswith(JSON_SUFFIXES):
        return _json_items(path, item_id)
    if path.name.endswith(TABLE_SUFFIXES):
        return _table_items(path, item_id)
    known = ", ".join([".item", *JSON_SUFFIXES, *TABLE_SUFFIXES])
    raise CatalogueError(f"{path}: unknown kind of file; known endings: {known}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of every line that is not empty."""
    opener = gzip.open if path.suffix == ".gz" else open
    offset = 0
    try:
        with opener(path, "rb") as file:
            # Split the bytes first, then decode: a file opened as text would also split at a lone carriage return.
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise CatalogueError(
                        f"{path}, line {number}: byte {offset + error.start} ({raw[error.start]:#04x}) is not UTF-8; "
                        "save the file as UTF-8, for instance with `iconv -f latin1 -t utf-8`"
                    ) from error
                offset += len(raw)
                if number == 1:
                    line = line.removeprefix("\ufeff")  # the byte order mark that some editors write
                if line := line.rstrip("\r\n"):
                    yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CatalogueError(f"{path} is a broken gzip file ({error}); get it again") from error


def _id_field(item_id: str | Sequence[str] | None, names: list[str], where: str, hint: str = "") -> str:
    """The field that holds the item token; `hint` is what the error advises instead of --item-id."""
    candidates = ID_FIELDS if item_id is None else (item_id,) if isinstance(item_id, str) else item_id
    for candidate in candidates:
        if candidate in names:
            return candidate
    asked = " or ".join(map(repr, candidates))
    raise CatalogueError(
        f"{where}: there is no field {asked} for the item token; fields: {', '.join(names)}{hint or _ID_HINT}"
    )


def _recbole_items(file: AtomicFile, item_id: str | Sequence[str] | None) -> Iterator[tuple[str, Record]]:
    """Yield (item token, record) of each line of a RecBole atomic file."""
    names = [column.name for column in file.columns]
    id_name = _id_field(item_id, names, f"{file.path}, line 1")
    for line in file.lines():
        where = f"{file.path}, line {line.number}"
        if why := file.misfit(line):
            raise CatalogueError(f"{where}: {why}")
        record: dict[str, str | list[str] | None] = {
            name: cell if cell.strip() else None for name, cell in zip(names, line.cells, strict=True)
        }
        yield _item_token(record.pop(id_name), id_name, where), record


def _json_items(path: Path, item_id: str | Sequence[str] | None) -> Iterator[tuple[str, Record]]:
    """Yield (item token, record) of each line of a JSON lines file."""
    id_name = ""
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        row = json_row(line, where)
        if half := next((found[0] for found in _SURROGATE.finditer(line) if len(found[0]) == 6), ""):
            raise CatalogueError(f"{where}: {half} is half of a character; write the whole character, or remove it")
        id_name = id_name or _id_field(item_id, list(row), where)
        yield _item_token(row.pop(id_name, None), id_name, where), row


def _table_items(path: Path, item_id: str | Sequence[str] | None) -> Iterator[tuple[str, Record]]:
    """Yield (item token, record) of each row of a CSV or TSV file."""
    names: list[str] = []
    id_name = ""
    begin = 1
    for number, cells in _table_rows(path):
        where, begin = f"{path}, line {begin}", number + 1
        if len(cells) < 2 and not "".join(cells).strip():  # a blank line
            continue
        if not names:
            names = cells
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise CatalogueError(f"{where}: two columns are called {repeated[0]!r}; rename one")
            id_name = _id_field(item_id, names, where, separator_hint(path, names))
            continue
        if len(cells) != len(names):
            raise CatalogueError(
                f"{where}: {counted(len(cells), 'cell')} where the first line has {len(names)}; look for a separator "
                "or a quotation mark inside a text"
            )
        record: dict[str, Value] = {
            name: cell if cell.strip() else None for name, cell in zip(names, cells, strict=True)
        }
        yield _item_token(record.pop(id_name), id_name, where), record


def _table_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its last line, cells) of each row of a CSV or TSV file.

    Raises CatalogueError for a quotation mark that merges several rows into one.
    """
    csv.field_size_limit(LONGEST_CELL)
    opener = gzip.open if path.suffix == ".gz" else open
    line = 0
    taken: list[str] = []

    def noted(texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            taken.append(text)
            yield text

    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            if ".tsv" in path.suffixes:
                rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                rows = csv.reader(noted(file), strict=True)
            for cells in rows:
                if len(taken) > 2 and (problem := swallowed(taken, len(cells), rows.line_num)):
                    raise CatalogueError(f"{path}, line {line + 1}: {problem}")
                taken.clear()
                line = rows.line_num
                yield line, cells
    except csv.Error as error:
        raise CatalogueError(
            f"{path}, from line {line + 1} on: {error}; a quotation mark inside a quoted cell has to be doubled"
        ) from error
    except UnicodeDecodeError as error:
        raise CatalogueError(
            f"{path}, after line {line}: {error.object[error.start]:#04x} is not UTF-8; save the file as UTF-8, for "
            "instance with `iconv -f latin1 -t utf-8`"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CatalogueError(f"{path} is a broken gzip file ({error}); get it again") from error


def json_row(line: str, where: str) -> dict[str, Value]:
    """Parse one line of a JSON lines file. Raises CatalogueError, whose message begins with `where`."""
    outermost: list[tuple[str, Any]] = []

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        outermost[:] = pairs  # the outermost object of a line comes last
        return dict(pairs)

    try:
        # Numbers stay as they are written; NaN is how pandas writes a missing value.
        row = json.loads(
            line, parse_float=Number, parse_int=Number, parse_constant=lambda _: None, object_pairs_hook=as_dict
        )
    except json.JSONDecodeError as error:
        raise CatalogueError(f"{where}: broken JSON ({error}); each line has to be one JSON object") from error
    except RecursionError:
        raise CatalogueError(f"{where}: lists or objects are nested too deeply to be read") from None
    if not isinstance(row, dict):
        raise CatalogueError(f"{where}: a {type(row).__name__}, not an object; each line has to be one JSON object")
    if len(row) < len(outermost):
        twice = next(name for number, (name, _) in enumerate(outermost) if name in dict(outermost[:number]))
        raise CatalogueError(f"{where}: the field {twice!r} appears twice; rename one")
    return row


def catalogue_of(
    rows: Iterable[dict[str, Value]], source: Path, item_id: str | Sequence[str] | None = None
) -> Catalogue:
    """Make a catalogue from rows that hold their item token. Raises as read_catalogue does, with row numbers from 1."""

    def named() -> Iterator[tuple[str, Record]]:
        id_name = ""
        for number, row in enumerate(rows, start=1):
            where = f"{source}, row {number}"
            id_name = id_name or _id_field(item_id, list(row), where)
            yield _item_token(row.pop(id_name, None), id_name, where), row

    return Catalogue.of(named(), source)


def _item_token(value: object, id_name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        what = f"is {value!r}" if value and not isinstance(value, str) else "is empty or missing"
        raise CatalogueError(f"{where}: {id_name} {what}; every item needs its own token in this field")
    if "\0" in value:
        raise CatalogueError(f"{where}: {id_name} is {value!r}, which holds a NUL character; remove it")
    return str(value)  # a Number becomes plain text


def texts_in(value: Value) -> list[str]:
    """All texts in a value, in order, without blank ones; each key of a mapping gives one text, "key: value"."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, list):
        return [text for element in value for text in texts_in(element)]
    if isinstance(value, dict):
        return [f"{key}: {', '.join(texts)}" for key, element in value.items() if (texts := texts_in(element))]
    return [value] if value.strip() else []
