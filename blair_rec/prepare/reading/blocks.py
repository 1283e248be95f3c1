"""Text files as blocks of whole lines, compressed or not."""

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
"""Bytes read at once."""
BUFFERS = 6
"""Pieces of memory for blocks: one is read into while others wait, are parsed, worked on and hashed."""
LONGEST_LINE = 64 << 20
"""Bytes without a line end after which a file is no text file."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being read, bytes done, bytes in all)."""
See = Callable[[Path, bytes], None]
"""Called with each block of a file that is read in one go, as the bytes stand there."""


def blocks_of(path: Path, progress: Progress | None, see: See | None = None) -> Iterator[bytes]:
    """Blocks of whole lines; the last one may lack its line end."""
    size, first = path.stat().st_size, True
    buffers = deque(io.BytesIO() for _ in range(BUFFERS))
    try:
        with path.open("rb") as raw, _opened(path, raw) as file:
            while block := _block(raw, buffers) if file is raw else _unpacked(file):
                if not block.endswith(b"\n") and file.read(1):
                    raise SourceError(f"{path}: a line of more than {LONGEST_LINE >> 20} MiB; this is no text file")
                if see is not None and file is raw:
                    see(path, block)
                yield block.removeprefix(b"\xef\xbb\xbf") if first else block  # the mark that some editors write
                first = False
                if progress is not None:
                    progress(path.name, raw.tell(), size)
    except EOFError:
        raise SourceError(f"{path} is cut off: its gzip data end too early; get it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        behind = "Not a gzipped" in str(error)  # the first bytes were right, so this is about what follows
        why = "other bytes stand behind its gzip data" if behind else str(error)
        raise SourceError(f"{path} is a damaged gzip file ({why}); get it again") from None
    except OSError as error:
        raise SourceError(f"{path} can't be read ({error.strerror or error})") from None


def _block(file: BinaryIO, buffers: deque[io.BytesIO]) -> bytes:
    """About BLOCK bytes up to the end of a line, in the memory of the first of `buffers`, which becomes the last.

    Fresh memory for every block would take a tenth of the time in which JSON lines are read. Where somebody still
    holds the block that was there, BytesIO takes other memory.
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
    buffer.write(b"\n")  # it is that long now
    with buffer.getbuffer() as memory:
        size = file.readinto(memory)  # type: ignore[attr-defined]
    buffer.truncate(size)
    return buffer.getvalue()  # no copy


def _unpacked(file: BinaryIO) -> bytes:
    """The same of a file in which one can't go back."""
    block = file.read(BLOCK)
    return block if block.endswith(b"\n") else block + file.readline(LONGEST_LINE)


def _opened(path: Path, raw: BinaryIO) -> BinaryIO:
    return gzip.GzipFile(fileobj=raw) if is_gzipped(path) else raw  # type: ignore[return-value]


def is_gzipped(path: Path) -> bool:
    """Whether the name says so."""
    return path.suffix.lower() == ".gz"


def texts_of(path: Path, progress: Progress | None) -> Iterator[str]:
    """Line by line, with its end; bytes that are no UTF-8 become surrogates, which `is_unicode` finds."""
    for block in blocks_of(path, progress):
        yield from texts_in(block)


def texts_in(block: bytes, errors: str = "surrogateescape") -> Iterator[str]:
    """The lines of a block, as texts_of gives them; with `errors="strict"` other bytes are a UnicodeDecodeError."""
    # Split at \n alone: str.splitlines would also split at characters that a cell may hold.
    return io.TextIOWrapper(io.BytesIO(block), encoding="utf-8", errors=errors, newline="\n")


def is_unicode(text: str) -> bool:
    """Whether the text held nothing but UTF-8 when it was read with surrogates in place of other bytes."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def count_lines(block: bytes) -> int:
    """How many lines there are, one without an end included."""
    ends = (pl.Series(np.frombuffer(block, dtype=np.uint8)) == ord("\n")).sum()  # ten times as fast as block.count
    return int(ends) + (not block.endswith(b"\n") and bool(block))


def middle_of(block: bytes) -> int:
    """Where the line ends that is nearest behind the middle, or else before it; there are at least two lines."""
    cut = block.find(b"\n", len(block) // 2) + 1
    return cut if 0 < cut < len(block) else block.rfind(b"\n", 0, len(block) // 2) + 1 or block.find(b"\n") + 1
