"""Read RecBole's atomic files (.inter, .item, ...) and check the content of each line.

A line ends only at a line feed, so no cell spans lines. A quotation mark is an ordinary character, with one exception:
pandas quotes a cell if it is empty or contains a quotation mark (which is doubled), the separator or a carriage return.
Such a cell is unquoted if it closes within its line: `"7"" tablet"` is `7" tablet`. No word means a missing value: `NA`
is a name.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, AnyStr, NamedTuple

from blair_rec.errors import AtomicFileError, encoding_hint

KINDS = ("token", "float", "token_seq", "float_seq")
NUMBER = re.compile(r"[ \t\r\v\f]*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[ \t\r\v\f]*", re.ASCII)
DATE = re.compile(r"\s*\d+[-/.]\d+[-/.]\d+", re.ASCII)
BLOCK_BYTES = 1 << 26
BLANK = codecs.BOM_UTF8 + b" \t\r\n\v\f"
"""Characters of a blank line, which may come before the header."""
SHOWN = 60
"""How many characters of a cell a message shows."""


class Column(NamedTuple):
    """A column as named in the first line of a file."""

    name: str
    kind: str
    """token, float, token_seq or float_seq."""
    place: int
    """Position in each line, from 0."""
    needed: bool = False
    """Whether a token or list must not be empty. A number must never be empty."""

    @property
    def title(self) -> str:
        """The column's name and kind as in the first line, such as item_id:token."""
        return f"{self.name}:{self.kind}"


class AtomicLine(NamedTuple):
    """One line after the header that is not blank."""

    number: int
    """Line number in the file, from 1."""
    text: str
    """The line without its line end."""
    cells: list[str]
    """Cells without pandas' quotation marks; a broken line has more or fewer cells than columns."""


