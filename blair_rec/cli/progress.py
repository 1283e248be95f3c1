"""Progress: bars on a terminal, else a line from time to time, and nothing with --quiet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from blair_rec.cli.terminal import Console, say
from blair_rec.errors import counted
from blair_rec.experiment.listener import Job, Listener

HALF_A_MINUTE = 30.0
"""The least number of seconds between two lines."""


def add_quiet(command: Any, help: str = "show no progress, only results and warnings") -> None:
    """Add the option --quiet to a command."""
    command.add_argument("--quiet", action="store_true", help=help)


class Pace:
    """Reports the progress and the estimated time left, at most every half minute."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.say, self.clock = say, clock
        self.begun: tuple[float, float] | None = None
        self.last = 0.0

    def begin(self, done: float = 0) -> None:
        """Start the clock here. Work that was `done` before doesn't count for the speed."""
        self.last = self.clock()
        self.begun = self.last, done

    def tell(self, line: str, done: float, total: float) -> None:
        """Report `done` of `total`, in any unit. The first call starts the clock if `begin` wasn't called."""
        if self.begun is None:
            self.begin(done)
            return
        now, (begin, before) = self.clock(), self.begun
        if now - self.last >= HALF_A_MINUTE and before < done < total:
            self.last = now
            self.say(f"{line}, about {duration((now - begin) / (done - before) * (total - done))} left")


def duration(seconds: float) -> str:
    """Seconds in words: '40 s', '12 min', '3 h 20 min' or '4 days'."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days"


class Counters:
    """Progress of several jobs: a bar for each on a terminal, else a line every half minute; nothing if `quiet`."""

    def __init__(
        self,
        console: Console,
        quiet: bool = False,
        *,
        columns: Sequence[ProgressColumn] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.clock = console, clock
        self.lines = not (quiet or console.is_terminal)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *(columns or (MofNCompleteColumn(), TimeElapsedColumn())),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal or quiet,
        )
        self.tasks: dict[str, TaskID] = {}
        self.paces: dict[str, Pace] = {}

    def __enter__(self) -> Counters:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def pace(self) -> Pace:
        """A Pace that prints the lines of one job."""
        return Pace(lambda line: say(self.console, line), self.clock)

    def update(self, what: str, done: int, total: int, line: str = "", note: str = "") -> None:
        """Set the progress of job `what`. `line` is printed where there is no bar; `note` appears behind the bar."""
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what, total=total, note=note)
            self.paces[what] = self.pace()
        self.bars.update(self.tasks[what], completed=done, total=total, note=note, visible=done < total)
        if self.lines:
            self.paces[what].tell(line or f"{what}: {done:,} of {total:,}", done, total)

    def speed(self, what: str) -> float | None:
        """The speed of a job, in steps per second; None as long as it is unknown."""
        task = self.tasks.get(what)
        return None if task is None else self.bars.tasks[self.bars.task_ids.index(task)].speed


class Live(Listener):
    """Progress of a comparison or a tuning: encoding, all runs, and the current run's epoch, loss and best metric.

    Without a terminal, there is a line per epoch, at most every half minute, and a line per finished run. With `quiet`
    there are none. If `events` is a folder, learning curves are written into it during training, for TensorBoard.
    """

    def __init__(
        self,
        console: Console,
        quiet: bool = False,
        events: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.quiet, self.events = console, quiet, events
        self.counters = Counters(console, quiet, clock=clock)
        self.progress, self.pace = self.counters.bars, self.counters.pace()
        self.runs = self.run = TaskID(-1)
        self.done, self.planned_runs, self.epoch_done = 0, 0, 0
        self.epochs_trained, self.epochs_left = 0, 0
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
        what = f"encoding with {encoder}"
        if what not in self.counters.tasks:
            self._say(f"encoding {counted(total, 'text')} with {encoder}")
        speed = self.counters.speed(what)
        note = f"{speed:,.0f} items/s" if speed else ""
        self.counters.update(what, done, total, f"{what}: {done:,} of {counted(total, 'text')}", note)

    def planned(self, jobs: Sequence[Job]) -> None:
        self.done, self.planned_runs = sum(job.done for job in jobs), len(jobs)
        self.epochs_left = sum(job.epochs - job.trained for job in jobs if not job.done)
        if self.done:
            self._say(f"already finished: {self.done} of {counted(len(jobs), 'run')}")
        self.runs = self.progress.add_task("runs", total=len(jobs), completed=self.done, note="")
        self.pace.begin()

    def started(self, job: Job) -> None:
        self.best, self.epoch_done = float("-inf"), job.trained
        self.epochs_left -= job.epochs - job.trained
        self.run = self.progress.add_task(job.name, total=max(job.epochs, 1), completed=job.trained, note="")
        if self.events is not None:
            self.writer = _event_writer(self.events / job.name)

    def step(self, job: Job, done: int, total: int, loss: float) -> None:
        self._move(job, self.epoch_done + min(1.0, done / total), f"loss {loss:.3f}{self._best()}")

    def epoch(self, job: Job, epoch: Any) -> None:
        if epoch.valid:
            self.best = max(self.best, next(iter(epoch.valid.values())))
        self.epoch_done = epoch.epoch
        self.epochs_trained += 1
        note = f"loss {epoch.loss:.3f}{self._best()}"
        self._move(job, epoch.epoch, note)
        if self.counters.lines:
            where = f"{job.name}, run {self.done + 1} of {self.planned_runs}, epoch {epoch.epoch} of {job.epochs}"
            left = self.epochs_left + max(job.epochs - epoch.epoch, 0)
            self.pace.tell(f"{where}: {note}", self.epochs_trained, self.epochs_trained + left)
        if self.writer is not None:
            for name, value in {"loss": epoch.loss, **(epoch.valid or {})}.items():
                self.writer.add_scalar(name, value, epoch.epoch)

    def _best(self) -> str:
        return f", best {self.best:.4f}" if math.isfinite(self.best) else ""

    def _move(self, job: Job, epochs: float, note: str) -> None:
        self.progress.update(self.run, completed=epochs, note=note)
        # Count parts of runs, so that the time left is known before the first run has finished.
        part = (epochs - job.trained) / max(job.epochs - job.trained, 1)
        self.progress.update(self.runs, completed=self.done + part)

    def finished(self, job: Job, value: float, seconds: float, settings: str = "") -> None:
        tried = f" ({settings})" if settings else ""
        measured = "ranked" if math.isnan(value) else f"{value:.4f} on validation"
        self._say(f"{job.name}: {measured}, {seconds:.0f} s{tried}")
        self._one_more()
        self.progress.remove_task(self.run)
        if self.writer is not None:
            self.writer.close()

    def skipped(self, job: Job) -> None:
        self.epochs_left -= job.epochs - job.trained
        self._one_more()

    def _one_more(self) -> None:
        self.done += 1
        self.progress.update(self.runs, completed=self.done)

    def _say(self, text: str) -> None:
        if not self.quiet:
            say(self.console, text)


def _event_writer(folder: Path) -> Any:
    """Return a writer of TensorBoard scalars; the curves of an earlier training of the run are deleted."""
    from torch.utils.tensorboard import SummaryWriter

    for path in folder.glob("events.out.tfevents.*"):
        path.unlink(missing_ok=True)
    return SummaryWriter(str(folder))
