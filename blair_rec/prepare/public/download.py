"""Download files over HTTPS into a cache, check their hashes, and read zip archives without trusting their paths."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from blair_rec.errors import OutputError, SourceError
from blair_rec.files.contents import sha256_of
from blair_rec.files.locks import alone_in
from blair_rec.files.writing import replace_file, write_text
from blair_rec.prepare.folder import Tell, as_bytes, need_room
from blair_rec.prepare.reading.blocks import Progress

SCHEMA = 1
"""Version of the note that belongs to a part of a download."""
CHUNK = 1 << 20
TIMEOUT = 60
"""Seconds without any byte after which a connection counts as lost."""
LOCAL = ("127.0.0.1", "::1", "localhost")
"""Hosts on this machine, where plain HTTP is allowed."""
ANOTHER_CACHE = "BLAIR_REC_CACHE names another folder for the cache"
BEGINS = {".gz": b"\x1f\x8b", ".zip": b"PK"}
"""First bytes of a file, by its ending."""


@dataclass(frozen=True)
class RemoteFile:
    """A file at its public home."""

    url: str
    md5: str | None = None
    """The MD5 that the publisher gives; None if the publisher gives no hash."""

    @property
    def name(self) -> str:
        """The file's name, with which it is in the cache, on a mirror, and in a local copy."""
        return PurePosixPath(urlsplit(self.url).path).name


def cache_folder() -> Path:
    """Return the folder of downloads: BLAIR_REC_CACHE, or blair_rec in the user's cache (XDG_CACHE_HOME, ~/.cache)."""
    if chosen := os.environ.get("BLAIR_REC_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blair_rec"


def is_url(source: str) -> bool:
    """Return whether a source is an address and not a folder."""
    return "://" in source


def get(file: RemoteFile, cache: Path, source: str | None, tell: Tell, progress: Progress | None = None) -> Path:
    """Return the path of a file, which is downloaded to the folder `cache` if it is not there yet, and check its hash.

    The publisher's hash is checked if there is one. The SHA-256 of the first copy is noted in `cache`/NAME.sha256, and
    all later copies must have it. An interrupted download resumes; it starts again if the server's file has changed.

    Args:
        source: a folder that has the file, or the address of a folder on another server; None for the public home.

    Raises:
        SourceError: the file is not there, can't be downloaded, or has another hash.
        OutputError: the cache can't be written, or there is not enough free space.
        FolderBusy: another process is downloading to the same cache.
    """
    if source is not None and not is_url(source):
        path = Path(source) / file.name
        if not path.is_file():
            raise SourceError(f"--source {source} has no file {file.name}; download it from {file.url}")
        with _cache_errors(cache):
            _check(path, file, cache / f"{file.name}.sha256", tell, f"remove {path}, or choose another --source")
        return path
    path = cache / file.name
    url = file.url if source is None else f"{source.rstrip('/')}/{file.name}"
    busy = f"another process is downloading to {cache}; wait until it has finished"
    with _cache_errors(cache), alone_in(cache, busy, cure=ANOTHER_CACHE):
        if not path.is_file():
            _download(url, path, tell, progress)
        try:
            _check(path, file, cache / f"{file.name}.sha256", tell, f"{path} was removed; run the same command again")
        except SourceError:
            path.unlink()
            raise
    return path


@contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    """Turn a system error on the cache, or on a copy, into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or cache} can't be read or written ({error.strerror or error}); {ANOTHER_CACHE}"
        ) from None


def _check(path: Path, file: RemoteFile, note: Path, tell: Tell, cure: str) -> None:
    """Check a file against the publisher's hash and the noted one; note the SHA-256 of the first copy."""
    if file.md5 is not None and (found := _md5_of(path)) != file.md5:
        raise SourceError(f"{file.name} has MD5 {found}, but its publisher gives {file.md5}; {cure}")
    digest = sha256_of(path)
    by = "as published (MD5)" if file.md5 is not None else "the publisher gives no hash"
    if note.is_file():
        noted = note.read_text(encoding="utf-8", errors="replace").split()[:1]
        if not re.fullmatch("[0-9a-f]{64}", "".join(noted)):
            raise SourceError(f"{note} holds no SHA-256; remove it, and the same command writes it again")
        if noted != [digest]:
            raise SourceError(
                f"{file.name} has SHA-256 {digest}, but an earlier copy had {''.join(noted)}; {cure}. If the publisher "
                f"has changed the file, remove {note}"
            )
        by += ", the same as the first copy"
    else:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, f"{digest}  {file.name}\n")  # `sha256sum --check` reads it
        by += f", noted in {note} for later copies"
    tell(f"{path}: SHA-256 {digest} ({by})")


