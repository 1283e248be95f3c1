"""Item metadata: one record per item token, read from RecBole .item files and JSON lines."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from blair_rec.atomic import AtomicFile
from blair_rec.errors import CatalogueError

Value: TypeAlias = "str | bool | list[Any] | dict[str, Any] | None"
"""What a field of an item may hold, as the file has it."""
Record: TypeAlias = Mapping[str, Value]

JSON_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
ID_FIELDS = ("item_id", "parent_asin")
"""Where the item token stands if nobody says: RecBole's name, then Amazon Reviews 2023's."""
TITLE_FIELDS = ("title", "movie_title", "item_title", "product_title", "name", "item_name", "text")
"""Where a reader looks for an item's name, in this order."""
LONGEST_TITLE = 120
"""Characters of a title that a reader is shown; what is longer is cut."""


class Number(str):
    """A number of a JSON file, to the letter: 5.10 stays 5.10."""


@dataclass(frozen=True)
class Catalogue:
    """The metadata of a set of items."""

    item_tokens: tuple[str, ...]
    """The items' names in the data set, in file order, each once."""
    records: tuple[Record, ...] = field(repr=False)
    """[len(item_tokens)] what is known of each item, as the file has it; `texts_in` makes texts of it."""
    source: Path
    """The file that was read."""

    def __post_init__(self) -> None:
        if len(self.item_tokens) != len(self.records):
            raise CatalogueError(f"{self.source}: {len(self.item_tokens)} item tokens for {len(self.records)} records")
        if not self.item_tokens:
            raise CatalogueError(f"{self.source} holds no item; a catalogue needs at least one")
        if surplus := len(self.item_tokens) - len(set(self.item_tokens)):
            first = next(token for token, count in Counter(self.item_tokens).items() if count > 1)
            raise CatalogueError(
                f"{self.source}: {surplus} of {len(self.item_tokens)} rows repeat an item token (first: {first}); "
                "keep one row per item"
            )

    def __len__(self) -> int:
        return len(self.item_tokens)

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that at least one record has, in order of first appearance."""
        return tuple(dict.fromkeys(name for record in self.records for name in record))


def read_catalogue(path: str | Path, item_id: str | Sequence[str] | None = None) -> Catalogue:
    """Item metadata from a RecBole `.item` file, or from JSON lines (`.jsonl`, `.json`, also with `.gz`).

    `item_id` names the field that holds the item token, or several of which the first that is there is taken; without
    it, that is `item_id` or else `parent_asin`. All other fields are kept as they are, numbers as they are written;
    null, NaN and a blank column of a .item file are None.

    Raises CatalogueError, with the line number, for anything in the file that can't be meant as written.
    """
    item_tokens: list[str] = []
    records: list[Record] = []
    for item_token, record in iter_catalogue(path, item_id):
        item_tokens.append(item_token)
        records.append(record)
    return Catalogue(tuple(item_tokens), tuple(records), Path(path))


def iter_catalogue(path: str | Path, item_id: str | Sequence[str] | None = None) -> Iterator[tuple[str, Record]]:
    """(item token, record) of each item, one after the other: a catalogue that need not fit into memory.

    Arguments and errors are those of read_catalogue, but nobody looks for items that are there twice.
    """
    path = Path(path)
    if not path.is_file():
        raise CatalogueError(f"{path} is not there, or not a file; name a RecBole .item file or JSON lines")
    if path.name.endswith(".item"):
        return _recbole_items(path, item_id)
    if path.name.endswith(JSON_SUFFIXES):
        return _json_items(path, item_id)
    raise CatalogueError(f"{path}: unknown kind of file; known endings: .item, {', '.join(JSON_SUFFIXES)}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of all lines that are not blank."""
    opener = gzip.open if path.suffix == ".gz" else open
    offset = 0
    try:
        with opener(path, "rb") as file:
            # Split as bytes, decoded after: a file opened as text would also split at a lone carriage return.
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


