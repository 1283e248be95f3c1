"""Stores from and for other tools: raw .feature files, .npy with ids, Parquet, RecBole's additional features."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import OutputError, StoreError, first_of
from blair_rec.extras import need
from blair_rec.files import partial_of, replace_file
from blair_rec.text.store import EmbeddingStore
from blair_rec.text.store_writer import write_store

PAD = "[PAD]"
"""Upstream's name of the item with id 0, which has no row."""
ITEM, VECTOR = "item_id", "vector"
"""Columns of a Parquet file."""
RECBOLE_HEADER = "iid:token\titem_emb:float_seq\n"
"""As RecBole's `additional_feat_suffix` and `alias_of_item_id: [iid]` want it."""
ROWS = 4096
"""Rows written at once."""


def export_store(store: EmbeddingStore, path: str | Path) -> list[Path]:
    """Write a store's vectors as float32 in the way that the ending of `path` says, and return the files.

    `.npy`: the matrix, and the item tokens as a JSON list in `.ids.json` beside it. `.parquet`: columns item_id and
    vector. `.feature`: the raw matrix, and `.data_maps` beside it, as hyp1231/AmazonReviews2023 reads them (row = id -
    1; id 0 is [PAD]). `.itememb`: RecBole's additional feature file.

    Raises StoreError for an unknown ending, or tokens that the format can't hold; OutputError for files that are there
    already or can't be written; MissingExtra without pyarrow.
    """
    path = Path(path)
    writers: dict[str, Callable[[EmbeddingStore, Path], None]] = {
        ".npy": _write_npy, ".parquet": _write_parquet, ".feature": _write_feature, ".itememb": _write_itememb,
    }  # fmt: skip
    if path.suffix not in writers:
        raise StoreError(f"{path}: unknown kind of file; known endings: {', '.join(writers)}")
    files = [path, *([beside] if (beside := _beside(path)) else [])]
    if there := [str(file) for file in files if file.exists()]:
        raise OutputError(f"{first_of(there)} is there already; choose another name")
    partial = [partial_of(file) for file in files]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[path.suffix](store, path)
        for file, complete in zip(partial, files, strict=True):
            replace_file(file, complete)
    except OSError as error:
        raise OutputError(f"{path} can't be written ({error.strerror}); make room, or choose another place") from error
    finally:
        for file in partial:
            file.unlink(missing_ok=True)
    return files


