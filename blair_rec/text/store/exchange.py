"""Stores for other tools: raw .feature files, .npy with ids, Parquet, RecBole's additional features."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import OutputError, StoreError, agreed, first_of, out_of
from blair_rec.extras import need
from blair_rec.files.writing import partial_of, replace_file
from blair_rec.text.store.embeddings import EmbeddingStore

PAD = "[PAD]"
"""Upstream's name of the item with id 0, which has no row."""
ITEM, VECTOR = "item_id", "vector"
"""Columns of a Parquet file."""
RECBOLE_HEADER = "iid:token\titem_emb:float_seq\n"
"""First line of the file, as RecBole's `additional_feat_suffix` and `alias_of_item_id: [iid]` need it."""
ROWS = 4096
"""Rows written together."""


def export_store(store: EmbeddingStore, path: str | Path) -> list[Path]:
    """Write a store's vectors as float32, in the format that the ending of `path` names, and return the files.

    `.npy`: the matrix, with the item tokens as a JSON list in a second file, `.ids.json`. `.parquet`: columns item_id
    and vector. `.feature`: the raw matrix, with a second file, `.data_maps`, as hyp1231/AmazonReviews2023 reads them
    (row = id - 1; id 0 is [PAD]). `.itememb`: RecBole's additional feature file.

    Raises StoreError for an unknown ending, or tokens that the format can't hold; OutputError for files that exist
    already or can't be written; MissingExtra without pyarrow.
    """
    path = Path(path)
    writers: dict[str, Callable[[EmbeddingStore, Path], None]] = {
        ".npy": _write_npy, ".parquet": _write_parquet, ".feature": _write_feature, ".itememb": _write_itememb,
    }  # fmt: skip
    if path.suffix not in writers:
        raise StoreError(f"{path}: unknown kind of file; known endings: {', '.join(writers)}")
    files = [path, *([beside] if (beside := beside_of(path)) else [])]
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


def beside_of(path: Path) -> Path | None:
    """The second file of a two-file format, which names the items of the rows; None for other formats."""
    if path.suffix == ".feature":  # upstream: All_Beauty.blair-roberta-base.feature and All_Beauty.data_maps
        return path.with_name(f"{path.name.removesuffix('.feature').partition('.')[0]}.data_maps")
    return path.with_suffix(".ids.json") if path.suffix == ".npy" else None


def _open(path: Path, mode: str = "wb") -> Any:
    """Open a file under its temporary name."""
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


def _write_feature(store: EmbeddingStore, path: Path) -> None:
    if PAD in store.item_tokens:
        raise StoreError(f"an item is called {PAD}, which means padding in .data_maps; rename it")
    with _open(path) as file:
        for block in store.blocks(ROWS):
            file.write(np.ascontiguousarray(block).data)
    id2item = [PAD, *store.item_tokens]
    beside = beside_of(path)
    assert beside is not None
    _write_json(beside, {"item2id": {token: number for number, token in enumerate(id2item)}, "id2item": id2item})


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


def _write_itememb(store: EmbeddingStore, path: Path) -> None:
    if odd := [token for token in store.item_tokens if not token or set(token) & set("\t\n\r")]:
        raise StoreError(
            f"{out_of(len(odd), len(store), 'item token', 'are')} empty or {agreed(len(odd), 'hold')} a tab or line "
            f"end (first: {odd[0]!r}), which RecBole's files can't hold; export to .npy or .parquet"
        )
    with _open(path, "w") as file:
        file.write(RECBOLE_HEADER)
        for item_tokens, block in _with_tokens(store):
            for token, vector in zip(item_tokens, block, strict=True):
                file.write(f"{token}\t{' '.join(map(repr, vector.tolist()))}\n")


def _with_tokens(store: EmbeddingStore) -> Iterator[tuple[Sequence[str], np.ndarray]]:
    for number, block in enumerate(store.blocks(ROWS)):
        yield store.item_tokens[number * ROWS : number * ROWS + len(block)], block
