"""What the commands share: lines and tables on the terminal, the log, and live progress."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
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


def processes() -> int:
    """How many of us `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(console: Console, text: str, style: str = "") -> None:
    """One line as it is: no markup, and no breaks that a log or a search would stumble over."""
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def show(result: Table | str) -> None:
    """A result, on standard output; a table is wide enough for a leaderboard where no terminal says how wide it is."""
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100)
    if isinstance(result, str):
        say(console, result)
    else:
        console.print(result)


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


def _is_no_load_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


class Live(Listener):
    """Progress on the terminal: encoding, then all runs, and the one at work with its epoch, loss and best metric.

    Without a terminal a line per finished run is all; with `quiet` there is none. Where `events` names a folder,
    learning curves are written into it for TensorBoard, run by run, as they come.
    """

    def __init__(self, console: Console, quiet: bool = False, events: Path | None = None) -> None:
        self.console, self.quiet, self.events = console, quiet, events
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self.encodings: dict[str, TaskID] = {}
        self.runs = self.run = TaskID(-1)
        self.done, self.epoch_done, self.epochs = 0, 0, 1
        self.best = float("-inf")
        self.writer: Any = None

    def __enter__(self) -> Live:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def encoding(self, encoder: str, done: int, total: int) -> None:
        if encoder not in self.encodings:
            self._say(f"encoding {total} texts with {encoder}")
            self.encodings[encoder] = self.progress.add_task("encoding", total=total, note="")
        task = self.encodings[encoder]
        self.progress.update(task, completed=done, total=total, visible=done < total)
        if speed := self.progress.tasks[self.progress.task_ids.index(task)].speed:
            self.progress.update(task, note=f"{speed:,.0f} items/s")

    def planned(self, runs: list[Run]) -> None:
        self.done = sum(run.done for run in runs)
        if self.done:
            self._say(f"{self.done} of {len(runs)} runs are done already")
        self.runs = self.progress.add_task("runs", total=len(runs), completed=self.done, note="")

    def started(self, run: Run) -> None:
        self.best, self.epoch_done, self.epochs = float("-inf"), 0, (run.setup.get("train") or {}).get("epochs", 1)
        self.run = self.progress.add_task(run.folder.name, total=self.epochs, note="")
        if self.events is not None:
            self.writer = _event_writer(self.events / run.folder.name)

    def step(self, run: Run, done: int, total: int, loss: float) -> None:
        self._move(self.epoch_done + min(1.0, done / total), loss)

    def epoch(self, run: Run, epoch: Any) -> None:
        if epoch.valid:
            self.best = max(self.best, next(iter(epoch.valid.values())))
        self.epoch_done = epoch.epoch
        self._move(epoch.epoch, epoch.loss)
        if self.writer is not None:
            for name, value in {"loss": epoch.loss, **(epoch.valid or {})}.items():
                self.writer.add_scalar(name, value, epoch.epoch)

    def _move(self, epochs: float, loss: float) -> None:
        best = f", best {self.best:.4f}" if self.epoch_done else ""
        self.progress.update(self.run, completed=epochs, note=f"loss {loss:.3f}{best}")
        # Parts of a run count, so that the time left is known before the first one is over.
        self.progress.update(self.runs, completed=self.done + epochs / self.epochs)

    def finished(self, run: Run, value: float, seconds: float) -> None:
        self._say(f"{run.folder.name}: {value:.4f} on validation, {seconds:.0f} s")
        self.done += 1
        self.progress.update(self.runs, completed=self.done)
        self.progress.remove_task(self.run)
        if self.writer is not None:
            self.writer.close()

    def _say(self, text: str) -> None:
        if not self.quiet:
            say(self.console, text)


def _event_writer(folder: Path) -> Any:
    """Writes scalars into a folder of event files, empty at first."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder))
