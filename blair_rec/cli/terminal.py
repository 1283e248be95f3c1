"""Print lines and tables. All output passes through here, so that no text can contain control codes or markup."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and line feed, characters that change the text direction, and lone surrogates."""


def clean(text: str) -> str:
    """The text without characters that a terminal would execute instead of show."""
    return _UNSAFE.sub(lambda found: "\ufffd" if "\ud800" <= found[0] <= "\udfff" else "", text)


class Console(rich.console.Console):
    """A console that shows text literally: brackets are not markup, and control characters are removed.

    Text is cleaned at the last step before output, so this covers lines, tables and progress bars. Rich adds its own
    codes, for colours and bars, after that step.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return the segments to print, with cleaned text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Leave it to main(), which sets the exit status."""
        raise


def say(console: Console, text: str, style: str = "") -> None:
    """Print one line without wrapping it, so that it can be found in a log."""
    console.print(text, style=style, soft_wrap=True)


def width_of_results() -> int:
    """The width of lines on standard output; without a terminal 100."""
    return Console().width if sys.stdout.isatty() or "COLUMNS" in os.environ else 100


def show(result: Table | str) -> None:
    """Print a result on standard output."""
    console = Console(width=width_of_results())
    if isinstance(result, str):
        say(console, result)
        return
    for column in result.columns:
        column._cells = [_one_line(cell) for cell in column.cells]
    caption, result.caption = result.caption, None
    console.print(result)
    if caption:
        console.print(_as_list(str(caption)), style="table.caption")


def _as_list(text: str) -> Table:
    """Lines such as `- a fact`; a fact that takes several lines stays to the right of its dash."""
    listed = Table.grid(padding=(0, 1, 0, 0))
    for line in text.splitlines():
        dash, _, fact = line.partition(" ") if line.startswith("- ") else ("", "", line)
        listed.add_row(dash, Text(_one_line(fact)))
    return listed


def show_json(text: str) -> None:
    """Print JSON on standard output, with control characters escaped; a parser reads the same values."""
    say(Console(), _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _one_line(cell: Any) -> Any:
    """A table's cell without line breaks, so that its text can't look like more rows."""
    if isinstance(cell, str):
        return " ".join(cell.split("\n"))
    if isinstance(cell, Text) and "\n" in cell.plain:
        return Text(" ".join(cell.plain.split("\n")), style=cell.style)
    return cell


class _Lines(logging.Handler):
    """Prints the package's log lines above the progress bars."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        say(self.console, f"{record.levelname.lower()}: " * warns + record.getMessage(), "yellow" if warns else "")


def set_up_logging(console: Console, quiet: bool = False) -> None:
    """Print the package's log on this console; with `quiet`, only warnings."""
    log = logging.getLogger("blair_rec")
    log.handlers = [_Lines(console)]
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
