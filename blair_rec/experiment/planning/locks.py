"""One process per run: the one that trains a run holds its lock, and keeps its checkpoint next to the unfinished run.

A run `runs/id-1` is made in `runs/.id-1.training`. That folder holds the lock and the checkpoint. The system
frees the lock when the process ends. The process that takes the run next resumes from the checkpoint. The folder also
has an empty file for an old run that `--fresh` replaces, so that a plain `compare` resumes an interrupted `--fresh`.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from blair_rec.config.comparison import CompareConfig, written
from blair_rec.errors import BadRun, FolderBusy
from blair_rec.evaluate.runs.recorded import hash_of
from blair_rec.evaluate.runs.results import load_run
from blair_rec.evaluate.runs.run_files import CONFIG_FILE, RESULT_FILE
from blair_rec.experiment.listener import Listener
from blair_rec.experiment.planning.plan import Run, made_of, with_members
from blair_rec.experiment.planning.still_valid import changes, refuse_changed
from blair_rec.files.contents import sha256_of
from blair_rec.files.locks import alone_in
from blair_rec.files.writing import discard, left_behind, tidy, write_text

logger = logging.getLogger("blair_rec")

T = TypeVar("T")

WORK, LOCK, REPLACED = ".training", ".lock", ".replaced"
PATIENCE = 600.0
"""Seconds to wait for the folder's own lock. Planning and rendering take less time than that."""
POLL = 1.0
"""Seconds between two looks at runs or stores that other processes are making."""


