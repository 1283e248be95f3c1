"""Lock a folder for one process, and write a file or folder that no other process writes at the same time."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from blair_rec.errors import FolderBusy, OutputError
from blair_rec.files.places import ANOTHER, probe_in, real_place
from blair_rec.files.writing import FULL, discard, partial_of, put_in_place, tidy


@contextlib.contextmanager
def alone_in(
    folder: Path, busy: str | None = None, wait: float = 0.0, cure: str = ANOTHER, named: Path | None = None
) -> Iterator[None]:
    """Create `folder` and lock it for this process. The system unlocks it when the process ends, even if it is killed.

    On a file system without locks, two processes are not kept apart. `busy` is the error message for the others.
    `wait` is how many seconds to wait for another process to leave the folder. `cure` says what else to do.
    `named` is the file or folder that errors name, if it is not `folder`.

    Raises:
        OutputError: the folder can't be written.
        FolderBusy: another process is using it.
    """
    at_work = f"another process is using {folder}; wait until it has finished, or {cure}"
    lock = FileLock(folder / ".lock", fallback_to_soft=False)  # a soft lock would outlive a killed process
    try:
        if not _can_write(folder):
            raise FolderBusy(busy or at_work)
    except OSError as error:
        raise OutputError(f"{named or folder} can't be written ({error.strerror}); {cure}") from None
    try:
        lock.acquire(timeout=wait, poll_interval=0.1, blocking=wait > 0)
    except (Timeout, FileNotFoundError):
        raise FolderBusy(busy or at_work) from None
    except (PermissionError, IsADirectoryError) as error:
        raise OutputError(f"{named or folder} can't be locked ({error.strerror}); {cure}") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        lock.release()


def _can_write(folder: Path) -> bool:
    """Create a folder and write into it; return False if another process removes the folder meanwhile.

    Raises:
        OSError: the folder can't be created or written. Some places, such as /proc, then say that it doesn't exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # another process has just removed the folder, which it had locked
        probe_in(folder)
        return True
    if not folder.exists():
        return False
    probe_in(folder)  # it is there again, or was never removed
    return True


@contextlib.contextmanager
def work_beside(target: Path, kind: str, what: str) -> Iterator[Path]:
    """A hidden folder next to `target`, used by one process at a time: `.NAME.kind`.

    Half-written files of `target` that a killed process left are removed first. The folder is removed at the end.
    After an error it is kept if it holds finished pieces, so that the next process can resume.

    Args:
        what: the name of `target` in the busy message, such as "the store stores/mine".

    Raises:
        OutputError: nothing can be written there.
        FolderBusy: another process is writing `target`.
    """
    work = target.with_name(f".{target.name}.{kind}")
    busy = f"another process is writing {what}; wait until it has finished, or choose another place"
    with alone_in(work, busy, named=target):
        for name in (target.name, work.name):
            tidy(target.parent, name)
        try:
            yield work
        except BaseException:
            if all(path.name == ".lock" for path in work.iterdir()):
                discard(work)
            raise
        discard(work)


@contextlib.contextmanager
def whole_folder(folder: Path, kind: str, what: str) -> Iterator[Path]:
    """Give a temporary folder to write into, renamed to `folder` at the end; after a failure nothing is left.

    Args:
        kind, what: as for `work_beside`.

    Raises:
        OutputError: the folder can't be written.
        FolderBusy: another process is writing it.
    """
    target = real_place(folder)
    try:
        with work_beside(target, kind, what):
            partial = partial_of(target)
            try:
                partial.mkdir(parents=True)
                yield partial
                put_in_place(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        cure = "make room, or choose" if error.errno in FULL else "choose"
        raise OutputError(f"{folder} can't be written ({error.strerror or error}); {cure} another folder") from None
