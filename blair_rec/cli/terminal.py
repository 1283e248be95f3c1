"""What the commands share: lines and tables on the terminal, the log, and live progress."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from blair_rec.compare import Listener
from blair_rec.plan import Run


def say(console: Console, text: str, style: str = "") -> None:
    """One line as it is: no markup, and no breaks that a log or a search would stumble over."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def show(table: Table) -> None:
    """A result, on standard output; wide enough for a leaderboard where no terminal says how wide it is."""
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100).print(table)


class _Lines(logging.Handler):
    """What the package logs, as lines that a progress bar makes room for."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        say(self.console, f"{record.levelname.lower()}: " * warns + record.getMessage(), "yellow" if warns else "")


def set_up_logging(console: Console) -> None:
    """What the package logs goes to this console, line by line."""
    log = logging.getLogger("blair_rec")
    log.handlers = [_Lines(console)]
    log.setLevel(logging.INFO)
    log.propagate = False
    # A table of weights that a checkpoint has or lacks; where it matters, the encoder raises an error itself.
    logging.getLogger("transformers.modeling_utils").addFilter(_is_no_load_report)
    # RecBole fills missing values in a way that pandas announces to change; the declared pandas still does it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")


def _is_no_load_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


class Live(Listener):
    """Progress on the terminal: encoding, then runs, each with its epoch, loss and best metric so far."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.runs: TaskID | None = None
        self.encodings: dict[str, TaskID] = {}
        self.best = float("-inf")

    def __enter__(self) -> Live:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def encoding(self, encoder: str, done: int, total: int) -> None:
        if encoder not in self.encodings:
            say(self.console, f"encoding {total} texts with {encoder}")
            self.encodings[encoder] = self.progress.add_task("encoding", total=total, note="")
        self.progress.update(self.encodings[encoder], completed=done, total=total, visible=done < total)

    def planned(self, runs: list[Run]) -> None:
        done = sum(run.done for run in runs)
        if done:
            say(self.console, f"{done} of {len(runs)} runs are done already")
        self.runs = self.progress.add_task("runs", total=len(runs), completed=done, note="")

    def started(self, run: Run) -> None:
        self.best = float("-inf")
        self._note(f"{run.folder.name}")

    def epoch(self, run: Run, epoch: Any) -> None:
        if epoch.valid:
            self.best = max(self.best, next(iter(epoch.valid.values())))
        self._note(f"{run.folder.name}: epoch {epoch.epoch}, loss {epoch.loss:.3f}, best {self.best:.4f}")

    def finished(self, run: Run, value: float, seconds: float) -> None:
        say(self.console, f"{run.folder.name}: {value:.4f} on validation, {seconds:.0f} s")
        if self.runs is not None:
            self.progress.advance(self.runs)

    def _note(self, text: str) -> None:
        if self.runs is not None:
            self.progress.update(self.runs, note=text)
