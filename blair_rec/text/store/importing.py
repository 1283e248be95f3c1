"""Vectors that another tool made -> a store, after checks of widths, types and ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import StoreError, agreed, counted, first_of, out_of
from blair_rec.extras import need
from blair_rec.lines.arrays import load_array
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.text.store.exchange import ITEM, PAD, RECBOLE_HEADER, VECTOR, beside_of
from blair_rec.text.store.writer import check_dtype, refuse_replacing, write_store

Read = tuple[Sequence[str], np.ndarray]
"""The item token of each row, and [rows, text_dim] float32."""


def import_store(
    path: str | Path,
    out: str | Path,
    *,
    encoder: str,
    ids: str | Path | None = None,
    dtype: str = "float32",
    fresh: bool = False,
) -> EmbeddingStore:
    """Make a store at `out` from vectors that another tool made, in one of the formats of export_store.

    `encoder` is the name to record for what made the vectors. `ids` is the second file of the format, if it isn't next
    to `path` under the same name: `.data_maps`, or for .npy a JSON list or a text file with one id per line. Ids that
    are whole numbers become text: 7 is "7". The texts that the vectors were made from are unknown, so nothing is ever
    encoded into such a store. An existing store at `out` is replaced only if `fresh`.


    Raises StoreError for files that can't be read or don't fit each other, for vectors that aren't finite numbers, and
    for invalid item ids; OutputError if `out` is a store already; and as write_store does.
    """
    check_dtype(dtype)
    path = Path(path)
    readers: dict[str, Callable[[Path, Path], Read]] = {
        ".npy": _read_npy, ".parquet": _read_parquet, ".feature": _read_feature, ".itememb": _read_itememb,
    }  # fmt: skip
    if path.suffix not in readers:
        raise StoreError(f"{path}: unknown kind of file; known endings: {', '.join(readers)}")
    beside = Path(ids) if ids else beside_of(path)
    for file in (path, beside):
        if file is not None and not file.is_file():
            both = "this format needs both files, and --ids names the second one" if beside else "check the path"
            raise StoreError(f"{file} is not there; {both}")
    if not fresh:
        refuse_replacing(out)
    try:
        item_tokens, vectors = readers[path.suffix](path, beside or path)
    except OSError as error:
        raise StoreError(f"{path} can't be read ({error.strerror or error}); export it again") from error
    _refuse_broken(path, item_tokens, vectors)
    made = {"name": encoder, "asked_for": encoder, "revision": None, "pooling": None, "max_length": None, "dtype": None}
    template = {"name": "imported", "version": 1, "fields": [path.name]}
    return write_store(out, item_tokens, vectors, encoder=made, template=template, dtype=dtype)


def _refuse_broken(path: Path, item_tokens: Sequence[str], vectors: np.ndarray) -> None:
    """Raise StoreError if there are no vectors, or if they have no numbers or are not finite."""
    if not vectors.size:
        raise StoreError(
            f"{path} holds {counted(vectors.shape[0], 'vector')} of width {vectors.shape[1]}; there is nothing to store"
        )
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    if broken:
        first = ", ".join(f"row {row + 1}, item {item_tokens[row]!r}" for row in broken[:3])
        raise StoreError(
            f"{path}: {out_of(len(broken), len(vectors), 'vector', 'hold')} NaN, infinity, or numbers too large for "
            f"float32 (first: {first}); leave those items out, or make new vectors for them"
        )


def _tokens(values: Iterable[Any], where: str) -> list[str]:
    """Turn the ids of a file into item tokens; `where` names the file. Raises StoreError for an invalid id."""
    tokens: list[str] = []
    rows: dict[str, int] = {}
    for row, value in enumerate(values, start=1):
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            said = "missing" if value is None or value != value else f"{value!r}, a {type(value).__name__}"
            raise StoreError(f"{where}, row {row}: the item id is {said}; ids have to be text or whole numbers")
        if not value or "\0" in value:
            said = "empty" if not value else f"{value!r}, which holds a NUL character"
            raise StoreError(f"{where}, row {row}: the item id is {said}; every vector needs the id of its item")
        if value in rows:
            raise StoreError(f"{where}, row {row}: item {value!r} is in row {rows[value]} already; keep one of the two")
        rows[value] = row
        tokens.append(value)
    return tokens


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not JSON ({_short(error)}); write it again") from error


def _short(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


# .npy, and a list of ids


def _read_npy(path: Path, ids: Path) -> Read:
    item_tokens = _listed(ids)
    array = _array(path)
    if array.ndim != 2:
        raise StoreError(
            f"{path} holds numbers of shape {list(array.shape)}; it has to be [items, width], one row per item"
        )
    if len(array) != len(item_tokens):
        raise StoreError(
            f"{path} holds {counted(len(array), 'row')}, but {ids} has "
            f"{counted(len(item_tokens), 'item id')}{_padding(array, item_tokens)}"
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
        return item_tokens, array.astype(np.float32)


def _listed(path: Path) -> list[str]:
    """Item ids from a JSON list or, in a file with another ending, from lines with one id each."""
    if path.suffix == ".json":
        content = _json(path)
        if not isinstance(content, list):
            raise StoreError(
                f"{path} holds a {type(content).__name__}; it has to be a JSON list with the item id of each row, in "
                'the order of the rows, such as ["a", "b"]'
            )
        return _tokens(content, str(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is not UTF-8 ({_short(error)}); it has to be text, one item id per line") from error
    return _tokens(text.replace("\r\n", "\n").removesuffix("\n").split("\n"), str(path))


def _array(path: Path) -> np.ndarray:
    """Memory-map the array of a .npy file, and check that its numbers are real."""
    with path.open("rb") as file:
        if file.read(6) != np.lib.format.MAGIC_PREFIX:
            raise StoreError(f"{path} is not a .npy file; write it with numpy.save(path, array)")
    try:
        array: np.ndarray = load_array(path)
    except ValueError as error:
        if "Python objects" in str(error) or "Object arrays" in str(error):
            raise StoreError(
                f"{path} holds Python objects, which are never loaded: they can run code; save plain numbers with "
                "numpy.save(path, numpy.stack(vectors).astype('float32'))"
            ) from error
        raise StoreError(f"{path} can't be read ({_short(error)}); write it again with numpy.save") from error
    if array.dtype.kind not in "fiu":
        raise StoreError(f"{path} holds {array.dtype}; vectors are real numbers, such as float32")
    return array


def _padding(array: np.ndarray, item_tokens: Sequence[str]) -> str:
    """Advice if the counts differ; one row too many is often that of a padding item."""
    if len(array) != len(item_tokens) + 1:
        return "; both have to hold the same items, in the same order"
    for name, row, kept in (("first", 0, "[1:]"), ("last", -1, "[:-1]")):
        if not np.any(array[row]):
            return f": its {name} row is all zeros, like that of a padding item; save array{kept}"
    return "; the extra row may be that of a padding item: save the array without it"


# Parquet


def _read_parquet(path: Path, _: Path) -> Read:
    need("pyarrow", "parquet", "reading Parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for name in (ITEM, VECTOR):
                if (count := file.schema_arrow.names.count(name)) != 1:
                    known = first_of(file.schema_arrow.names, 9) or "none"
                    raise StoreError(f"{path}: {count} columns are called {name}, not one; columns: {known}")
            table = file.read(columns=[ITEM, VECTOR])
        table.validate(full=True)
        return _tokens(_ids(table.column(ITEM), path), str(path)), _vectors(table.column(VECTOR), path)
    except (pa.ArrowException, ValueError, KeyError, TypeError, OverflowError, UnicodeDecodeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path} can't be read ({_short(error)}); export it again") from error


def _ids(column: Any, path: Path) -> list[Any]:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_floating(kind):
        raise StoreError(
            f"{path}: the column {ITEM} holds {kind} numbers, which can't be ids: 7 would become 7.0; write ids as "
            "text or whole numbers"
        )
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        if not (pa.types.is_null(kind) or "string_view" in str(kind)):
            raise StoreError(f"{path}: the column {ITEM} holds {kind}; ids have to be text or whole numbers")
    values: list[Any] = column.to_pylist()
    return values


def _vectors(column: Any, path: Path) -> np.ndarray:
    """[rows, width] float32 of a column of lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise StoreError(f"{path}: the column {VECTOR} holds {kind}; it has to hold lists of numbers")
    if missing := column.null_count:
        row = pc.index(pc.is_null(column), True).as_py() + 1
        raise StoreError(
            f"{path}: {counted(missing, 'row')} {agreed(missing, 'have')} no vector (first: row "
            f"{row}); leave these items out"
        )
    widths = pc.list_value_length(column).to_numpy()
    if len(other := np.flatnonzero(widths != widths[:1])):
        raise StoreError(
            f"{path}, row {other[0] + 1}: a vector of {widths[other[0]]} numbers, where row 1 has {widths[0]} "
            f"({counted(len(other), 'row')} of another width); all vectors need the same width"
        )
    flat = [chunk.flatten() for chunk in column.chunks]
    if missing := sum(chunk.null_count for chunk in flat):
        raise StoreError(
            f"{path}: {counted(missing, 'number')} inside the vectors {agreed(missing, 'are')} "
            "missing; fill them in, or leave the items out"
        )
    with np.errstate(over="ignore"):
        numbers = [chunk.to_numpy(zero_copy_only=False).astype(np.float32) for chunk in flat]
    width = int(widths[0]) if len(widths) else 0
    return np.concatenate([*numbers, np.empty(0, np.float32)]).reshape(len(widths), width)


