"""Pairs of texts on disk: found by their place in the file, so that none but the batch at work is in memory."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import PairsError, first_of
from blair_rec.extras import need
from blair_rec.files import sha256_of


@dataclass(frozen=True)
class Pair:
    """One row: what somebody says, and the item it is about."""

    context: str
    item: str
    hard_negative: str | None
    item_key: int
    """Equal for the same item."""
    context_key: int
    """Equal for the same context."""
    row: int
    """Of the file."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of a file of pairs, or some of them; `pairs[i]` reads the row from disk."""

    read: Callable[[int], tuple[str, str, str | None]]
    """Row of the file -> context, item, hard negative."""
    rows: np.ndarray
    """[n] int64: which rows of the file."""
    item_keys: np.ndarray
    """[n] int64."""
    context_keys: np.ndarray
    """[n] int64."""
    sha256: str
    """Of the file."""
    negative_keys: np.ndarray | None = None
    """[n] int64: the keys of the items whose text the hard negatives are; None without hard negatives."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pair:
        row = int(self.rows[index])
        return Pair(*self.read(row), int(self.item_keys[index]), int(self.context_keys[index]), row)

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))

    def take(self, which: np.ndarray) -> Pairs:
        """Those rows alone: [k] indices or [n] bool."""
        keys = self.item_keys[which], self.context_keys[which]
        negatives = None if self.negative_keys is None else self.negative_keys[which]
        return Pairs(self.read, self.rows[which], *keys, self.sha256, negatives)

    @property
    def n_items(self) -> int:
        """How many different items."""
        return len(np.unique(self.item_keys))


def open_pairs(
    path: str | Path, context: str, item: str, item_id: str | None = None, hard_negative: str | None = None
) -> Pairs:
    """The rows of a TSV (header, no quoting), JSON lines (.jsonl) or Parquet (.parquet) file.

    The file is read through once, to find its rows and to check them; of a TSV or JSON lines file 24 bytes a row stay
    in memory, of a Parquet file its text columns in Arrow's memory. Where `item_id` names a column, rows that share the
    id or the text are of one item: else the text of a held-out id could be trained on under another.

    Raises:
        PairsError: no such file, a missing column, rows without text (how many, and where), fewer than two items.
    """
    path = Path(path)
    if not path.is_file():
        raise PairsError(f"{path}: no such file; `pairs` names a TSV, .jsonl or .parquet file")
    columns = [context, item, *([hard_negative] if hard_negative else [])]
    reader = {".jsonl": _json_lines, ".parquet": _parquet}.get(path.suffix, _tsv)
    text_keys, id_keys, context_keys, negative_keys, empty = [], [], [], [], []
    try:
        read, fields = reader(path, [*columns, *([item_id] if item_id else [])])
        for row, values in enumerate(fields):
            if not all(value.strip() for value in values):
                empty.append(f"row {row + 1}")
            context_keys.append(_key(values[0]))
            text_keys.append(_key(values[1]))
            if hard_negative:
                negative_keys.append(_key(values[2]))
            if item_id:
                id_keys.append(_key(values[-1]))
    except UnicodeDecodeError as error:
        raise PairsError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    if empty:
        raise PairsError(
            f"{path}: {len(empty)} of {len(text_keys)} pairs have an empty {' or '.join(columns)} "
            f"({first_of(empty)}); leave those rows out"
        )
    texts = np.array(text_keys, dtype=np.int64)
    items = _joined(id_keys, text_keys) if item_id else texts
    pairs = Pairs(
        lambda row: _three(read(row), len(columns)),
        np.arange(len(texts)),
        items,
        np.array(context_keys, dtype=np.int64),
        sha256_of(path),
        _items_of(np.array(negative_keys, dtype=np.int64), texts, items) if hard_negative else None,
    )
    if pairs.n_items < 2:
        raise PairsError(f"{path}: {len(pairs)} pairs of {pairs.n_items} item; contrast needs at least two items")
    return pairs


def split_pairs(pairs: Pairs, held_out: float, seed: int) -> tuple[Pairs, Pairs]:
    """(training, held out): a share of the items, drawn by lot, is held out with all its pairs.

    A row whose context is also said of a held-out item, or whose hard negative is the text of one, leaves the training
    part, too, so that no text is on both sides.

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
            f"holding out {count} of {len(items)} items leaves {len(training)} pairs of {training.n_items} items to "
            "train on; lower held_out, or bring more items"
        )
    return training, pairs.take(out)


