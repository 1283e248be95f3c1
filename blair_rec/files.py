"""Write files and folders completely or not at all, lock a folder for one process, and hash files."""

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

from blair_rec.errors import FolderBusy, OutputError, counted, first_of

_STARTED = secrets.token_hex(4)
"""Distinguishes processes with the same id: on two machines, or before and after a restart."""
_LEFTOVER = re.compile(r"\.(?P<name>.+?)\.\d+-[0-9a-f]{8}\.(?P<kind>partial|old|new)")
"""Our temporary names. They contain a process id; a plain name such as .shop.old may be somebody else's."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of the system for a full disk, a quota, and a limit on the size of files."""


def _temporary(path: Path, kind: str) -> Path:
    """A name next to `path` that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{_STARTED}.{kind}")  # not stored, because a fork has another id


def write_text(path: Path, text: str) -> None:
    """Write a complete file or none, even in a power cut: first under a temporary name, then renamed."""
    partial = partial_of(path)
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        replace_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_file(partial: Path, path: Path) -> None:
    """Give a finished file its final name once it is on the disk. After a power cut the old or the new file exists."""
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def share(path: Path) -> None:
    """Give a file the permissions of any new file here; safetensors writes files that only their owner can read."""
    new = _temporary(path, "new")
    new.touch()
    path.chmod(stat.S_IMODE(new.stat().st_mode))
    new.unlink()


def partial_of(path: Path) -> Path:
    """The temporary name of a file or folder while this process writes it; every process has its own name."""
    return _temporary(path, "partial")


def put_in_place(folder: Path) -> None:
    """Give the finished `partial_of(folder)` its final name once it is on the disk; then remove the folder it replaces.

    For an instant neither folder has the name. If the process is killed then, `tidy` brings the old folder back.

    Raises:
        FolderBusy: another process, which doesn't use `alone_in`, wrote the folder at the same time.
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
        shutil.rmtree(old, ignore_errors=True)  # the other process's folder is there now
        raise FolderBusy(f"another process has just written {folder}; use its result, or start again") from None
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder that other processes may be about to use: rename it first, so that they create a new one."""
    gone = partial_of(folder)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def tidy(parent: Path, name: str | None = None) -> None:
    """Clean up after killed processes in `parent`: remove half-written files, and bring back folders half replaced.

    With `name`, clean up only after that file or folder, because other processes may be using its neighbours. No
    process may be using what is cleaned up, so call this inside `alone_in`.
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
    """Create `folder` and lock it for this process. The system unlocks it when the process ends, even if it is killed.

    On a file system without locks, two processes are not kept apart. `busy` is the error message for the others.
    `wait` is how many seconds to wait for another process to leave the folder.

    Raises:
        OutputError: the folder can't be written.
        FolderBusy: another process is using it.
    """
    at_work = f"another process is using {folder}; wait until it has finished, or choose another folder with -o"
    lock = FileLock(folder / ".lock", fallback_to_soft=False)  # a soft lock would outlive a killed process
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _temporary(folder / ".lock", "new")
        probe.touch()
        probe.unlink()
    except FileNotFoundError:  # another process has just removed the folder, which it had locked
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
    busy = f"another process is writing {what}; wait until it has finished, or choose another place with -o"
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
        raise OutputError(
            f"{folder} can't be written ({error.strerror or error}); {cure} another folder with -o"
        ) from None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest, buffer = hashlib.sha256(), bytearray(1 << 18)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Make the system write a file, or the names in a folder, to the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows can't open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems can't sync a folder, and some can't sync at all.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def room_for(folder: Path) -> Iterator[None]:
    """Turn the system's error on a full disk into OutputError, while something is written into `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OutputError(
            f"{folder} can't be written ({error.strerror}); free some space, then run the same command again"
        ) from None


@contextlib.contextmanager
def _looking_at(folder: Path) -> Iterator[None]:
    """Turn a system error while a folder is looked at into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{folder} can't be used ({error.strerror}); choose another folder with -o") from None


def real_place(path: Path) -> Path:
    """Return where a file or folder will be written: where a link points, so that the link stays.

    Raises:
        OutputError: links point to each other, or the system can't take the name.
    """
    try:
        place = path.resolve()
        for used in (place, partial_of(place.parent / f".{place.name}.{'x' * 10}")):  # our longest name for it, too
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                os.stat(used)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop, before Python 3.13
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} can't be used ({reason}); choose another place with -o") from None
    return place


def refuse_file(folder: Path) -> None:
    """Check that an output folder is not a file, and has a name that the system can take.

    Raises:
        OutputError: it is a file, or can't be looked at.
    """
    with _looking_at(folder):
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file, but a folder is needed there; choose another place")


def refuse_unwritable(folder: Path) -> None:
    """Check before long work that a folder can be written, or created.

    Raises:
        OutputError: it can't.
    """
    refuse_file(folder)
    with _looking_at(folder):
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def refuse_taken(folder: Path, names: Collection[str], markers: Collection[str]) -> None:
    """Check that the files a command will write or remove in `folder` are its own; other files may be there, too.

    Args:
        names: the files that the command may replace or remove there.
        markers: shell patterns of files that show that the command, or a related one, wrote the folder; the lock of
            `alone_in` always shows it.

    Raises:
        OutputError: some of `names` exist, but no marker does.
    """
    refuse_file(folder)
    with _looking_at(folder):
        if any(next(folder.glob(marker), None) for marker in (".lock", *markers)):
            return
        taken = sorted(name for name in names if (folder / name).exists())
    if taken:
        raise OutputError(
            f"{folder} holds {first_of(taken)}, which this command did not write and would replace; choose another "
            "folder with -o"
        )


def refuse_foreign(folder: Path, markers: Collection[str], others: Collection[str] = ()) -> None:
    """Check that `folder` may be replaced: it doesn't exist, is empty, or holds only files that we wrote.

    Args:
        markers: names that only our folder of this kind has; at least one of them must be there.
        others: names that may be there, too. Both may be shell patterns, such as `model*.safetensors`.

    Raises:
        OutputError: it is a file, has no marker, or holds any other file, which would be lost.
    """
    refuse_file(folder)
    with _looking_at(folder):
        if not folder.exists():
            return
        names = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in names if not any(fnmatch.fnmatchcase(name, ours) for ours in (*markers, *others))]
    if foreign:
        raise OutputError(
            f"{folder} holds {counted(len(foreign), 'file')} that this command did not write (first: "
            f"{first_of(foreign)}) and would delete; choose another folder"
        )
    if names and not any(fnmatch.fnmatchcase(name, marker) for name in names for marker in markers):
        raise OutputError(
            f"{folder} holds {first_of(names)} but no {' or '.join(sorted(markers))}, so this command did not write "
            "it; choose another folder"
        )