def import_store(
    path: str | Path, out: str | Path, *, encoder: str, ids: str | Path | None = None, dtype: str = "float32"
) -> EmbeddingStore:
    """A store at `out` of vectors that another tool made, in one of the formats of export_store.

    `encoder` is the name to record for what made them; `ids` is the `.ids.json` or `.data_maps` file, if it doesn't
    stand beside `path` under the same name. What texts they were made from is unknown: such a store is only read.

    Raises StoreError for files that can't be read or don't fit each other, and as write_store does.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path, Path | None], tuple[Sequence[str], np.ndarray]]] = {
        ".npy": _read_npy, ".parquet": _read_parquet, ".feature": _read_feature, ".itememb": _read_itememb,
    }  # fmt: skip
    if path.suffix not in readers:
        raise StoreError(f"{path}: unknown kind of file; known endings: {', '.join(readers)}")
    beside = Path(ids) if ids else _beside(path)
    for file in (path, beside):
        if file is not None and not file.is_file():
            raise StoreError(f"{file} is not there; the format takes both files, and --ids names the second one")
    try:
        item_tokens, vectors = readers[path.suffix](path, beside)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path} can't be read ({error}); export it again") from error
    made = {"name": encoder, "asked_for": encoder, "revision": None, "pooling": None, "max_length": None, "dtype": None}
    template = {"name": "imported", "version": 1, "fields": [path.name]}
    return write_store(out, item_tokens, vectors, encoder=made, template=template, dtype=dtype)


def _beside(path: Path) -> Path | None:
    """The second file of a format that has two: what the rows of the first one are."""
    if path.suffix == ".feature":  # upstream: All_Beauty.blair-roberta-base.feature and All_Beauty.data_maps
        return path.with_name(f"{path.name.removesuffix('.feature').partition('.')[0]}.data_maps")
    return path.with_suffix(".ids.json") if path.suffix == ".npy" else None


def _open(path: Path, mode: str = "wb") -> Any:
    """A file under its temporary name."""
    return partial_of(path).open(mode, encoding=None if "b" in mode else "utf-8")


def _write_json(path: Path, content: Any) -> None:
    with _open(path, "w") as file:
        json.dump(content, file)


def _write_npy(store: EmbeddingStore, path: Path) -> None:
    with _open(path) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": store.vectors.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in store.blocks(ROWS):
            file.write(np.ascontiguousarray(block).data)
    _write_json(path.with_suffix(".ids.json"), store.item_tokens)


def _read_npy(path: Path, ids: Path | None) -> tuple[Sequence[str], np.ndarray]:
    assert ids is not None
    item_tokens = json.loads(ids.read_text(encoding="utf-8"))
    if not (isinstance(item_tokens, list) and all(isinstance(token, str) for token in item_tokens)):
        raise StoreError(f"{ids} is no list of item tokens")
    return item_tokens, np.load(path, mmap_mode="r", allow_pickle=False).astype(np.float32)


def _write_feature(store: EmbeddingStore, path: Path) -> None:
    if PAD in store.item_tokens:
        raise StoreError(f"an item is called {PAD}, which means padding in .data_maps; rename it")
    with _open(path) as file:
        for block in store.blocks(ROWS):
            file.write(np.ascontiguousarray(block).data)
    id2item = [PAD, *store.item_tokens]
    beside = _beside(path)
    assert beside is not None
    _write_json(beside, {"item2id": {token: number for number, token in enumerate(id2item)}, "id2item": id2item})


def _read_feature(path: Path, ids: Path | None) -> tuple[Sequence[str], np.ndarray]:
    assert ids is not None
    item2id = json.loads(ids.read_text(encoding="utf-8"))["item2id"]
    by_id = sorted((int(number), token) for token, number in item2id.items())
    if [number for number, _ in by_id] != list(range(len(by_id))) or by_id[:1] != [(0, PAD)]:
        raise StoreError(f"{ids}: item2id does not number the items from 1 to {len(by_id) - 1}, with {PAD} as 0")
    items = len(by_id) - 1
    size = path.stat().st_size
    if not items or size == 0 or size % (4 * items):
        raise StoreError(
            f"{path} holds {size} bytes, which is no whole number of float32 vectors for the {items} items of {ids}: "
            "the two files don't belong together, or one is cut off"
        )
    # Row = id - 1: upstream writes no row for the padding.
    return [token for _, token in by_id[1:]], np.fromfile(path, "<f4").reshape(items, -1)


def _write_parquet(store: EmbeddingStore, path: Path) -> None:
    need("pyarrow", "parquet", "writing Parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(ITEM, pa.string()), (VECTOR, pa.list_(pa.float32(), store.text_dim))])
    with _open(path) as file, pq.ParquetWriter(file, schema) as writer:
        for item_tokens, block in _with_tokens(store):
            flat = pa.array(np.ascontiguousarray(block).ravel())
            columns = [pa.array(item_tokens, pa.string()), pa.FixedSizeListArray.from_arrays(flat, store.text_dim)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _read_parquet(path: Path, ids: Path | None) -> tuple[Sequence[str], np.ndarray]:
    need("pyarrow", "parquet", "reading Parquet")
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=[ITEM, VECTOR])
    item_tokens = table.column(ITEM).to_pylist()
    vectors = table.column(VECTOR).combine_chunks()
    if vectors.null_count or None in item_tokens:
        raise StoreError(f"{path}: {vectors.null_count or item_tokens.count(None)} rows have no vector or no item")
    flat = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    if not item_tokens or len(flat) % len(item_tokens):
        raise StoreError(f"{path}: {len(flat)} numbers for {len(item_tokens)} items; vectors have one width")
    return item_tokens, flat.reshape(len(item_tokens), -1)


def _write_itememb(store: EmbeddingStore, path: Path) -> None:
    if odd := [token for token in store.item_tokens if not token or set(token) & set("\t\n\r")]:
        raise StoreError(
            f"{len(odd)} of {len(store)} item tokens are empty or hold a tab or line end (first: {odd[0]!r}), which "
            "RecBole's files can't hold; export to .npy or .parquet"
        )
    with _open(path, "w") as file:
        file.write(RECBOLE_HEADER)
        for item_tokens, block in _with_tokens(store):
            for token, vector in zip(item_tokens, block, strict=True):
                file.write(f"{token}\t{' '.join(map(repr, vector.tolist()))}\n")


def _read_itememb(path: Path, ids: Path | None) -> tuple[Sequence[str], np.ndarray]:
    item_tokens: list[str] = []
    vectors: list[np.ndarray] = []
    with path.open(encoding="utf-8", newline="\n") as file:
        kinds = [column.partition(":")[2] for column in file.readline().rstrip("\r\n").split("\t")]
        if kinds != ["token", "float_seq"]:
            raise StoreError(f"{path}: the first line names {kinds}; it has to be {RECBOLE_HEADER.strip()!r}")
        for number, line in enumerate(file, start=2):
            token, tab, numbers = line.rstrip("\r\n").partition("\t")
            vector = np.array(numbers.split(" "), dtype=np.float32)
            if not tab or (vectors and len(vector) != len(vectors[0])):
                raise StoreError(
                    f"{path}, line {number}: {len(vector)} numbers; all vectors have the width of the first"
                )
            item_tokens.append(token)
            vectors.append(vector)
    return item_tokens, np.array(vectors, dtype=np.float32).reshape(len(vectors), -1)


def _with_tokens(store: EmbeddingStore) -> Iterator[tuple[Sequence[str], np.ndarray]]:
    for number, block in enumerate(store.blocks(ROWS)):
        yield store.item_tokens[number * ROWS : number * ROWS + len(block)], block
