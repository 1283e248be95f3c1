"""Read item metadata from any kind of file: the names of all items, and the metadata of wanted items."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from blair_rec.errors import SourceError, counted, first_of
from blair_rec.lines.rejected import Rejected
from blair_rec.prepare.reading.blocks import Progress
from blair_rec.prepare.reading.jsonlines import LINE, WrittenNumber, repeated_names, row_of
from blair_rec.prepare.reading.records import JSON_LINES, kind_of, need_columns, read_table


class Names(NamedTuple):
    """The item names of a file."""

    known: set[str]
    repeated: list[str]
    """Items with several rows, each once, in the order in which their second row was found."""
    surplus: int
    """Number of rows beyond one per item."""

    def repeats(self, path: Path) -> str:
        """Return a message on how many rows repeat an item."""
        return (
            f"rows of {path} that repeat an item: {self.surplus:,} (first: {first_of(self.repeated)}); "
            "for each item the first row with text is used"
        )


@dataclass(frozen=True)
class ItemFile:
    """A file of item metadata, and its text fields."""

    path: Path
    item_id: str
    """The column with the item names."""
    fields: tuple[str, ...]

    def check(self) -> None:
        """
        Raises:
            SourceError: the file can't be read, or lacks one of the columns.
        """
        need_columns(self.path, [self.item_id, *self.fields])

    def names(self, rejected: Rejected, progress: Progress | None = None) -> Names:
        """Return all items of the file; lines without an item go to `rejected`.

        Raises:
            SourceError: the file can't be read, or lacks one of the columns.
            RejectedLines: more lines than the limit allows can't be used.
        """
        self.check()
        known: set[str] = set()
        repeated: dict[str, None] = {}
        rows = 0
        for table, lines in read_table(self.path, [self.item_id], rejected, progress):
            names = table[self.item_id].to_list()
            for row in (row for row, name in enumerate(names) if not name):
                rejected.add(self.path, int(lines[row]), f"no {self.item_id}", "")
            named = list(filter(None, names))
            rows += len(named)
            unseen = set(named) - known
            if len(unseen) < len(named):
                counts = Counter(named)
                repeated.update(dict.fromkeys(name for name in counts if counts[name] > 1 or name in known))
            known |= unseen
        rejected.check()
        return Names(known, list(repeated), rows - len(known))

    def rows(
        self, wanted: Collection[str], progress: Progress | None = None, repeated: Collection[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Yield the metadata of the wanted items: item_id and the fields, each a text, a list, a mapping or None.

        For an item in `repeated` the first row with text is used; for any other item with several rows, the first row.
        A wanted item without a row gets None in every field.

        Raises:
            SourceError: the file can't be read, or a wanted row of JSON lines is nested too deeply.
        """
        missing, repeated = dict.fromkeys(wanted), set(repeated)
        textless: dict[str, dict[str, Any]] = {}
        for row in self._rows(missing.keys(), progress):
            name = row["item_id"]
            if name not in missing:
                continue  # an earlier row was used, or the item is not wanted
            if name in repeated and not any(flat(row[field]).strip() for field in self.fields):
                textless.setdefault(name, row)
                continue
            del missing[name]
            yield row
        for name in missing:
            yield textless.get(name) or {"item_id": name, **dict.fromkeys(self.fields)}

    def _rows(self, wanted: Set[str], progress: Progress | None) -> Iterator[dict[str, Any]]:
        """Yield the rows of items that are in `wanted` at that moment, in file order."""
        silent = Rejected(Path(os.devnull), limit=1.0)  # names() has already reported broken lines
        is_json = kind_of(self.path) in JSON_LINES
        columns = [self.item_id] if is_json else list(dict.fromkeys([self.item_id, *self.fields]))
        for table, lines in read_table(self.path, columns, silent, progress, whole=is_json):
            names = table[self.item_id].to_list()
            found = [row for row, name in enumerate(names) if name in wanted]
            table = table[found]
            # JSON lines are parsed exactly as written: a text that looks like a list stays a text.
            said: Iterable[dict[str, Any]] = (
                (self._json_row(line, lines[row]) for row, line in zip(found, table[LINE], strict=True))
                if is_json
                else table.iter_rows(named=True)
            )
            for row, values in zip(found, said, strict=True):
                yield {"item_id": names[row], **{field: _top(values.get(field)) for field in self.fields}}

    def _json_row(self, line: bytes, number: int) -> dict[str, Any]:
        """
        Raises:
            SourceError: a field occurs twice, or the line is nested too deeply.
        """
        where = f"{self.path}, line {number}"
        if any(line.count(json.dumps(field, ensure_ascii=False).encode()) > 1 for field in self.fields):
            if twice := [field for field in repeated_names(line) if field in self.fields]:
                raise SourceError(f"{where}: the field {twice[0]!r} occurs twice; rename one")
        return row_of(line, where)


def _top(value: Any) -> Any:
    """Return the value of a JSON field; numbers and booleans become text, as written."""
    return flat(value) if isinstance(value, (bool, WrittenNumber)) else value


def flat(value: Any) -> str:
    """Join a text, the texts of a list, or the "key: value" pairs of a mapping into one text."""
    if isinstance(value, list):
        return " ".join(map(flat, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {flat(one)}" for key, one in value.items() if one is not None)
    if isinstance(value, bool):
        return str(value).lower()  # as JSON writes it
    return "" if value is None else str(value)


def check_matches(log: Collection[str], names: Names, events: Path, items: Path) -> None:
    """
    Raises:
        SourceError: no item of the log is in the file of items.
    """
    if log and not names.known.intersection(log):
        ours, theirs = (", ".join(map(repr, sorted(some)[:3])) for some in (log, names.known))
        raise SourceError(
            f"none of the {counted(len(log), 'item')} of {events} is in {items}: the log has items such as {ours}, the "
            f"items file such as {theirs or 'none'}; both must write an item the same way"
        )


def check_texts(textless: int, count: int, items: ItemFile) -> None:
    """
    Raises:
        SourceError: none of the `count` items of the log has text.
    """
    if textless == count:
        raise SourceError(
            f"none of the {counted(count, 'item')} of the log has text in {', '.join(items.fields)} of {items.path}; "
            "name other fields, or prepare the log without items"
        )
