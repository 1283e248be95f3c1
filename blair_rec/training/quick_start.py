"""RecBole's quick start on any folder: settings are checked first, and those that a stock model needs are added."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blair_rec.border.gpus import check_there, gpu_id_of
from blair_rec.border.recbole_keys import default_of, misspelt, wrong_values
from blair_rec.border.settings import recbole_errors
from blair_rec.config.plugin import in_flat_keys
from blair_rec.config.yaml.files import load_yaml, refuse
from blair_rec.errors import ConfigError
from blair_rec.models.eligibility import named_model
from blair_rec.models.text_models import model_class
from blair_rec.registry import is_code, trusting

import recbole
from recbole.quick_start import run_recbole
from recbole.utils import ModelType

BUNDLED = "ml-100k"
"""The data set inside RecBole's package; RecBole uses it for every folder of this name."""


class QuickStart(NamedTuple):
    """The arguments of RecBole's quick start."""

    model: str
    dataset: str
    files: tuple[str, ...]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    """Notes for the user: which settings were added, and whose reader and trainer are used."""


def prepare(model: str, dataset: str, files: Sequence[str], settings: Mapping[str, Any]) -> QuickStart:
    """Check a call of RecBole's quick start and return its arguments; only the settings are read.

    Args:
        model: a RecBole model, or BLaIR<name> for one that takes item text.
        dataset: a folder of atomic files, or a name as RecBole finds it.
        files: YAML files of settings; `settings` go before them.

    Raises:
        ConfigError: no such model, file or data set, a misspelt setting, or an invalid value.
    """
    cls = model_class(model) if model.startswith("BLaIR") else named_model(model)
    given = _given(files, settings)
    sequential = cls.type == ModelType.SEQUENTIAL
    if sequential:  # other models have settings that these two checks don't cover
        refuse([*misspelt(given, model), *wrong_values(given, model)])
    added = dict(_folder_settings(dataset, given))
    notes = []
    if not hasattr(cls, "recbole_base"):
        notes.append(f"{model} is a stock model: RecBole's own reader, data set and trainer are used, not blair_rec's")
        if (gpu_id := gpu_id_of(given)) is not None:
            added["gpu_id"] = gpu_id
        check_there(given, gpu_id)
        if sequential:
            defaults = _sequential_defaults(cls.__name__, dataset, given)
            added.update(defaults)
            notes += [f"{key} is not given, so it is set to {json.dumps(value)}" for key, value in defaults.items()]
    return QuickStart(model, Path(dataset).resolve().name, tuple(files), {**settings, **added}, tuple(notes))


def run(start: QuickStart) -> dict[str, Any]:
    """Call RecBole's `run_recbole` and return its metrics on validation and test, by name.

    Raises:
        RecBoleError: RecBole can't use a setting or a file.
        BlairRecError: our models, data set or trainer can't use one.
    """
    known, sys.argv = sys.argv, sys.argv[:1]  # RecBole would read our command line
    try:
        with (
            in_flat_keys(),
            trusting(code_named(start)),
            recbole_errors(f"run {start.model} on {start.dataset!r}", "change the setting or the file that causes it"),
        ):
            result: dict[str, Any] = run_recbole(
                model=start.model,
                dataset=start.dataset,
                config_file_list=list(start.files),
                config_dict=dict(start.settings),
            )
    finally:
        sys.argv = known
    return result


def code_named(start: QuickStart) -> set[str]:
    """Return every `module:Class` in the settings and files; they may be imported, since the caller wrote them."""
    given = _given(start.files, start.settings)
    values = [value for key, value in given.items() if key.startswith("blair_")]
    inside = [name for value in values if isinstance(value, list) for step in value for name in _names_in(step)]
    return {value for value in [*values, *inside] if isinstance(value, str) and is_code(value)}


def _given(files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of all files, and `settings`, which go before them."""
    return {**{key: value for file in files for key, value in load_yaml(file).items()}, **settings}


def _names_in(step: Any) -> list[Any]:
    """Return the names in a step of blair_transforms: the step itself, or its key."""
    return list(step) if isinstance(step, Mapping) else [step]


def _folder_settings(dataset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting with which RecBole finds a folder; empty for a data set that it finds by name."""
    folder, by_name = Path(dataset), Path(dataset).name == dataset
    found = "data_path" in given or dataset == BUNDLED or Path("dataset", dataset).is_dir() or not folder.is_dir()
    if by_name and found:  # RecBole looks in its data_path, and can download some data sets by name
        somewhere = "data_path" in given or Path("dataset", dataset).is_dir()
        if not somewhere and dataset.lower() not in _known_to_recbole():
            raise ConfigError(
                f"--dataset {dataset}: there is no such folder, here or in dataset/, and RecBole has no data set of "
                "this name; give a folder NAME that holds NAME.inter"
            )
        return {}
    if not folder.is_dir():
        raise ConfigError(f"--dataset {dataset}: there is no such folder; give a folder NAME that holds NAME.inter")
    if "data_path" in given:
        raise ConfigError(f"--dataset {dataset} is a path, but data_path is {given['data_path']!r}; leave one out")
    if folder.resolve().name == BUNDLED:
        raise ConfigError(
            f"--dataset {dataset}: RecBole reads its own {BUNDLED} instead of any folder of this name; "
            "rename the folder and its files"
        )
    return {"data_path": str(folder.resolve().parent)}


def _known_to_recbole() -> set[str]:
    """Return the names of the data sets that RecBole contains or can download."""
    listed = Path(recbole.__file__).parent / "properties" / "dataset"
    return {BUNDLED, *load_yaml(listed / "url.yaml"), *load_yaml(listed / "kg_url.yaml")}


def _sequential_defaults(model: str, dataset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that stock sequential models need and RecBole's defaults lack.

    These are: no negatives for cross entropy, and the time column.
    """
    added: dict[str, Any] = {}
    if given.get("loss_type", default_of("loss_type", model)) == "CE" and "train_neg_sample_args" not in given:
        added["train_neg_sample_args"] = None
    if "load_col" not in given and dataset != BUNDLED and not given.get("benchmark_filename"):
        fields = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
        added["load_col"] = {"inter": [given.get(field, default_of(field, model)) for field in fields]}
    return added
