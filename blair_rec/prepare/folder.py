"""The folder that a preparation leaves: whole or not at all, with a record of what it was made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blair_rec import __version__
from blair_rec.errors import OutputError, first_of
from blair_rec.files import partial_of, put_in_place, refuse_foreign, sha256_of, work_beside, write_text

RECORD = "prepared.json"
READING = "read"
"""Ending of the hidden folder beside a data set in which a preparation works."""

Tell = Callable[[str], None]
"""Called with each line of the summary."""


def is_done(folder: Path, asked: Mapping[str, Any], sources: Sequence[Path], fresh: bool = False) -> bool:
    """Whether the folder was made by the same command from the same files, so that nothing is left to do.

    Raises:
        OutputError: there is a folder that was not: only what a preparation left may be replaced, and only if `fresh`.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        stamps = [{key: value for key, value in one.items() if key != "sha256"} for one in record["sources"]]
        same = record["asked"] == _plain(asked) and stamps == _stamps(sources)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise OutputError(
            f"{folder} is there and was not made by `blair-rec prepare`; choose another folder with -o"
        ) from None
    if not same and not fresh:
        raise OutputError(
            f"{folder} was prepared otherwise, or from other files ({folder / RECORD} says how); "
            "choose another folder with -o, or replace it with --fresh"
        )
    if fresh:
        _refuse_own_work(folder, record.get("files"))
    return same and not fresh


def _refuse_own_work(folder: Path, files: Any) -> None:
    """Raises OutputError if a folder holds more than a preparation put there, or something else; it would be lost."""
    known = files if isinstance(files, dict) else {}
    refuse_foreign(folder, {RECORD}, known)
    files_there = {name: digest for name, digest in known.items() if (folder / name).is_file()}
    changed = [name for name, digest in files_there.items() if sha256_of(folder / name) != digest]
    if changed:
        raise OutputError(
            f"{len(changed)} files in {folder} were changed after they were prepared (first: {first_of(changed)}), and "
            "the changes would be lost; move these files away, or choose another folder with -o"
        )


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name when everything is in it; if anything fails, nothing is left.

    Raises:
        OutputError: it can't be written.
    """
    target = folder.resolve()  # a link keeps pointing to where the data are
    try:
        with work_beside(target, READING, f"{folder}"):
            partial = partial_of(target)
            try:
                partial.mkdir(parents=True)
                yield partial
                put_in_place(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror or error}); choose another with -o") from None


def reading_of(folder: Path) -> Path:
    """Where is kept what has been read of long files, until a preparation of this folder is through."""
    target = folder.resolve()
    return target.with_name(f".{target.name}.{READING}")


def need_room(folder: Path, size: int, tell: Tell) -> None:
    """Say how many bytes are about to be written, and make sure that they fit.

    Raises:
        OutputError: they don't.
    """
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(parent).free
    tell(f"disk: about {as_bytes(size)} for {folder}; {as_bytes(free)} are free")
    if size > free:
        raise OutputError(f"{folder} needs about {as_bytes(size)}, and {as_bytes(free)} are free; choose another disk")


def as_bytes(size: float) -> str:
    """1234567 -> '1.2 MB'."""
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def write_record(partial: Path, asked: Mapping[str, Any], sources: Hashes, found: Mapping[str, Any]) -> None:
    """What was asked for, of which files, and what came of it."""
    hashes = sources.all()
    stamps = _stamps(list(hashes))
    record = {
        "made_by": f"blair_rec {__version__}",
        "asked": asked,
        "sources": [{**stamp, "sha256": digest} for stamp, digest in zip(stamps, hashes.values(), strict=True)],
        "found": found,
        "files": {file.name: sha256_of(file) for file in sorted(partial.iterdir())},
    }
    write_text(partial / RECORD, json.dumps(_plain(record), indent=1, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def _stamps(sources: Sequence[Path]) -> list[dict[str, Any]]:
    stats = [(path, path.stat()) for path in sources]
    return [{"name": path.name, "bytes": stat.st_size, "changed_ns": stat.st_mtime_ns} for path, stat in stats]


class Hashes:
    """SHA-256 of files, computed beside other work: it takes a third of the time of parsing them.

    What is read through anyway is hashed from the blocks that are read (`see`), so that a file larger than memory
    comes from the disk once. The rest is hashed when `begin` is called.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.seen: dict[Path, tuple[Any, int]] = {}
        self.hashing: Future[None] | None = None
        self.pool = ThreadPoolExecutor(1)
        self.found: Future[dict[Path, str]] = Future()

    def see(self, path: Path, block: bytes) -> None:
        """The next bytes of a file, from its first to its last; hashed while the caller goes on."""
        digest, size = self.seen.get(path) or (hashlib.sha256(), 0)
        self.seen[path] = digest, size + len(block)
        if self.hashing is not None:
            self.hashing.result()  # so that no more than one block waits
        self.hashing = self.pool.submit(digest.update, block)

    def begin(self) -> None:
        """Compute what is missing; not before all has been read, which takes all cores."""
        # Not in the pool, for which the interpreter would wait after an interruption.
        threading.Thread(target=self._compute, daemon=True).start()

    def _compute(self) -> None:
        try:
            self.pool.shutdown()
            self.found.set_result({path: self._read(path) or sha256_of(path) for path in self.paths})
        except OSError as error:
            self.found.set_exception(error)

    def _read(self, path: Path) -> str | None:
        """Of a file all of whose bytes were seen."""
        digest, size = self.seen.get(path, (None, 0))
        return digest.hexdigest() if digest is not None and size == path.stat().st_size else None

    def all(self) -> dict[Path, str]:
        """By file, when all are there.

        Raises:
            OSError: a file can't be read.
        """
        return self.found.result()
