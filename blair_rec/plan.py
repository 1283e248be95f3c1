"""Which runs a comparison is made of, and which of them are finished and still hold."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blair_rec.config import CompareConfig, to_dict
from blair_rec.errors import DatasetError
from blair_rec.evaluate.results import RESULT_FILE, run_name
from blair_rec.provenance import code_hash, hash_files, hash_of

# Planning takes neither torch nor RecBole, so that a dry run answers at once.


@dataclass(frozen=True)
class Run:
    """One training of the comparison."""

    variant: str
    seed: int
    setup: Mapping[str, Any]
    """The part of the config that this run depends on."""
    hashes: Mapping[str, str | None]
    """Of config, data, store and code; the store's is None for a variant without text or one not encoded yet."""
    folder: Path
    done: bool


def plan(config: CompareConfig, out: Path, stores: Mapping[str, str | None]) -> list[Run]:
    """The runs of a comparison, seed by seed, and which are finished; `stores` are the variants' store hashes."""
    data = data_hash(config)
    runs = []
    for seed in config.seeds:
        for name, variant in config.variants.items():
            setup = {
                "dataset": config.dataset,
                "model": config.model,
                "recbole": to_dict(config.recbole),
                "train": to_dict(config.train),
                "evaluate": {"protocol": config.evaluate.protocol, "selection": config.evaluate.metrics[0]},
                "items": variant.items,
                "transforms": list(variant.transforms),
                "control": variant.control,
                "missing_text": config.text_of(variant).missing_text if variant.uses_text else None,
                "seed": seed,
            }
            hashes = {"config": hash_of(setup), "data": data, "store": stores.get(name), "code": code_hash()}
            folder = out / "runs" / run_name(name, seed)
            runs.append(Run(name, seed, setup, hashes, folder, (folder / RESULT_FILE).is_file()))
    return runs


def known_stores(config: CompareConfig, out: Path) -> dict[str, str | None]:
    """Hashes of the stores that are there already, by variant, without encoding anything."""
    from blair_rec.item_vectors import find_encoder
    from blair_rec.text.encode import store_name
    from blair_rec.text.store import HEADER, open_store

    found: dict[str, str | None] = {}
    for name in text_variants(config):
        text = config.text_of(config.variants[name])
        path = out / "stores" / store_name(text.fields, find_encoder(text))
        found[name] = open_store(path, verify=False).store_sha256 if (path / HEADER).is_file() else None
    return found


def changes(run: Run) -> list[str]:
    """How a finished run differs from what the config asks for now, in words; empty if it still holds."""
    result = json.loads((run.folder / RESULT_FILE).read_text(encoding="utf-8"))
    before, words = result["hashes"], []
    if before["config"] != run.hashes["config"]:
        words += _differences(result.get("setup", {}), run.setup)
    what = {"data": "the data set's files", "store": "the text vectors", "code": "the version of blair_rec"}
    words += [words_for for part, words_for in what.items() if before[part] != run.hashes[part]]
    return words


def data_folder(dataset: str) -> Path:
    """Where the atomic files lie: a folder, or the data set that RecBole itself brings.

    Raises:
        DatasetError: neither.
    """
    folder = Path(dataset)
    if folder.is_dir():
        return folder
    spec = importlib.util.find_spec("recbole")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "dataset_example" / dataset
        if dataset and bundled.is_dir():
            return bundled
    raise DatasetError(
        f"data set {dataset!r}: there is no such folder; give a folder of atomic files (NAME/NAME.inter), "
        "or ml-100k, which RecBole brings"
    )


def data_hash(config: CompareConfig) -> str:
    """SHA-256 over the interaction files of the data set."""
    folder = data_folder(config.dataset)
    files = list(folder.glob(f"{folder.name}*.inter"))
    if not files:
        raise DatasetError(f"{folder} holds no {folder.name}.inter; a data set's files carry the name of its folder")
    return hash_files(files, folder)


def text_variants(config: CompareConfig) -> list[str]:
    """Names of the variants that use text."""
    return [name for name, variant in config.variants.items() if variant.uses_text]


def write_text(path: Path, text: str) -> None:
    """A whole file or none: written under a temporary name and renamed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    """'train.epochs: 3 -> 5' for every leaf that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*now, *(key for key in before if key not in now)]
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{where}{'.' * bool(where)}{key}")
        ]
    return [] if before == now else [f"{where}: {before!r} -> {now!r}"]
