"""Write files and folders completely or not at all, also when the process is killed or the disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from blair_rec.errors import FolderBusy, OutputError

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

    With `name`, clean up only after that file or folder, because other processes may be using its neighbours. Call
    this inside `alone_in`, so that no other process uses these files.
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
