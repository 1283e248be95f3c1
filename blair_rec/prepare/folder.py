"""The output folder of a preparation: complete or absent, with a record of its sources."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blair_rec import __version__
from blair_rec.errors import ConfigError, OutputError, agreed, counted, first_of
from blair_rec.files.contents import sha256_of
from blair_rec.files.locks import whole_folder
from blair_rec.files.places import real_place, refuse_foreign
from blair_rec.files.writing import write_text

SCHEMA = 1
"""Version of prepared.json, and of the folder it belongs to."""
RECORD = "prepared.json"
READING = "read"
"""Ending of the hidden working folder next to a data set."""

Tell = Callable[[str], None]
"""Called with each line of the summary."""


def is_done(folder: Path, asked: Mapping[str, Any], sources: Sequence[Path], fresh: bool = False) -> bool:
    """Return whether the folder was made by the same command from the same files, so nothing is left to do.

    Raises:
        OutputError: the folder is different. It may be replaced only if a preparation made it and `fresh` is set.
    """
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return False
    except OSError as error:
        raise OutputError(f"{folder} can't be used ({error.strerror}); choose another folder with -o") from None
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        stamps = [{key: value for key, value in one.items() if key != "sha256"} for one in record["sources"]]
        same = record["asked"] == _plain(asked) and stamps == _stamps(sources)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise OutputError(
            f"{folder} exists and was not made by `blair-rec prepare`; choose another folder with -o"
        ) from None
    if not same and not fresh:
        raise OutputError(
            f"{folder} was prepared with different settings or from other files (see {folder / RECORD}); "
            "choose another folder with -o, or replace it with --fresh"
        )
    if fresh:
        _refuse_own_work(folder, record.get("files"))
    return same and not fresh


def _refuse_own_work(folder: Path, files: Any) -> None:
    """Raise OutputError if a folder has files that a preparation didn't write, or changed files; they would be lost."""
    known = files if isinstance(files, dict) else {}
    refuse_foreign(folder, {RECORD}, [glob.escape(name) for name in known])
    files_there = {name: digest for name, digest in known.items() if (folder / name).is_file()}
    changed = [name for name, digest in files_there.items() if sha256_of(folder / name) != digest]
    if changed:
        raise OutputError(
            f"{counted(len(changed), 'file')} in {folder} {agreed(len(changed), 'were')} changed after the preparation "
            f"(first: {first_of(changed)}), and the changes would be lost; move what you need elsewhere, or choose "
            "another folder with -o"
        )


def new_folder(folder: Path) -> contextlib.AbstractContextManager[Path]:
    """Give a temporary folder to write into, renamed to `folder` at the end; after a failure nothing is left.

    Raises:
        OutputError: the folder can't be written.
    """
    return whole_folder(folder, READING, f"{folder}")


def reading_of(folder: Path) -> Path:
    """Return the folder that keeps what has been read of long files until this preparation is complete."""
    target = real_place(folder)
    return target.with_name(f".{target.name}.{READING}")


def check_limits(core: int, max_rejected: float) -> None:
    """
    Raises:
        ConfigError: `core` is below 0, or `max_rejected` is not a share.
    """
    if core < 0:
        raise ConfigError(f"core is {core}; it must be 0 or more")
    if not 0 <= max_rejected <= 1:
        raise ConfigError(f"max_rejected is {max_rejected}; it must be between 0 and 1")


def need_room(folder: Path, size: int, tell: Tell) -> None:
    """Report how many bytes will be written, and check that they fit on the disk.

    Raises:
        OutputError: there is not enough free space.
    """
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(parent).free
    tell(f"disk: about {as_bytes(size)} needed for {folder}; {as_bytes(free)} free")
    if size > free:
        raise OutputError(f"{folder} needs about {as_bytes(size)}, but {as_bytes(free)} are free; choose another disk")


def as_bytes(size: float) -> str:
    """Format a size: 1234567 -> '1.2 MB'."""
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def write_record(partial: Path, asked: Mapping[str, Any], sources: Hashes, found: Mapping[str, Any]) -> None:
    """Write the record: the request, the source files, the results and the written files."""
    hashes = sources.all()
    stamps = _stamps(list(hashes))
    record = {
        "schema": SCHEMA,
        "made_by": f"blair_rec {__version__}",
        "asked": asked,
        "sources": [{**stamp, "sha256": digest} for stamp, digest in zip(stamps, hashes.values(), strict=True)],
        "found": found,
        "files": {file.name: sha256_of(file) for file in sorted(partial.iterdir())},
    }
    write_text(partial / RECORD, json.dumps(_plain(record), indent=1, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    """Return a value as it reads back from JSON."""
    return json.loads(json.dumps(value, default=str))


def _stamps(sources: Sequence[Path]) -> list[dict[str, Any]]:
    stats = [(path, path.stat()) for path in sources]
    return [{"name": path.name, "bytes": stat.st_size, "changed_ns": stat.st_mtime_ns} for path, stat in stats]


class Hashes:
    """SHA-256 of files, computed in the background; hashing takes a third of the time of parsing.

    Files that are read completely are hashed from the blocks that are read (`see`), so a file larger than memory is
    read from disk only once. The other files are hashed when `begin` is called.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.seen: dict[Path, tuple[Any, int]] = {}
        self.hashing: Future[None] | None = None
        self.pool = ThreadPoolExecutor(1)
        self.found: Future[dict[Path, str]] = Future()

    def see(self, path: Path, block: bytes) -> None:
        """Hash the next block of a file, in file order, while the caller continues."""
        digest, size = self.seen.get(path) or (hashlib.sha256(), 0)
        self.seen[path] = digest, size + len(block)
        if self.hashing is not None:
            self.hashing.result()  # so that at most one block waits
        self.hashing = self.pool.submit(digest.update, block)

    def begin(self) -> None:
        """Hash the remaining files. Call it after all reading, because reading uses all cores."""
        # A daemon thread, because after an interruption the interpreter would wait for the pool.
        threading.Thread(target=self._compute, daemon=True).start()

    def _compute(self) -> None:
        try:
            self.pool.shutdown()
            self.found.set_result({path: self._read(path) or sha256_of(path) for path in self.paths})
        except OSError as error:
            self.found.set_exception(error)

    def _read(self, path: Path) -> str | None:
        """Return the hash of a file if all of its bytes were seen; None if not."""
        digest, size = self.seen.get(path, (None, 0))
        return digest.hexdigest() if digest is not None and size == path.stat().st_size else None

    def all(self) -> dict[Path, str]:
        """Return the hash of each file; waits until all are computed.

        Raises:
            OSError: a file can't be read.
        """
        return self.found.result()
