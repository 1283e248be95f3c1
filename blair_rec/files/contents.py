"""List and hash files."""

from __future__ import annotations

import hashlib
from pathlib import Path


def files_in(folder: Path) -> list[str]:
    """Return the paths of all files in `folder` and its subfolders, such as members/text/items.npy, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest, buffer = hashlib.sha256(), bytearray(1 << 18)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
    return digest.hexdigest()
