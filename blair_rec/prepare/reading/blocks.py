"""Read text files, compressed or not, as blocks of whole lines."""

from __future__ import annotations

import gzip
import io
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from blair_rec.errors import SourceError

BLOCK = 16 << 20
"""Bytes per block."""
BUFFERS = 6
"""Number of memory buffers: one is filled while the others wait, are parsed, processed and hashed."""
LONGEST_LINE = 64 << 20
"""A file with more bytes than this without a line end is not a text file."""

Progress = Callable[[str, int, int], None]
"""Called with (name of the file, bytes read, bytes in total)."""
See = Callable[[Path, bytes], None]
"""Called with each block of a file that is read in one pass; gets the unchanged bytes."""


def blocks_of(path: Path, progress: Progress | None, see: See | None = None) -> Iterator[bytes]:
    """Yield blocks of whole lines; the last one may lack its line end."""
    size, first = path.stat().st_size, True
    buffers = deque(io.BytesIO() for _ in range(BUFFERS))
    try:
        with path.open("rb") as raw, _opened(path, raw) as file:
            while block := _block(raw, buffers) if file is raw else _unpacked(file):
                if not block.endswith(b"\n") and file.read(1):
                    raise SourceError(
                        f"{path}: a line is longer than {LONGEST_LINE >> 20} MiB, so this is not a text file"
                    )
                if see is not None and file is raw:
                    see(path, block)
                yield block.removeprefix(b"\xef\xbb\xbf") if first else block  # the byte order mark of some editors
                first = False
                if progress is not None:
                    progress(path.name, raw.tell(), size)
    except EOFError:
        raise SourceError(f"{path} is cut off: its gzip data end too early; download or create it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        behind = "Not a gzipped" in str(error)  # the first bytes were valid gzip, so later ones are not
        why = "other bytes follow its gzip data" if behind else str(error)
        raise SourceError(f"{path} is a damaged gzip file ({why}); download or create it again") from None
    except OSError as error:
        raise SourceError(f"{path} can't be read ({error.strerror or error})") from None


def _block(file: BinaryIO, buffers: deque[io.BytesIO]) -> bytes:
    """Read about BLOCK bytes up to a line end, into the first of `buffers`, which then becomes the last.

    New memory for every block would cost a tenth of the time of reading JSON lines. If the old block of a buffer is
    still in use, BytesIO allocates new memory.
    """
    begin = file.tell()
    file.seek(begin + BLOCK - 1)
    rest = len(file.readline(LONGEST_LINE))
    file.seek(begin)
    if not rest:
        return file.read(BLOCK)  # the end of the file
    buffer, size = buffers[0], BLOCK - 1 + rest
    buffers.rotate(-1)
    buffer.truncate(size)
    buffer.seek(size - 1)
    buffer.write(b"\n")  # extends the buffer to its full size
    with buffer.getbuffer() as memory:
        size = file.readinto(memory)  # type: ignore[attr-defined]
    buffer.truncate(size)
    return buffer.getvalue()  # no copy


def _unpacked(file: BinaryIO) -> bytes:
    """Read the next block of a file that can't seek backwards."""
    block = file.read(BLOCK)
    return block if block.endswith(b"\n") else block + file.readline(LONGEST_LINE)


def _opened(path: Path, raw: BinaryIO) -> BinaryIO:
    return gzip.GzipFile(fileobj=raw) if is_gzipped(path) else raw  # type: ignore[return-value]


def is_gzipped(path: Path) -> bool:
    """Return whether the name ends in .gz."""
    return path.suffix.lower() == ".gz"


def texts_of(path: Path, progress: Progress | None) -> Iterator[str]:
    """Yield lines with their line ends; bytes that are not UTF-8 become surrogates, which `is_unicode` detects."""
    for block in blocks_of(path, progress):
        yield from texts_in(block)


def texts_in(block: bytes, errors: str = "surrogateescape") -> Iterator[str]:
    """Yield the lines of a block like texts_of; with `errors="strict"` invalid bytes raise UnicodeDecodeError."""
    # Split only at \n: str.splitlines would also split at characters that are allowed in cells.
    return io.TextIOWrapper(io.BytesIO(block), encoding="utf-8", errors=errors, newline="\n")


def is_unicode(text: str) -> bool:
    """Return whether a text that was read with surrogates for invalid bytes was valid UTF-8."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def count_lines(block: bytes) -> int:
    """Count the lines, including a last line without a line end."""
    ends = (pl.Series(np.frombuffer(block, dtype=np.uint8)) == ord("\n")).sum()  # ten times as fast as block.count
    return int(ends) + (not block.endswith(b"\n") and bool(block))


def middle_of(block: bytes) -> int:
    """Return the first line end after the middle, or the last before it; the block must have two lines or more."""
    cut = block.find(b"\n", len(block) // 2) + 1
    return cut if 0 < cut < len(block) else block.rfind(b"\n", 0, len(block) // 2) + 1 or block.find(b"\n") + 1
