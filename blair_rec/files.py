"""Whole files and folders or none, one process at a time in a folder, and what a file holds in short."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from blair_rec.errors import OutputError, first_of

try:
    import fcntl
except ImportError:  # not on Windows: there nobody keeps two processes apart
    fcntl = None  # type: ignore[assignment]


def write_text(path: Path, text: str) -> None:
    """A whole file or none: written under a temporary name and renamed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def share(path: Path) -> None:
    """Give a file the permissions of any new file here; safetensors writes what nobody but its owner can read."""
    new = path.with_name(f".{path.name}.new")
    new.touch()
    path.chmod(stat.S_IMODE(new.stat().st_mode))
    new.unlink()


def partial_of(folder: Path) -> Path:
    """The temporary name of a folder that is being written."""
    return folder.with_name(f".{folder.name}.partial")


def put_in_place(folder: Path) -> None:
    """Give the finished `partial_of(folder)` its name; what had it before goes only then.

    There is an instant in which neither has the name: `tidy` then brings the old one back.
    """
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        folder.rename(old)
    partial_of(folder).rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def tidy(parent: Path, name: str | None = None) -> None:
    """What killed processes left in `parent`: half-written folders go, replaced ones without a successor return.

    Of the folder `name` alone, if that is given: others may be at work on its neighbours.
    """
    pattern = "*" if name is None else glob.escape(name)
    for old in parent.glob(f".{pattern}.old"):
        folder = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if not folder.exists():
            old.rename(folder)
        else:
            shutil.rmtree(old, ignore_errors=True)
    for partial in parent.glob(f".{pattern}.partial"):
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def alone_in(folder: Path, busy: str | None = None) -> Iterator[None]:
    """Make `folder` and keep other processes out of it; the system ends that when this one does, however it ends.

    `busy` is what to tell the others.

    Raises:
        OutputError: the folder can't be written, or another process is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror}); choose another folder with -o") from None
    with lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_file(lock.fileno(), folder / ".lock"):  # who had it has just removed the folder
                    raise BlockingIOError
            except BlockingIOError:
                at_work = f"another compare is at work in {folder}"
                raise OutputError(
                    busy or f"{at_work}; wait until it is done, or choose another folder with -o"
                ) from None
            except OSError:  # a file system without locks
                pass
        yield


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    digest, buffer = hashlib.sha256(), bytearray(1 << 18)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
    return digest.hexdigest()


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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
            f"{folder} holds {len(foreign)} files that blair_rec did not write (first: {first_of(foreign)}), and they "
            "would be lost; choose another folder"
        )
    if names and not any(fnmatch.fnmatchcase(name, marker) for name in names for marker in markers):
        raise OutputError(
            f"{folder} holds {first_of(names)} but no {' or '.join(sorted(markers))}, so blair_rec did not write it; "
            "choose another folder"
        )
