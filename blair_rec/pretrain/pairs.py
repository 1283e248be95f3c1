"""Pairs of texts on disk, read by their place in the file, so that only the current batch is in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blair_rec.errors import PairsError, counted, first_of, out_of
from blair_rec.files.contents import sha256_of
from blair_rec.pretrain.pair_files import open_rows

HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
"""JSON can hold one half of a surrogate pair alone; no tokenizer takes it."""


@dataclass(frozen=True)
class TextPair:
    """One row: a language context, and the item it is about."""

    context: str
    item: str
    hard_negative: str | None
    item_key: int
    """Equal for the same item."""
    context_key: int
    """Equal for the same context."""
    row: int
    """Number of the row in the file, from 0."""
    negative_key: int = -1
    """The item_key of the hard negative; -1 if it is no item of the file, or there is none."""


@dataclass(frozen=True, eq=False)
class TextPairs:
    """Rows of a file of pairs, or some of them; `pairs[i]` reads the row from disk."""

    read: Callable[[int], tuple[str, str, str | None]]
    """Number of a row in the file -> context, item, hard negative."""
    rows: np.ndarray
    """[n] int64: the rows of the file."""
    item_keys: np.ndarray
    """[n] int64."""
    context_keys: np.ndarray
    """[n] int64."""
    sha256: str
    """Hash of the file."""
    negative_keys: np.ndarray | None = None
    """[n] int64: the item keys of the hard negatives; None without hard negatives."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TextPair:
        row = int(self.rows[index])
        negative = -1 if self.negative_keys is None else int(self.negative_keys[index])
        return TextPair(*self.read(row), int(self.item_keys[index]), int(self.context_keys[index]), row, negative)

    def __iter__(self) -> Iterator[TextPair]:
        return (self[index] for index in range(len(self)))

    def take(self, which: np.ndarray) -> TextPairs:
        """Only the rows in `which`: [k] indices or [n] bool."""
        keys = self.item_keys[which], self.context_keys[which]
        negatives = None if self.negative_keys is None else self.negative_keys[which]
        return TextPairs(self.read, self.rows[which], *keys, self.sha256, negatives)

    @property
    def n_items(self) -> int:
        """Number of different items."""
        return len(np.unique(self.item_keys))


def open_pairs(
    path: str | Path, context: str, item: str, item_id: str | None = None, hard_negative: str | None = None
) -> TextPairs:
    """Open a file of pairs: CSV or TSV with a header, JSON lines, or Parquet (see pair_files.open_rows).

    The file is read once, to find and check its rows. For a file of lines, 24 bytes per row stay in memory; for a
    Parquet file, its text columns do. If `item_id` names a column, rows that share the id or the item text belong to
    one item, so that the text of a held-out item is not trained on under another id.

    Raises:
        PairsError: no such file, a missing column, a line that can't be read; rows without text, with half a character,
            or with their own item as hard negative (how many, and where); fewer than two items.
    """
    path = Path(path)
    columns = [context, item, *([hard_negative] if hard_negative else [])]
    if len(set(columns)) < len(columns):
        raise PairsError(
            f"context, item and hard_negative name the columns {', '.join(columns)}; give each text a column of its own"
        )
    text_keys, id_keys, context_keys, negative_keys, empty, broken = [], [], [], [], [], []
    asked = [*columns, *([item_id] if item_id else [])]
    read, rows = open_rows(path, asked)
    for number, values in enumerate(rows, start=1):
        if not all(value.strip() for value in values):
            empty.append(f"row {number}")
        if any(map(HALF_A_CHARACTER.search, values)):
            broken.append(f"row {number}")
            continue
        context_keys.append(_key(values[0]))
        text_keys.append(_key(values[1]))
        if hard_negative:
            negative_keys.append(_key(values[2]))
        if item_id:
            id_keys.append(_key(values[-1]))
    total = len(text_keys) + len(broken)
    if broken:
        raise PairsError(
            f"{path}: {out_of(len(broken), total, 'pair', 'hold')} half of a surrogate pair, which isn't a character "
            f"({first_of(broken)}); leave those rows out"
        )
    if empty:
        raise PairsError(
            f"{path}: {out_of(len(empty), total, 'pair', 'have')} an empty {' or '.join(asked)} "
            f"({first_of(empty)}); leave those rows out"
        )
    texts = np.array(text_keys, dtype=np.int64)
    items = _joined(id_keys, text_keys) if item_id else texts
    pairs = TextPairs(
        lambda row: _three(*read(row)[: len(columns)]),
        np.arange(len(texts)),
        items,
        np.array(context_keys, dtype=np.int64),
        sha256_of(path),
        _items_of(np.array(negative_keys, dtype=np.int64), texts, items) if hard_negative else None,
    )
    own = np.flatnonzero(pairs.item_keys == (-1 if pairs.negative_keys is None else pairs.negative_keys))
    if len(own):
        raise PairsError(
            f"{path}: {out_of(len(own), total, 'pair', 'have')} the pair's own item as {hard_negative} "
            f"({first_of([f'row {row + 1}' for row in own[:3]])}); name a similar but wrong item there, or leave those "
            "rows out"
        )
    if pairs.n_items < 2:
        raise PairsError(
            f"{path}: {counted(len(pairs), 'pair')} of {counted(pairs.n_items, 'item')}; contrast needs at least two "
            "items"
        )
    return pairs


