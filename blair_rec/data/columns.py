"""Read the columns of an atomic file as numbers and numbered tokens: in blocks, and line by line only where needed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from blair_rec.lines.atomic import AtomicFile, Block, Column, problem, unquoted

Reject: TypeAlias = Callable[[int, str, str], None]
"""Called with number, reason and text of each line that can't be used; may raise an error."""
Count: TypeAlias = Callable[[int], None]
"""Called with the number of lines of each block, before its lines are checked."""
Tokens: TypeAlias = tuple[np.ndarray, np.ndarray]
"""[R] codes, and the [U] tokens that they index, as an object array."""
ColumnsPart: TypeAlias = "list[Tokens | np.ndarray]"
"""The columns of one block, each as Tokens, [R] float64, or an [R] object array of arrays."""

SMALL_BYTES = 1 << 16
"""A block with a broken line is halved until it is at most this large."""
NUMBER_SIGNS = frozenset("0123456789+-.eE")
TRUTH = re.compile(rb"true|false", re.IGNORECASE)
"""Words that pandas reads as 1 and 0 if a column contains nothing else."""


def read_columns(
    file: AtomicFile, wanted: Sequence[Column], within: str, reject: Reject, count: Count = lambda lines: None
) -> pd.DataFrame:
    """Return the `wanted` columns of every usable line, named by their titles, such as `item_id:token`.

    Tokens become a categorical column in the order in which they appear, with an empty token as a missing value.
    Numbers become float64, the nearest to the written number, and are all finite. Lists become a column of arrays,
    split at `within`. `atomic.problem` defines which cells can't be used.

    Raises:
        AtomicFileError: the text is not in the file's encoding. What `reject` raises is passed on.
    """

    def parts_of(block: Block) -> Iterator[ColumnsPart]:
        if (part := _whole(file, block, wanted, within, count)) is not None:
            yield part
        elif len(block.content) > SMALL_BYTES and (halves := block.halves())[1].content:
            for half in halves:
                yield from parts_of(half)
        else:
            yield _line_by_line(file, block, wanted, within, reject, count)

    parts = [part for block in file.blocks() for part in parts_of(block)]
    joined = {column.title: _joined([part[at] for part in parts], column) for at, column in enumerate(wanted)}
    return pd.DataFrame(joined, copy=False)


def _whole(file: AtomicFile, block: Block, wanted: Sequence[Column], within: str, count: Count) -> ColumnsPart | None:
    """Read a whole block; return None if it must be read line by line."""
    if not file.is_regular(block):
        return None
    types = {column.place: np.float64 if column.kind == "float" else str for column in wanted}
    try:
        frame = _read_csv(block.content, file.separator, types)
    except ValueError:  # a cell that is not a number
        return None
    quotes = b'"' in block.content
    part: ColumnsPart = []
    for column in wanted:
        texts, codes = frame[column.place].to_numpy(), None
        if column.kind == "float":
            if not np.isfinite(texts).all() or (np.isin(texts, (0, 1)).any() and TRUTH.search(block.content)):
                return None
            part.append(texts)
            continue
        if column.kind == "token":
            codes, texts = pd.factorize(texts)
        if quotes:
            texts = _objects([unquoted(text, file.separator) for text in texts])
        if codes is not None:
            if column.needed and not all(map(str.strip, texts.tolist())):
                return None
            part.append((codes, texts))
            continue
        arrays = split_cells(texts, within) if column.kind == "token_seq" else _number_lists(texts, within)
        if arrays is None or (column.needed and not all(map(len, arrays))):
            return None
        part.append(arrays)
    count(len(part[0][0] if isinstance(part[0], tuple) else part[0]))
    return part


