"""Encoding on a cluster: Ray Data reads the items, and its workers write the same parts as `--shard`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blair_rec.errors import CatalogueError, EncodingError, MissingExtra
from blair_rec.extras import need
from blair_rec.files.contents import sha256_of
from blair_rec.text.catalogue import JSON_SUFFIXES, Number, Value, catalogue_of, json_row
from blair_rec.text.encoding.encode import encode_texts
from blair_rec.text.encoding.encoder import TextsDone
from blair_rec.text.encoding.source import EncoderSource
from blair_rec.text.store.shards import shard_path
from blair_rec.text.template import ItemTexts, Template
from blair_rec.text.tokens import digests

OLDEST = (2, 40)
"""Oldest supported release of Ray; RecBole 1.2.1 installs 2.6."""


def encode_with_ray(
    files: Sequence[str | Path],
    template: Template,
    find_encoder: Callable[[], EncoderSource],
    out: str | Path,
    *,
    parts: int,
    workers: int,
    item_id: str | None = None,
    store_dtype: str = "float32",
    fresh: bool = False,
    progress: TextsDone | None = None,
) -> list[Path]:
    """Encode Parquet or JSON lines files in `parts` parts on `workers` workers, and return the stores of the parts.

    The parts belong to one catalogue: `merge_stores` joins them. A worker encodes one part at a time, and the texts of
    the part have to fit into its memory. A finished part is not encoded again, and a part whose worker died is resumed.
    `out` has to be on a file system that all nodes share. `find_encoder` is called on every node and has to find the
    same encoder everywhere. A part of another encoder, or of other settings, is replaced only if `fresh`. `progress`
    counts parts.

    Raises MissingExtra without a recent Ray, CatalogueError for files of another kind, and what a worker raises.
    """
    ray = _ray()
    wanted = find_encoder()
    paths = [Path(file).resolve() for file in files]
    split = _rows(ray, paths).repartition(parts).split(parts)
    # No process sees all texts, so the hashes of the files identify the whole catalogue.
    marks = digests([sha256_of(path) for path in paths]).tobytes()
    whole = {"items": sum(rows.count() for rows in split), "sha256": hashlib.sha256(marks).hexdigest()}
    # Read before the workers start: they take all processors, and reading would wait for them forever.
    jobs = [(rows.to_arrow_refs(), part, parts) for part, rows in enumerate(split)]
    pool = _workers(
        ray, workers, find_encoder, wanted, template, Path(out).resolve(), item_id, store_dtype, fresh, whole
    )
    stores = []
    for store in pool.map(lambda worker, job: worker.encode.remote(*job), jobs):
        stores.append(Path(store))
        if progress is not None:
            progress(len(stores), parts)
    return stores


def _ray() -> Any:
    """Import Ray, if it is installed and recent enough."""
    need("ray", "ray", "encoding on a cluster")
    if tuple(int(number) for number in version("ray").split(".")[:2]) < OLDEST:
        raise MissingExtra(
            f"encoding on a cluster needs ray {'.'.join(map(str, OLDEST))} or newer, and {version('ray')} is installed "
            "(RecBole 1.2.1 requires it); run `pip install 'blair-rec[ray]'` in a new environment, where pip chooses "
            "RecBole 1.2.0"
        )
    import ray
    import ray.data

    return ray


def _rows(ray: Any, files: list[Path]) -> Any:
    """A Ray data set of all rows, in the order of the files."""
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    names = [str(file) for file in files]
    if all(file.name.endswith(JSON_SUFFIXES) for file in files):
        # Read as text: Ray's JSON reader would give every row the keys of all rows, and lose how numbers are written.
        return ray.data.read_text(names)
    if all(file.suffix == ".parquet" for file in files):
        return ray.data.read_parquet(names)
    raise CatalogueError(f"{', '.join(names)}: give files of one kind, .parquet or {', '.join(JSON_SUFFIXES)}")


def _workers(ray: Any, workers: int, *settings: Any) -> Any:
    """A pool of workers that share the cluster's processors; each gets a GPU if there are GPUs."""
    from ray.util import ActorPool

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    resources = ray.cluster_resources()
    share = {"num_cpus": max(1, int(resources.get("CPU", 1) // workers)), "num_gpus": min(1, resources.get("GPU", 0))}
    return ActorPool([ray.remote(_Worker).options(**share).remote(*settings) for _ in range(workers)])


class _Worker:
    """One process of the cluster."""

    def __init__(
        self,
        find_encoder: Callable[[], EncoderSource],
        wanted: EncoderSource,
        template: Template,
        out: Path,
        item_id: str | None,
        store_dtype: str,
        fresh: bool,
        whole: dict[str, Any],
    ) -> None:
        self.source = find_encoder()
        if self.source.header() != wanted.header():
            raise EncodingError(
                f"one node has the encoder {self.source.header()}, another {wanted.header()}; install the same encoder "
                "on every node"
            )
        self.template, self.out, self.item_id, self.store_dtype = template, out, item_id, store_dtype
        self.fresh, self.whole = fresh, whole

    def encode(self, tables: Any, part: int, parts: int) -> str:
        """Encode one part, given as references to Arrow tables, and return the path of its store."""
        import ray

        records = (_record(row, f"part {part}") for table in tables for row in ray.get(table).to_pylist())
        items = ItemTexts.of(catalogue_of(records, Path(f"part {part} of {parts}"), self.item_id), self.template)
        items = dataclasses.replace(items, whole=self.whole)
        path = shard_path(self.out, (part, parts))
        encode_texts(
            items, self.template, self.source, path,
            store_dtype=self.store_dtype, shard=(part, parts), fresh=self.fresh,
        )  # fmt: skip
        return str(path)


def _record(row: dict[str, Any], where: str) -> dict[str, Value]:
    """Turn a row into a record of a catalogue."""
    if list(row) == ["text"]:
        return json_row(row["text"], where)
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Value:
    """Turn a value from Parquet into what a JSON file would hold."""
    if isinstance(value, list):
        return [_value(element) for element in value]
    if isinstance(value, dict):
        return {str(key): _value(element) for key, element in value.items()}
    if value is None or isinstance(value, (str, bool)):
        return value
    return None if value != value else Number(value)  # NaN is how pandas writes a missing value
