"""Whole files and folders or none, one process at a time in a folder, and what a file holds in short."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from blair_rec.errors import FolderBusy, OutputError, first_of

_STARTED = secrets.token_hex(4)
"""Tells processes of one id apart: those of two machines, or before and after a restart."""
_LEFTOVER = re.compile(r"\.(?P<name>.+?)\.\d+-[0-9a-f]{8}\.(?P<kind>partial|old|new)")
"""Temporary names. Without a process in it, a name such as .shop.old may be anybody's."""


def _temporary(path: Path, kind: str) -> Path:
    """A name beside `path` that no other process takes."""
    return path.with_name(f".{path.name}.{os.getpid()}-{_STARTED}.{kind}")  # the id changes in a fork


def write_text(path: Path, text: str) -> None:
    """A whole file or none, which a power cut can't undo: written under a temporary name and renamed."""
    partial = partial_of(path)
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        replace_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_file(partial: Path, path: Path) -> None:
    """Give a finished file its name, once it is on the disk: after a power cut there is the old file or the new one."""
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def share(path: Path) -> None:
    """Give a file the permissions of any new file here; safetensors writes what nobody but its owner can read."""
    new = _temporary(path, "new")
    new.touch()
    path.chmod(stat.S_IMODE(new.stat().st_mode))
    new.unlink()


def partial_of(path: Path) -> Path:
    """The temporary name of a file or folder that this process is writing; every process has its own."""
    return _temporary(path, "partial")


def put_in_place(folder: Path) -> None:
    """Give the finished `partial_of(folder)` its name, once it is on the disk; what had it before goes only then.

    There is an instant in which neither has the name: `tidy` then brings the old one back.

    Raises:
        FolderBusy: another process, which doesn't keep to `alone_in`, gave the name to its own at the same time.
    """
    partial, old = partial_of(folder), _temporary(folder, "old")
    for path in (*partial.rglob("*"), partial):
        _sync(path)
    try:
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not partial.exists():
            raise
        shutil.rmtree(old, ignore_errors=True)  # the other process has put its own there
        raise FolderBusy(f"another process has just written {folder}; look at that one, or start again") from None
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder that others may be about to enter: it loses its name first, so that they make their own."""
    gone = partial_of(folder)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def tidy(parent: Path, name: str | None = None) -> None:
    """What killed processes left in `parent`: what is half-written goes, replaced folders without a successor return.

    Of the file or folder `name` alone, if that is given: others may be at work on its neighbours. Nobody may be at work
    on what is tidied, so call it inside `alone_in`.
    """
    for left in sorted(parent.iterdir()) if parent.is_dir() else ():
        match = _LEFTOVER.fullmatch(left.name)
        if match is None or name not in (None, match["name"]):
            continue
        if not left.is_dir():
            left.unlink(missing_ok=True)
        elif match["kind"] == "old" and not (folder := left.with_name(match["name"])).exists():
            left.rename(folder)
        elif match["kind"] in ("old", "partial"):
            shutil.rmtree(left, ignore_errors=True)


def left_behind(parent: Path) -> set[str]:
    """The names of the files and folders in `parent` of which `tidy` may find something half-written or replaced."""
    names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
    return {match["name"] for name in names if (match := _LEFTOVER.fullmatch(name))}


@contextlib.contextmanager
def alone_in(folder: Path, busy: str | None = None, wait: float = 0.0) -> Iterator[None]:
    """Make `folder` and keep other processes out of it; the system ends that when this one does, however it ends.

    On a file system without locks nobody keeps two processes apart. `busy` is what to tell the others. `wait` is how
    many seconds to wait until another process leaves the folder.

    Raises:
        OutputError: the folder can't be written.
        FolderBusy: another process is at work in it.
    """
    at_work = f"another process is at work in {folder}; wait until it is done, or choose another folder with -o"
    lock = FileLock(folder / ".lock", fallback_to_soft=False)  # the other kind would outlive a killed process
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _temporary(folder / ".lock", "new")
        probe.touch()
        probe.unlink()
    except FileNotFoundError:  # another process has just removed the folder that it was at work in
        raise FolderBusy(busy or at_work) from None
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror}); choose another folder with -o") from None
    try:
        lock.acquire(timeout=wait, poll_interval=0.1, blocking=wait > 0)
    except (Timeout, FileNotFoundError):
        raise FolderBusy(busy or at_work) from None
    except (PermissionError, IsADirectoryError) as error:
        raise OutputError(f"{folder} can't be locked ({error.strerror}); choose another folder with -o") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def work_beside(target: Path, kind: str, what: str) -> Iterator[Path]:
    """A hidden folder beside `target` in which one process at a time works: `.NAME.kind`.

    What a killed process left half-written of `target` is cleared away first. The folder is removed at the end; after
    an error it stays if it holds pieces, so that the next process can go on.

    Args:
        what: the busy message calls `target` by this, such as "the store stores/mine".

    Raises:
        OutputError: nothing can be written there.
        FolderBusy: another process is at work on `target`.
    """
    work = target.with_name(f".{target.name}.{kind}")
    busy = f"another process is writing {what}; wait until it is done, or choose another place with -o"
    with alone_in(work, busy):
        for name in (target.name, work.name):
            tidy(target.parent, name)
        try:
            yield work
        except BaseException:
            if all(path.name == ".lock" for path in work.iterdir()):
                discard(work)
            raise
        discard(work)


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    digest, buffer = hashlib.sha256(), bytearray(1 << 18)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # which opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems can't do that for a folder, and some not at all.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def refuse_taken(folder: Path, names: Collection[str], markers: Collection[str]) -> None:
    """Make sure that what a command writes or removes in `folder`, beside any other files, is nobody else's.

    Args:
        names: what the command may replace or remove there.
        markers: shell patterns of files that show that the command, or one like it, was at work there before; the lock
            of `alone_in` always does.

    Raises:
        OutputError: some of `names` are there, and no marker.
    """
    if any(next(folder.glob(marker), None) for marker in (".lock", *markers)):
        return
    if taken := sorted(name for name in names if (folder / name).exists()):
        raise OutputError(
            f"{folder} holds {first_of(taken)}, which this command did not write and would replace; choose another "
            "folder with -o"
        )


def refuse_foreign(folder: Path, markers: Collection[str], others: Collection[str] = ()) -> None:
    """Make sure that `folder` may be replaced: it is free, or empty, or we wrote everything in it.

    Args:
        markers: names that only our folder of this kind has; at least one of them has to be there.
        others: names that may be there, too. Both kinds may be shell patterns, such as `model*.safetensors`.

    Raises:
        OutputError: it is a file, it has no marker, or it holds anything else, which would be lost.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, and a folder has to go there; choose another place")
    names = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in names if not any(fnmatch.fnmatchcase(name, ours) for ours in (*markers, *others))]
    if foreign:
        raise OutputError(
            f"{folder} holds {len(foreign)} files that this command does not write (first: {first_of(foreign)}), and "
            "they would be lost; choose another folder"
        )
    if names and not any(fnmatch.fnmatchcase(name, marker) for name in names for marker in markers):
        raise OutputError(
            f"{folder} holds {first_of(names)} but no {' or '.join(sorted(markers))}, and this command did not write "
            "it; choose another folder"
        )