def split_pairs(pairs: TextPairs, held_out: float, seed: int) -> tuple[TextPairs, TextPairs]:
    """Split into (training, held out): a random share of the items is held out, with all their pairs.

    A row is also removed from training if its context belongs to a held-out item, too, or if its hard negative is the
    text of one. So no text is on both sides.

    Raises:
        PairsError: fewer than two items would be left to train on.
    """
    items = np.unique(pairs.item_keys)
    count = min(max(round(held_out * len(items)), 1), len(items)) if held_out else 0
    chosen = np.random.default_rng(seed).permutation(items)[:count]
    out = np.isin(pairs.item_keys, chosen)
    shared = np.isin(pairs.context_keys, pairs.context_keys[out])
    if pairs.negative_keys is not None:
        shared |= np.isin(pairs.negative_keys, chosen)
    training = pairs.take(~out & ~shared)
    if training.n_items < 2:
        raise PairsError(
            f"holding out {count} of {counted(len(items), 'item')} leaves {counted(len(training), 'pair')} of "
            f"{counted(training.n_items, 'item')} to train on; lower held_out, or bring more items"
        )
    return training, pairs.take(out)


def _three(context: str, item: str, hard_negative: str | None = None) -> tuple[str, str, str | None]:
    return context, item, hard_negative


def _joined(ids: list[int], texts: list[int]) -> np.ndarray:
    """[n] int64: equal for rows that share an id or a text, directly or through other rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    distinct, id_of = np.unique(ids, return_inverse=True)
    others, text_of = np.unique(texts, return_inverse=True)
    size = len(distinct) + len(others)
    edges = coo_array((np.ones(len(ids), dtype=bool), (id_of, len(distinct) + text_of)), shape=(size, size))
    item_of: np.ndarray = connected_components(edges, directed=False)[1]
    return item_of[id_of].astype(np.int64)


def _items_of(texts: np.ndarray, known: np.ndarray, items: np.ndarray) -> np.ndarray:
    """[n] int64: the item of each text, looked up in `known` texts and their `items`; -1 if there is none."""
    distinct, first = np.unique(known, return_index=True)
    place = np.searchsorted(distinct, texts).clip(max=len(distinct) - 1)
    return np.where(distinct[place] == texts, items[first[place]], -1)


def _key(text: str) -> int:
    """A 63-bit hash of a text, equal for equal texts in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