Reader = tuple[Callable[[int], list[str]], Iterator[list[str]]]
"""Row -> its fields, and the fields of all rows in order."""


def _tsv(path: Path, columns: list[str]) -> Reader:
    with path.open("rb") as file:
        header = file.readline().decode("utf-8").rstrip("\r\n").split("\t")
    _check_columns(path, columns, header)
    places = [header.index(column) for column in columns]

    def fields(line: bytes) -> list[str]:
        values = next(csv.reader([line.decode("utf-8").rstrip("\r\n")], delimiter="\t", quoting=csv.QUOTE_NONE))
        if len(values) != len(header):
            raise PairsError(f"{path}: a row has {len(values)} columns, the header {len(header)}: {values[:1]}")
        return [values[place] for place in places]

    return _by_lines(path, fields, skip=1)


def _json_lines(path: Path, columns: list[str]) -> Reader:
    def fields(line: bytes) -> list[str]:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise PairsError(f"{path}: a line is no JSON ({error.msg}): {line[:60]!r}") from None
        _check_columns(path, columns, record if isinstance(record, dict) else [])
        return [str(record[column] or "") for column in columns]

    return _by_lines(path, fields, skip=0)


def _by_lines(path: Path, fields: Callable[[bytes], list[str]], skip: int) -> Reader:
    """Random access to the lines of a file, by where each begins; empty lines are no rows."""
    starts: list[int] = []

    def scan() -> Iterator[list[str]]:
        at = 0
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if number >= skip and line.strip():
                    starts.append(at)
                    yield fields(line)
                at += len(line)

    def read(row: int) -> list[str]:
        with path.open("rb") as file:
            file.seek(starts[row])
            return fields(file.readline())

    return read, scan()


def _parquet(path: Path, columns: list[str]) -> Reader:
    need("pyarrow", "parquet", "reading Parquet")
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise PairsError(f"{path}: no Parquet file ({error})") from None
    _check_columns(path, columns, file.schema_arrow.names)
    table = file.read(columns=columns)

    def read(row: int) -> list[str]:
        return [str(table[column][row].as_py() or "") for column in columns]

    return read, (read(row) for row in range(table.num_rows))


def _check_columns(path: Path, columns: list[str], known: Any) -> None:
    if missing := [column for column in columns if column not in known]:
        raise PairsError(f"{path}: no column {', '.join(map(repr, missing))}; there are: {', '.join(known) or 'none'}")


def _three(values: list[str], n_texts: int) -> tuple[str, str, str | None]:
    return values[0], values[1], values[2] if n_texts == 3 else None


def _joined(ids: list[int], texts: list[int]) -> np.ndarray:
    """[n] int64: equal for rows that have an id or a text in common, or hang together by other rows that have."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    distinct, id_of = np.unique(ids, return_inverse=True)
    others, text_of = np.unique(texts, return_inverse=True)
    size = len(distinct) + len(others)
    edges = coo_array((np.ones(len(ids), dtype=bool), (id_of, len(distinct) + text_of)), shape=(size, size))
    item_of: np.ndarray = connected_components(edges, directed=False)[1]
    return item_of[id_of].astype(np.int64)


def _items_of(texts: np.ndarray, known: np.ndarray, items: np.ndarray) -> np.ndarray:
    """[n] int64: the item of each text by `known` texts and their `items`; -1 for the text of none."""
    distinct, first = np.unique(known, return_index=True)
    place = np.searchsorted(distinct, texts).clip(max=len(distinct) - 1)
    return np.where(distinct[place] == texts, items[first[place]], -1)


def _key(text: str) -> int:
    """63 bits of a text: equal for equal texts, in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