# .feature and .data_maps


def _read_feature(path: Path, ids: Path) -> Read:
    content = _json(ids)
    item2id = content.get("item2id") if isinstance(content, dict) else None
    if not isinstance(item2id, dict):
        raise StoreError(f"{ids} has no item2id that numbers the items; name the .data_maps file of {path.name}")
    numbers = list(item2id.values())
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise StoreError(f"{ids}: item2id holds values other than whole numbers; name the .data_maps of {path.name}")
    by_id = sorted((number, token) for token, number in item2id.items())
    if [number for number, _ in by_id] != list(range(len(by_id))) or by_id[:1] != [(0, PAD)]:
        raise StoreError(f"{ids}: item2id does not number the items from 1 to {len(by_id) - 1}, with {PAD} as 0")
    items = len(by_id) - 1
    size = path.stat().st_size
    if not items or size == 0 or size % (4 * items):
        raise StoreError(
            f"{path} holds {counted(size, 'byte')}, which is not a whole number of float32 vectors for the "
            f"{counted(items, 'item')} of {ids}: the two files don't belong together, or one is cut off"
        )
    flat = np.fromfile(path, "<f4")
    width = len(flat) // (items + 1)
    if len(flat) % (items + 1) == 0 and not flat[:width].any() and flat[width : 2 * width].any():
        raise StoreError(
            f"{path} begins with {counted(width, 'zero')}, and its size is that of {counted(items + 1, 'vector')}: the "
            "first row is that of a padding item, which this format leaves out; write the file without that row"
        )
    # Row = id - 1: upstream writes no row for the padding.
    return _tokens([token for _, token in by_id[1:]], str(ids)), flat.reshape(items, -1)