@contextmanager
def alone_soon(folder: Path) -> Iterator[None]:
    """Lock the folder's own files, after waiting for other processes that write them.

    Raises:
        FolderBusy: another process kept it for longer than `PATIENCE`; OutputError: the folder can't be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(alone_in(folder))
        except FolderBusy:
            logger.info("another process plans, or writes the leaderboard, in %s; waiting for it", folder)
            stack.enter_context(alone_in(folder, wait=PATIENCE))
        yield


@contextmanager
def alone_with(folder: Path) -> Iterator[Path]:
    """Lock the run in `folder`, remove half-written files of killed processes, and give its work folder.

    The work folder is removed at the end unless it holds a checkpoint, or says that the finished run is replaced.

    Raises:
        FolderBusy: another process has this run.
    """
    work = _work(folder)
    with alone_in(work, f"another process is training {folder}; wait until it has finished"):
        for name in (folder.name, work.name):
            tidy(folder.parent, name)
        tidy(work)
        try:
            yield work
        finally:
            if all(path.name == LOCK for path in work.iterdir()):
                discard(work)


def _work(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{WORK}")


def checkpoint_in(work: Path, run: Run) -> Path:
    """The checkpoint of a run in training. Each config, data set, store and version gives it another name."""
    return work / f"{hash_of(dict(run.hashes))[:16]}.safetensors"


def forget_checkpoints(work: Path) -> None:
    """Remove the checkpoints of a run that is finished, or that begins again."""
    for path in work.glob("*.safetensors"):
        path.unlink(missing_ok=True)


def _forget(work: Path) -> None:
    """Remove what a finished run leaves in its work folder."""
    forget_checkpoints(work)
    for path in work.glob(f"*{REPLACED}"):
        path.unlink(missing_ok=True)


def _replaced(run: Run) -> Path:
    """The file that says that this finished run is replaced by one with the planned settings."""
    return _work(run.folder) / f"{hash_of([run.hashes['config'], sha256_of(run.folder / RESULT_FILE)])[:16]}{REPLACED}"


def note_replaced(runs: Sequence[Run]) -> None:
    """Note for each of these runs that is finished that it is replaced, until its successor is complete."""
    for run in runs:
        if (run.folder / RESULT_FILE).is_file():
            with suppress(FolderBusy), alone_with(run.folder):  # another process makes it already
                _replaced(run).touch()


def without_replaced(runs: Sequence[Run]) -> list[Run]:
    """Return the runs. Those that an interrupted `--fresh` has yet to replace count as not done.

    So do the averages and students that are made of them. `runs` are in the order of the plan.
    """
    found, again = list[Run](), set[Path]()
    for run in runs:
        is_old = run.done and (run.folder / RESULT_FILE).is_file() and _replaced(run).is_file() and not holds(run)
        if is_old or again & set(made_of(run.folder, run.setup)):
            run = dataclasses.replace(run, done=False)
            again.add(run.folder)
        found.append(run)
    return found


def clear_up(runs: Path) -> None:
    """Remove half-written files of killed processes in `runs`, except from runs that other processes train."""
    for name in left_behind(runs) | {path.name.removesuffix(WORK) for path in runs.glob(f".*{WORK}")}:
        try:
            with alone_with(runs / name.removeprefix(".").removesuffix(WORK)):
                pass
        except FolderBusy:
            continue


def clear_finished(runs: Sequence[Run]) -> None:
    """Remove the checkpoints of finished runs whose processes were killed before they did so."""
    for run in runs:
        if run.done and _work(run.folder).exists():
            try:
                with alone_with(run.folder) as work:
                    _forget(work)
            except FolderBusy:  # another process trains it again
                continue


def holds(run: Run) -> bool:
    """Whether a run is finished, undamaged, and still valid: its settings, data and members are the current ones."""
    try:
        return run.done and not changes(run) and load_run(run.folder).hashes.get("members") == run.hashes.get("members")
    except BadRun:
        return False


class Made:
    """The pending runs that have been made since the start, by this process or another one.

    Runs in the folders `renewed` are made in any case. Other averages and students are kept if their members or their
    teacher were made again with the same result.
    """

    def __init__(self, pending: Sequence[Run], planned: Sequence[Run], renewed: Collection[Path] = ()) -> None:
        self.renewed = set(renewed)
        self.derived = {run.folder for run in planned if made_of(run.folder, run.setup)}
        # Another process may have made one just after it was planned.
        new = {run.folder for run in planned if not run.done and not made_of(run.folder, run.setup)}
        results = {run.folder: _result(run.folder) for run in pending}  # all are read, to find damage before training
        self.before = {folder: None if folder in new else result for folder, result in results.items()}

    def is_made(self, folder: Path) -> bool:
        """Whether the run in `folder` was finished at first, or has been made since."""
        return folder not in self.before or _result(folder) != self.before[folder]

    def keeps(self, run: Run) -> bool:
        """Whether a finished average or student is still the one that would be made; then it counts as made.

        The hash of its members doesn't cover what these are made of. So a student is made again with its average.
        """
        again = any(folder in self.before and folder in self.derived for folder in made_of(run.folder, run.setup))
        kept = not again and run.hashes.get("members") is not None and run.folder not in self.renewed and holds(run)
        if kept:
            self.before.pop(run.folder, None)
        return kept

    def lacking(self, run: Run) -> list[str]:
        """The names of the runs that a run waits for: the members of an average, the teacher of a student."""
        return [folder.name for folder in made_of(run.folder, run.setup) if not self.is_made(folder)]


def _result(folder: Path) -> bytes | None:
    """The result.json of a finished run, which differs each time a run is made; None if there is none.

    Raises:
        BadRun: it can't be read, or the run is not a folder.
    """
    try:
        return (folder / RESULT_FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadRun(folder, RESULT_FILE, f"can't be read: {error.strerror}") from None


def make_once(run: Run, made: Made, out: Path, train: Callable[[Run, Path], None], listener: Listener) -> bool:
    """Make a run with `train`, unless it lacks members or another process has it; return whether it is made now.

    Raises:
        ChangedRuns: another process has made it meanwhile, with other settings, data or code.
    """
    if made.lacking(run):
        return False
    try:
        with alone_with(run.folder) as work:
            run = with_members(run)  # they are finished by now
            done = dataclasses.replace(run, done=True)
            is_made = made.is_made(run.folder) and (run.hashes.get("members") is None or holds(done))
            if is_made or made.keeps(done):
                refuse_changed([done], out)
                listener.skipped(run)
            else:
                train(run, work)
            _forget(work)
    except FolderBusy:
        return False
    return True


def work_off(runs: Sequence[Run], make: Callable[[Run], bool], wait: bool) -> list[Run]:
    """Call `make` with each run, in order, until each is made; `make` returns whether the run is made now.

    With `wait`, runs that other processes are training are waited for. Without it they get one more look, as another
    process may have taken a run only to clear up. Returns the runs that are left.
    """
    left, looks = list(runs), 0
    while left:
        before, left = left, [run for run in left if not make(run)]
        if len(left) < len(before):
            continue
        looks += 1
        if not wait and looks > 1:
            break
        if wait and looks == 1:
            logger.info("waiting for other processes: %s", ", ".join(run.name for run in left))
        time.sleep(POLL)
    return left


def once_free(make: Callable[[], T], what: str) -> T:
    """Return what `make` returns, as soon as no other process is making it."""
    reported = False
    while True:
        try:
            return make()
        except FolderBusy:
            if not reported:
                logger.info("another process is making %s: waiting until it has finished", what)
                reported = True
            time.sleep(POLL)


def config_text(out: Path) -> str | None:
    """Read the config of a comparison's folder; None if there is none."""
    path = out / CONFIG_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else None


def write_config(config: CompareConfig, out: Path, before: str | None) -> None:
    """Write the config of a comparison's folder; `before` is what it was when the runs were planned.

    Raises:
        FolderBusy: another process has written another config meanwhile.
    """
    text, now = written(config), config_text(out)
    if now not in (before, text):
        raise FolderBusy(f"another process has just changed {out / CONFIG_FILE}; start again, with the same config")
    if now != text:
        write_text(out / CONFIG_FILE, text)
