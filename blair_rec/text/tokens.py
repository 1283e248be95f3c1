"""Millions of item tokens on disk, looked up by row or by token without reading them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

Digests = np.ndarray
"""[n, 2] uint64: 128 bits of BLAKE2b for each text, enough that equal digests mean equal texts."""

NO_DIGESTS: Digests = np.empty((0, 2), dtype="<u8")


def digests(texts: Iterable[str]) -> Digests:
    """The digest of each text."""
    return np.frombuffer(b"".join(blake2b(_bytes(text), digest_size=16).digest() for text in texts), "<u8").reshape(
        -1, 2
    )


@dataclass(frozen=True, eq=False)
class DigestIndex:
    """Rows found again by digest."""

    table: np.ndarray
    """[3, n] uint64: both halves of the digests, in ascending order, and the row of each."""

    @classmethod
    def of(cls, keys: Digests) -> DigestIndex:
        """The index of a table of digests."""
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        return cls(np.stack([keys[order, 0], keys[order, 1], order.astype("<u8")]))

    def find(self, keys: Digests) -> np.ndarray:
        """[len(keys)] int64: the first row with each digest; -1 for digests that aren't there."""
        high, low, row = self.table
        rows = np.full(len(keys), -1, dtype=np.int64)
        left = np.arange(len(keys))
        at = np.searchsorted(high, keys[:, 0])
        while len(left):
            alike = at < len(high)
            alike[alike] = high[at[alike]] == keys[left[alike], 0]
            left, at = left[alike], at[alike]
            found = low[at] == keys[left, 1]
            rows[left[found]] = row[at[found]]
            left, at = left[~found], at[~found] + 1  # only the first half matches: look at the next one
        return rows

    def first_rows(self) -> np.ndarray:
        """[distinct] int64, ascending: the first row of each distinct digest."""
        new = np.ones(self.table.shape[1], dtype=bool)
        new[1:] = (self.table[:2, 1:] != self.table[:2, :-1]).any(axis=0)
        return np.sort(self.table[2, new].astype(np.int64))


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Item tokens by row and rows by item token."""

    blob: np.ndarray
    """uint8: all tokens in UTF-8, one after the other."""
    ends: np.ndarray
    """[n + 1] int64: token i is blob[ends[i] : ends[i + 1]]."""
    index: DigestIndex

    @classmethod
    def of(cls, item_tokens: Iterable[str]) -> TokenTable:
        """The table of these tokens, in this order."""
        tokens = list(item_tokens)
        encoded = [_bytes(token) for token in tokens]
        ends = np.zeros(len(encoded) + 1, dtype="<i8")
        np.cumsum([len(token) for token in encoded], out=ends[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends, DigestIndex.of(digests(tokens)))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def find(self, item_tokens: Sequence[str]) -> np.ndarray:
        """[len(item_tokens)] int64 rows; -1 for tokens that aren't there."""
        return self.index.find(digests(item_tokens))

    def at(self, rows: Iterable[int]) -> list[str]:
        """The tokens of these rows."""
        return [_text(self.blob[self.ends[row] : self.ends[row + 1]].tobytes()) for row in rows]

    def between(self, first: int, last: int) -> tuple[str, ...]:
        """The tokens of rows first to last - 1."""
        ends = self.ends[first : last + 1].tolist()
        blob = self.blob[ends[0] : ends[-1]].tobytes()
        return tuple(_text(blob[a - ends[0] : b - ends[0]]) for a, b in zip(ends[:-1], ends[1:], strict=True))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may hold half of a surrogate pair


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