def _line_by_line(
    file: AtomicFile, block: Block, wanted: Sequence[Column], within: str, reject: Reject, count: Count
) -> ColumnsPart:
    """Read a block line by line; some lines may be rejected."""
    lines = list(file.lines(block))
    count(len(lines))
    texts: list[list[str]] = [[] for _ in wanted]
    for line in lines:
        problems = (
            [file.misfit(line)]
            if len(line.cells) != len(file.columns)
            else (problem(column, line.cells[column.place], within) for column in wanted)
        )
        if why := next(filter(None, problems), ""):
            reject(line.number, why, line.text)
            continue
        for column, cells in zip(wanted, texts, strict=True):
            cells.append(line.cells[column.place])
    return [_column(column, _objects(cells), within) for column, cells in zip(wanted, texts, strict=True)]


def _column(column: Column, cells: np.ndarray, within: str) -> Tokens | np.ndarray:
    """Convert checked cells to the values of their column's kind."""
    if column.kind == "token":
        return pd.factorize(cells)
    if column.kind == "token_seq":
        return split_cells(cells, within)
    if column.kind == "float":
        return _numbers(cells)
    return split_cells(cells, within, np.float64)


def _numbers(cells: np.ndarray) -> np.ndarray:
    """Return [R] float64 for texts that are numbers, bit-equal to what `_whole` reads."""
    if len(cells) == 0:
        return np.empty(0)
    content = "\n".join(cells).encode() + b"\n"
    return _read_csv(content, "\t", {0: np.float64}).pop(0).to_numpy()


def _read_csv(content: bytes, separator: str, types: Mapping[int, type]) -> pd.DataFrame:
    """Read columns by position; every cell is kept as written."""
    # Fractions and exponents need the slower method, which rounds to the nearest float64; whole numbers don't.
    exact = any(sign in content for sign in (b".", b"e-", b"e+", b"E-", b"E+"))
    return pd.read_csv(
        io.BytesIO(content),
        sep=separator,
        header=None,
        usecols=list(types),
        dtype=types,
        quoting=csv.QUOTE_NONE,
        na_filter=False,
        skip_blank_lines=False,
        lineterminator="\n",
        encoding="utf-8",
        engine="c",
        float_precision="round_trip" if exact else "high",
    )


def _joined(parts: Sequence[Tokens | np.ndarray], column: Column) -> pd.Series | np.ndarray | pd.Categorical:
    """Join the blocks of one column; tokens are renumbered in the order in which they appear."""
    if column.kind == "float":
        return np.concatenate([np.empty(0), *parts])
    if column.kind != "token":
        return pd.Series(np.concatenate([_objects([]), *parts]), dtype=object)
    known = np.concatenate([_objects([]), *(tokens for _, tokens in parts)])
    known[known == ""] = None  # pandas gives None no number
    ids, tokens = pd.factorize(known)
    starts = np.cumsum([0, *(len(tokens) for _, tokens in parts)])
    codes = [ids[start : start + len(known)][codes] for start, (codes, known) in zip(starts, parts, strict=False)]
    return pd.Categorical.from_codes(np.concatenate([np.empty(0, np.int64), *codes]), tokens)


def split_cells(texts: np.ndarray, within: str, dtype: type = object) -> np.ndarray:
    """Split each of [R] texts at `within` into an array of elements, without empty ones; all texts in one pass."""
    padded = [text + within for text in texts]  # keeps the elements of neighbouring texts apart
    flat = _objects("".join(padded).split(within)[:-1])
    kept = flat != ""
    pieces = np.fromiter((text.count(within) for text in padded), dtype=np.int64, count=len(padded))
    ends = np.concatenate([[0], np.cumsum(kept)])[np.cumsum(pieces)]
    return _objects(np.split(flat[kept].astype(dtype), ends[:-1])[: len(padded)])


def _number_lists(texts: np.ndarray, within: str) -> np.ndarray | None:
    """Return [R] texts as an object array of float64 arrays; None if an element may not be a finite number."""
    if not set("".join(texts)) <= NUMBER_SIGNS | set(within):  # float() accepts more than we do, such as 1_0
        return None
    try:
        arrays = split_cells(texts, within, np.float64)
    except ValueError:
        return None
    return arrays if all(np.isfinite(array).all() for array in arrays) else None


def _objects(values: Sequence[object]) -> np.ndarray:
    """Return [R] values as an object array, even if they are arrays."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