def _md5_of(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


class _OnlySafe(urllib.request.HTTPRedirectHandler):
    """Follows redirects to HTTPS only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_address(url: str) -> None:
    """
    Raises:
        SourceError: the address is not one, or not HTTPS and not on this machine either.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SourceError(f"{url} is not an address ({error}); use an https address") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise SourceError(
            f"{url} is not an https address, so the file could be changed on its way; use an https address"
        )


def _download(url: str, path: Path, tell: Tell, progress: Progress | None) -> None:
    """Download a file completely; what was received before an interruption is kept next to it for the next time."""
    check_address(url)
    part, about = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")
    have, headers = 0, {"Accept-Encoding": "identity", "User-Agent": "blair_rec"}
    if part.is_file() and (tag := _tag_of(about, url)):
        have = part.stat().st_size
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    opener = urllib.request.build_opener(_OnlySafe)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            if "html" in answer.headers.get("Content-Type", ""):
                raise SourceError(f"{answer.url} is a web page and not the file {path.name}; {_by_hand(path)}")
            goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            have = have if goes_on else 0
            size = have + int(answer.headers.get("Content-Length") or 0)
            tell(f"{'resuming' if goes_on else 'downloading'} {url} ({as_bytes(size)}) to {path}")
            need_room(path, size - have, tell)
            write_text(about, json.dumps({"schema": SCHEMA, "url": url, "tag": _tag(answer.headers)}) + "\n")
            with part.open("ab" if goes_on else "wb") as file:
                for block in iter(lambda: answer.read(CHUNK), b""):
                    file.write(block)
                    have += len(block)
                    if progress is not None:
                        progress(path.name, have, max(size, have))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the kept part is longer than the server's file
            part.unlink(missing_ok=True)
            about.unlink(missing_ok=True)
        raise SourceError(f"{url}: the server refuses the file (status {error.code}); {_by_hand(path)}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise SourceError(f"{url} can't be downloaded ({reason}); {_kept(part)}{_by_hand(path)}") from None
    if have < size:
        raise SourceError(
            f"{url}: the connection ended after {as_bytes(have)} of {as_bytes(size)}; the same command resumes"
        )
    with part.open("rb") as file:
        expected = BEGINS.get(path.suffix, b"")
        wrong = file.read(len(expected)) != expected
    about.unlink()
    if wrong:
        part.unlink()
        raise SourceError(f"{url} is not a {path.suffix} file; {_by_hand(path)}")
    replace_file(part, path)


def _by_hand(path: Path) -> str:
    return f"try again later, or download {path.name} yourself and name its folder, or a mirror, with --source"


def _kept(part: Path) -> str:
    return "the part received is kept, so the same command resumes; " if part.is_file() else ""


def _tag(headers: Mapping[str, str]) -> str | None:
    """Return what identifies this version of the server's file; None if nothing does so exactly."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _tag_of(about: Path, url: str) -> str | None:
    """Return the tag of a kept part of this address; None if it can't be resumed."""
    try:
        note = json.loads(about.read_text(encoding="utf-8"))
        return note["tag"] if note["schema"] == SCHEMA and note["url"] == url else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose members all have paths inside it.

    Raises:
        SourceError: it is damaged, or a member is a link or has a path that leads out of the folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                parts = PurePosixPath(member.filename.replace("\\", "/"))
                leads_out = parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]
                if leads_out or stat.S_ISLNK(member.external_attr >> 16):
                    raise SourceError(
                        f"{path}: the member {member.filename!r} is a link or leads out of the archive; nothing was "
                        "unpacked"
                    )
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise SourceError(f"{path} can't be unpacked ({error}); remove it and run the same command again") from None


def member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open the member with this file name, in any folder of the archive.

    Raises:
        SourceError: there is none.
    """
    for one in archive.infolist():
        if PurePosixPath(one.filename).name == name:
            return archive.open(one)
    raise SourceError(f"{archive.filename} has no file {name}")
