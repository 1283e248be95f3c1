"""The folder of a comparison's data set, and the hash of the files that its runs read."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blair_rec.config.comparison import CompareConfig
from blair_rec.errors import DatasetError
from blair_rec.experiment.provenance import hash_files


def data_folder(dataset: str) -> Path:
    """The folder of the atomic files: the given folder, or that of a data set shipped with RecBole.

    Raises:
        DatasetError: there is neither.
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
        f"data set {dataset!r}: there is no such folder; give a folder of atomic files (NAME/NAME.inter) in the "
        "working directory or next to the comparison file, or ml-100k, which is shipped with RecBole"
    )


def data_hash(config: CompareConfig) -> str:
    """SHA-256 of the files of the data set that RecBole reads: the interactions, and other features that it loads.

    Raises:
        DatasetError: the data set doesn't exist, or has no interactions.
    """
    folder = data_folder(config.dataset)
    parts = config.recbole.get("benchmark_filename") or ()
    names = [f"{folder.name}.{part}.inter" for part in parts] or [f"{folder.name}.inter"]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DatasetError(
            f"{folder} has no file {missing[0]}; give the files of a data set the same name as its folder"
        )
    kinds = features_read(config.model, config.recbole, folder.name)
    beside = [
        path
        for path in folder.iterdir()
        if path.name.startswith(f"{folder.name}.") and path.suffix != ".inter" and path.is_file()
        if kinds is None or path.suffix.removeprefix(".") in kinds
    ]
    return hash_files([*(folder / name for name in names), *beside], folder)


def features_read(model: str, settings: Mapping[str, Any], dataset: str) -> set[str] | None:
    """The endings of the files that RecBole loads besides .inter; None if it loads all."""
    if "load_col" in settings:
        columns = settings["load_col"]
        return None if columns is None else set(columns)
    model = model.removeprefix("BLaIR")  # below: the defaults of RecBole's configurator
    if model in ("GRU4RecKG", "KSR"):
        return {"ent"}
    if dataset != "ml-100k":
        return set()
    return {"DIN": {"user", "item"}, "DIEN": {"user", "item"}}.get(
        model, {"item"} if model in ("GRU4RecF", "SASRecF", "FDSA", "S3Rec") else set()
    )
