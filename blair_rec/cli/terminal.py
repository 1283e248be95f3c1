"""Lines and tables on the terminal: the one way to it, so that no text can bring control codes or markup along."""

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
"""Control characters but tab and line feed, those that turn the direction of text, and halves of surrogate pairs."""


def clean(text: str) -> str:
    """The text without characters that a terminal obeys instead of showing them."""
    return _UNSAFE.sub(lambda found: "\ufffd" if "\ud800" <= found[0] <= "\udfff" else "", text)


class Console(rich.console.Console):
    """A console that shows all text as it is: brackets are no markup, and control characters are left out.

    That happens where text becomes what is written, so it holds for lines, tables and progress bars, however they are
    made. Rich's own codes, for colours and bars, come later and are not concerned.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **settings})

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of something to show, their text cleaned."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Leave it to main(), which knows the exit status."""
        raise


def processes() -> int:
    """How many of us `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(console: Console, text: str, style: str = "") -> None:
    """One line, without breaks that a log or a search would stumble over."""
    console.print(text, style=style, soft_wrap=True)


def show(result: Table | str) -> None:
    """A result, on standard output; a table is wide enough for a leaderboard where no terminal says how wide it is."""
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100)
    if isinstance(result, str):
        say(console, result)
        return
    for column in result.columns:
        column._cells = [_one_line(cell) for cell in column.cells]
    console.print(result)


def show_json(text: str) -> None:
    """JSON on standard output: what a terminal would obey is escaped, and means the same to whoever parses it."""
    say(Console(), _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _one_line(cell: Any) -> Any:
    """A table's cell whose text can't pose as further rows."""
    if isinstance(cell, str):
        return " ".join(cell.split("\n"))
    if isinstance(cell, Text) and "\n" in cell.plain:
        return Text(" ".join(cell.plain.split("\n")), style=cell.style)
    return cell


class _Lines(logging.Handler):
    """What the package logs, as lines that a progress bar makes room for."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        say(self.console, f"{record.levelname.lower()}: " * warns + record.getMessage(), "yellow" if warns else "")


def set_up_logging(console: Console, quiet: bool = False) -> None:
    """What the package logs goes to this console, line by line; with `quiet` the warnings alone."""
    log = logging.getLogger("blair_rec")
    log.handlers = [_Lines(console)]
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
    # A table of weights that a checkpoint has or lacks; where it matters, the encoder raises an error itself.
    logging.getLogger("transformers.modeling_utils").addFilter(_is_no_load_report)


def _is_no_load_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()