def _id_field(item_id: str | Sequence[str] | None, names: list[str], where: str) -> str:
    """The field that holds the item token."""
    candidates = ID_FIELDS if item_id is None else (item_id,) if isinstance(item_id, str) else item_id
    for candidate in candidates:
        if candidate in names:
            return candidate
    asked = " or ".join(map(repr, candidates))
    raise CatalogueError(f"{where}: no field {asked} that could name the item; fields: {', '.join(names)}")


def _recbole_items(path: Path, item_id: str | Sequence[str] | None) -> Iterator[tuple[str, Record]]:
    """Lines of a RecBole atomic file."""
    file = AtomicFile(path)
    names = [column.name for column in file.columns]
    id_name = _id_field(item_id, names, f"{path}, line 1")
    for line in file.lines():
        where = f"{path}, line {line.number}"
        if why := file.misfit(line):
            raise CatalogueError(f"{where}: {why}")
        record: dict[str, str | list[str] | None] = {
            name: cell if cell.strip() else None for name, cell in zip(names, line.cells, strict=True)
        }
        token = _item_token(record.pop(id_name), id_name, where)
        if "\0" in token:
            raise CatalogueError(f"{where}: {id_name} {token[:60]!r} holds a NUL character; correct the line")
        yield token, record


def _json_items(path: Path, item_id: str | Sequence[str] | None) -> Iterator[tuple[str, Record]]:
    """Rows of JSON lines."""
    id_name = ""
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        row = json_row(line, where)
        id_name = id_name or _id_field(item_id, list(row), where)
        yield _item_token(row.pop(id_name, None), id_name, where), row


def json_row(line: str, where: str) -> dict[str, Value]:
    """One line of a JSON lines file. Raises CatalogueError, beginning with `where`."""
    try:
        # Numbers stay as they are written; NaN is how pandas writes a missing value.
        row = json.loads(line, parse_float=Number, parse_int=Number, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise CatalogueError(f"{where}: broken JSON ({error}); each line has to be one JSON object") from error
    if not isinstance(row, dict):
        raise CatalogueError(f"{where}: a {type(row).__name__}, not an object; each line has to be one JSON object")
    return row


def catalogue_of(
    rows: Iterable[dict[str, Value]], source: Path, item_id: str | Sequence[str] | None = None
) -> Catalogue:
    """A catalogue of rows that hold their item token. Raises as read_catalogue does, counting rows from 1."""
    item_tokens: list[str] = []
    records: list[Record] = []
    id_name = ""
    for number, row in enumerate(rows, start=1):
        where = f"{source}, row {number}"
        id_name = id_name or _id_field(item_id, list(row), where)
        item_tokens.append(_item_token(row.pop(id_name, None), id_name, where))
        records.append(row)
    return Catalogue(tuple(item_tokens), tuple(records), source)


def _item_token(value: object, id_name: str, where: str) -> str:
    if not isinstance(value, str) or not value:
        what = "is empty or missing" if value is None or value == "" else f"is {value!r}"
        raise CatalogueError(f"{where}: {id_name} {what}; every item needs a token of its own there")
    return str(value)  # a number is a token like any other


def texts_in(value: Value) -> list[str]:
    """All texts in a value, in order, blank ones left out; those of a mapping as "key: value"."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, list):
        return [text for element in value for text in texts_in(element)]
    if isinstance(value, dict):
        return [f"{key}: {', '.join(texts)}" for key, element in value.items() if (texts := texts_in(element))]
    return [value] if value.strip() else []


def first_field(names: Sequence[str], known: Iterable[str]) -> str:
    """The first of `names` that is among the known fields, whatever its case; "" without any."""
    by_lower = {name.lower(): name for name in sorted(known, reverse=True)}
    return next((by_lower[name] for name in names if name in by_lower), "")


def short_title(texts: Sequence[str]) -> str:
    """Texts as one line for a reader, of at most LONGEST_TITLE characters."""
    text = " ".join(" ".join(texts).split())
    return text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 1].rstrip() + "…"
