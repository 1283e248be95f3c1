"""Check before long work that a file or folder may be written or replaced."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from blair_rec.errors import OutputError, counted, first_of
from blair_rec.files.writing import partial_of

ANOTHER = "choose another folder"
"""The usual cure."""


@contextlib.contextmanager
def _looking_at(folder: Path, verb: str = "used") -> Iterator[None]:
    """Turn a system error while a folder is looked at into OutputError: it can't be used, or can't be `verb`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{folder} can't be {verb} ({error.strerror}); choose another folder") from None


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
    except (OSError, RuntimeError, ValueError) as error:
        # ValueError: a null byte in the name. RuntimeError: links that point to each other, before Python 3.13.
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} can't be used ({reason}); choose another place") from None
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
    with _looking_at(folder, "written"):
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        probe_in(nearest)


def probe_in(folder: Path) -> None:
    """Write an empty file into an existing folder, and remove it; permissions alone don't say whether this is possible.

    Raises:
        OSError: it is not possible.
    """
    probe = partial_of(folder / ".lock")
    probe.touch()
    probe.unlink()


def refuse_taken(
    folder: Path, names: Collection[str], markers: Collection[str], cure: str = ANOTHER, folders: Collection[str] = ()
) -> None:
    """Check that the files a command will write or remove in `folder` are its own; other files may be there, too.

    Args:
        names: the files and folders that the command may replace or remove there.
        markers: shell patterns of files that show that the command, or a related one, wrote the folder; the lock of
            `alone_in` always shows it.
        cure: what to do instead.
        folders: which of `names` are folders.

    Raises:
        OutputError: some of `names` exist, but no marker does; or one is a folder where a file is needed, or a file
            where a folder is needed.
    """
    refuse_file(folder)
    with _looking_at(folder):
        there = sorted(name for name in names if (folder / name).exists())
        is_ours = any(next(folder.glob(marker), None) for marker in (".lock", *markers))
        wrong = [name for name in there if (folder / name).is_dir() != (name in folders)]
    if is_ours and wrong:
        what = "a file, but a folder" if wrong[0] in folders else "a folder, but a file"
        raise OutputError(f"{folder / wrong[0]} is {what} is needed there; remove it, or {cure}")
    if taken := [] if is_ours else there:
        raise OutputError(
            f"{folder} holds {first_of(taken)}, which this command did not write and would replace; {cure}"
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
    ours = (*markers, *others)
    refuse_loss(folder, [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ours)])
    if names and not any(fnmatch.fnmatchcase(name, marker) for name in names for marker in markers):
        raise OutputError(
            f"{folder} holds {first_of(names)} but no {' or '.join(sorted(markers))}, so this command did not write "
            "it; choose another folder"
        )


def refuse_loss(folder: Path, foreign: Sequence[str]) -> None:
    """Check that replacing `folder` deletes no files of others; `foreign` are the names of such files in it.

    Raises:
        OutputError: there are some.
    """
    if foreign:
        raise OutputError(
            f"{folder} holds {counted(len(foreign), 'file')} that this command did not write (first: "
            f"{first_of(foreign)}) and would delete; choose another folder"
        )
