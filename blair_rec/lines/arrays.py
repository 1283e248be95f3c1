"""NumPy's .npy and .npz files: a damaged one is one ValueError with a reason of one line; nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

_DAMAGE = (ValueError, EOFError, TypeError, OverflowError, SyntaxError, TokenError, RuntimeError, MemoryError)
"""NumPy's errors for a damaged header or too few numbers."""
_ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error)
_WRITTEN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How NumPy compresses the members of an .npz file."""
_LAST_CHARACTER = 0x10FFFF


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped from the disk.

    Raises:
        ValueError: the file is no array, holds Python objects, or is damaged. OSError: it can't be read.
    """
    try:
        found: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (*_DAMAGE, *_ZIP_DAMAGE) as error:
        raise ValueError(_reason(error)) from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError("it is an .npz file, not a single array")
    return found


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file by name.

    Raises:
        ValueError: the file is none, holds Python objects, or is damaged. OSError: it can't be read.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is a single array, not an .npz file")
        with loaded as archive:
            if any(member.compress_type not in _WRITTEN for member in archive.zip.infolist()):
                raise ValueError("it is compressed, but not as NumPy does")
            found = {name: archive[name] for name in archive.files}
    except (*_DAMAGE, *_ZIP_DAMAGE) as error:
        raise ValueError(_reason(error)) from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of a member that is not an array
            raise ValueError(f"{name} is not an array")
        if array.dtype.kind == "U":
            codes = np.frombuffer(array.tobytes(), np.dtype("u4").newbyteorder(array.dtype.byteorder))
            if codes.max(initial=0) > _LAST_CHARACTER:
                raise ValueError(f"{name} holds characters that don't exist")
    return found


def _reason(error: BaseException) -> str:
    """NumPy's words in one line, without its advice to unpickle the file."""
    if "contains pickled" in str(error):  # NumPy's guess for any other bytes
        return "it is not a NumPy file"
    return str(error).partition("\n")[0][:200] or type(error).__name__