# .itememb


def _read_itememb(path: Path, _: Path) -> Read:
    values: list[str] = []
    vectors: list[np.ndarray] = []
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            kinds = [column.partition(":")[2] for column in file.readline().rstrip("\r\n").split("\t")]
            if kinds != ["token", "float_seq"]:
                raise StoreError(
                    f"{path}: the first line names the types {kinds}; it has to be {RECBOLE_HEADER.strip()!r}"
                )
            for number, line in enumerate(file, start=2):
                token, _tab, numbers = line.rstrip("\r\n").partition("\t")
                vector = np.array([_number(text, path, number) for text in numbers.split(" ")], dtype=np.float64)
                if vectors and len(vector) != len(vectors[0]):
                    raise StoreError(
                        f"{path}, line {number}: {counted(len(vector), 'number')}, where line 2 has {len(vectors[0])}; "
                        "all vectors need the same width"
                    )
                values.append(token)
                with np.errstate(over="ignore"):
                    vectors.append(vector.astype(np.float32))
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is not UTF-8 ({_short(error)}); write it again") from error
    if not vectors:
        raise StoreError(f"{path} holds no vector")
    return _tokens(values, str(path)), np.stack(vectors)


def _number(text: str, path: Path, line: int) -> float:
    try:
        if "_" not in text:  # Python reads 1_0 as 10, other tools don't
            return float(text)
    except ValueError:
        pass
    raise StoreError(f"{path}, line {line}: {text[:40]!r} is not a number; numbers are separated by one space")