class Block(NamedTuple):
    """A block of whole lines."""

    number: int
    """Line number of the first line, from 1."""
    content: bytes
    """UTF-8 text; each line ends with a line feed."""

    def halves(self) -> tuple[Block, Block]:
        """Return the lines before and after the middle; the second half is empty if the middle is in the last line."""
        cut = self.content.find(b"\n", len(self.content) // 2) + 1
        first, second = self.content[:cut], self.content[cut:]
        return Block(self.number, first), Block(self.number + first.count(b"\n"), second)


@dataclass(frozen=True)
class AtomicFile:
    """An existing atomic file. Every method raises AtomicFileError, with the line, for bytes that are not text."""

    path: Path
    separator: str = "\t"
    encoding: str = "utf-8"
    """Python's name of the encoding. A byte order mark is not part of the text."""

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns that the first line names.

        Raises:
            AtomicFileError: an empty file, a column without a kind, or two columns with the same name.
        """
        first = next(self._blocks(), None)
        if first is None:
            raise AtomicFileError(
                f"{self.path} is empty and has no item or event; the first line must name the columns"
            )
        found: list[Column] = []
        for place, title in enumerate(first.content.decode().rstrip("\r\n").split(self.separator)):
            name, _, kind = title.partition(":")
            if not name or kind not in KINDS:
                raise AtomicFileError(f"{self.path}, line {first.number}: {self._why_no_column(title)}")
            if name in (column.name for column in found):
                raise AtomicFileError(f"{self.path}, line {first.number}: two columns are called {name!r}; rename one")
            found.append(Column(name, kind, place))
        return tuple(found)

    def _why_no_column(self, title: str) -> str:
        """Return what is wrong with a part of the first line that is not a column title, and what to do."""
        if "\r" in title:
            return "the lines end in a carriage return alone; save the file with line feeds (\\n) at their ends"
        if not title:
            return f"a column has no name; remove the separator {self.separator!r} at the end of all lines"
        if other := re.search(rf":(?:{'|'.join(KINDS)})([,;| \t])\w+:", title):
            return (
                f"columns are separated by {other[1]!r}, but {self.separator!r} is expected; set `field_separator` to "
                f"{other[1]!r} (under `recbole` in a comparison file), or save the file with {self.separator!r}"
            )
        name = title.partition(":")[0][:SHOWN] or "item_id"
        quoted = "; write the file without quotation marks around names" if title.startswith('"') else ""
        return (
            f"the column {title[:SHOWN]!r} is not in RecBole's format; write the kind after it, as in {name}:token "
            f"(known: {', '.join(KINDS)}){quoted}"
        )

    def blocks(self) -> Iterator[Block]:
        """Yield the lines after the header, about BLOCK_BYTES at a time."""
        blocks = self._blocks()
        next(blocks, None)
        return blocks

    def lines(self, block: Block | None = None) -> Iterator[AtomicLine]:
        """Yield every line of a block, or of the whole file, that is not blank."""
        for part in self.blocks() if block is None else (block,):
            for number, text in enumerate(part.content.decode().split("\n"), start=part.number):
                if text := text.rstrip("\r"):
                    yield AtomicLine(number, text, self._cells(text))

    def is_regular(self, block: Block) -> bool:
        """Return whether each line has one cell per column, and the block no blank line, NUL or carriage return.

        Such a block can be split without checking quotation marks: the number of cells is right, so none was split.
        """
        separator, content = self.separator.encode(), block.content
        if len(separator) != 1 or b"\0" in content or b"\r" in content:
            return False
        kept = content.translate(None, delete=bytes(set(range(256)) - {*separator, *b"\n"}))
        width = len(self.columns)
        if kept != (separator * (width - 1) + b"\n") * (len(kept) // width):
            return False
        return width > 1 or not (content.startswith(b"\n") or b"\n\n" in content)

    def misfit(self, line: AtomicLine) -> str:
        """Return why the number of cells in a line is wrong; "" if it is right."""
        if len(line.cells) == len(self.columns):
            return ""
        return (
            f"{len(line.cells)} column{'s' * (len(line.cells) != 1)}, but the first line has {len(self.columns)}; "
            "look for a separator or a line break inside a text"
        )

    def _cells(self, text: str) -> list[str]:
        cells = text.split(self.separator)
        if '"' not in text:
            return cells
        if len(cells) > len(self.columns):  # only then a separator can be part of a quoted cell
            joined = self._joined(text)
            cells = joined if len(joined) == len(self.columns) else cells
        return [unquoted(cell, self.separator) for cell in cells]

    def _joined(self, text: str) -> list[str]:
        """Split a line into cells, where a quoted and closed cell may contain the separator."""
        separator = re.escape(self.separator)
        closed = re.compile(rf'"[^"]*(?:""[^"]*)*"(?={separator}|\Z)')
        cells: list[str] = []
        at = 0
        while True:
            found = closed.match(text, at)
            end = found.end() if found else text.find(self.separator, at)
            if end in (-1, len(text)):
                return [*cells, text[at:]]
            cells.append(text[at:end])
            at = end + len(self.separator)

    def _blocks(self) -> Iterator[Block]:
        """Yield the first line that is not blank, then the rest; every line ends with a line feed."""
        number, offset, named = 1, 0, False
        try:
            for content in self._contents():
                self._check_text(content, number, offset)
                named = named or bool(content.strip(BLANK))
                if named:
                    text = content.removeprefix(codecs.BOM_UTF8) if offset == 0 else content
                    text = text.replace(b"\r\n", b"\n") if b"\r" in text else text
                    yield Block(number, text if text.endswith(b"\n") else text + b"\n")
                number += content.count(b"\n")
                offset += len(content)
        except LookupError:
            raise AtomicFileError(
                f"{self.path}: Python has no encoding {self.encoding!r}; set `encoding` to a known one, such as utf-8"
            ) from None
        except UnicodeError as error:
            raise AtomicFileError(
                f"{self.path}, after line {number - 1}: the text is not {self.encoding} ({error}); "
                "set `encoding` to the right one, or save the file as UTF-8 and leave it out"
            ) from None

    def _contents(self) -> Iterator[bytes]:
        """Yield the whole file in UTF-8, in the parts of `_parts`."""
        if codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig"):
            with self.path.open("rb") as file:
                yield from _parts(file, BLANK)
        else:
            with self.path.open(encoding=self.encoding, newline="\n") as text:
                yield from (part.encode() for part in _parts(text, BLANK.decode()))

    def _check_text(self, content: bytes, number: int, offset: int) -> None:
        """
        Raises:
            AtomicFileError: the text is not UTF-8.
        """
        if content.isascii():
            return
        if offset == 0 and content.startswith(b"\x1f\x8b"):
            raise AtomicFileError(
                f"{self.path} is compressed with gzip, but atomic files must be plain text; unpack it"
            )
        try:
            content.decode()
        except UnicodeDecodeError as error:
            line = number + content.count(b"\n", 0, error.start)
            raise AtomicFileError(
                f"{self.path}, line {line}: byte {offset + error.start} ({content[error.start]:#04x}) is not UTF-8; "
                f"{encoding_hint(content if offset == 0 else b'')}"
            ) from None


def unquoted(cell: str, separator: str = "\t") -> str:
    """Return a cell without the quotation marks that pandas put around it; any other cell unchanged."""
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"':
        return cell
    inside = cell[1:-1]
    if '"' in inside.replace('""', ""):
        return cell
    needed = not inside or any(sign in inside for sign in ('"', "\r", separator))
    return inside.replace('""', '"') if needed else cell


def quoted(cell: str, separator: str = "\t") -> str:
    """Return a cell as it must be written: in quotation marks if `unquoted` would change it."""
    return cell if unquoted(cell, separator) == cell else '"' + cell.replace('"', '""') + '"'


def problem(column: Column, cell: str, within: str = " ") -> str:
    """Return why a cell can't be used; "" if it can.

    Ids (`needed` tokens) must not be blank, a needed list must not be empty, a number must be present and finite, and
    no text may contain NUL. `within` separates the elements of a list.
    """
    shown = repr(cell[:SHOWN])
    if "\0" in cell:
        return f"{column.name} {shown} holds a NUL character"
    if column.kind == "float" and not cell:
        return f"{column.name} is empty"
    if column.needed and not (any(cell.split(within)) if column.kind == "token_seq" else cell.strip()):
        return f"{column.name} is empty"
    numbers = {"float": [cell], "float_seq": cell.split(within)}.get(column.kind, [])
    for number in numbers:
        if (number or column.kind == "float") and not is_number(number):
            is_date = "; write dates as numbers, such as seconds since 1970" * bool(DATE.match(number))
            each = " in each element" * (column.kind == "float_seq")
            return f"{column.name} {shown} is not a finite number{each}{is_date}"
    return ""


def is_number(text: str) -> bool:
    """Return whether a text is a finite number written in digits: `1e5`, but not `nan`, `inf`, `true` or `1_0`."""
    return NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def _parts(file: IO[AnyStr], blank: AnyStr) -> Iterator[AnyStr]:
    """Yield leading blank lines and the first other line one by one, then whole lines, about BLOCK_BYTES at a time."""
    part = file.readline()
    while part and not part.strip(blank):
        yield part
        part = file.readline()
    while part:
        yield part
        part = file.read(BLOCK_BYTES) + file.readline()
