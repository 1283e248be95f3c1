"""A RecBole Config built from our typed one: no sys.argv, no evaluated strings, no change of the environment."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import blair_rec.border.repaired  # noqa: F401  (repairs RecBole before anything of it is used)
from blair_rec.border.gpus import gpu_id_of
from blair_rec.config.plugin import read_plugin_config
from blair_rec.config.section import to_dict
from blair_rec.device import AUTO, choose_device
from blair_rec.errors import BlairRecError, CheckpointError, ConfigError, RecBoleError

import recbole
from recbole.config import Config

CHANGE_SETTINGS = "change the setting that this is about under `recbole`"
"""The cure of an error that a comparison's settings of RecBole lead to."""


class TypedConfig(Config):
    """RecBole's Config without its reach into the process: values stay as typed, the environment as it is."""

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict

    def _init_device(self) -> None:
        given = self.final_config_dict
        asked = given.get("device", AUTO)
        if asked == AUTO and not given["use_gpu"]:
            asked = "cpu"
        given.update(single_spec=True, local_rank=0, device=torch.device(choose_device(asked)))


def recbole_config(model: str | type, folder: str, settings: Mapping[str, Any]) -> Config:
    """A Config for `model` on the data set whose atomic files lie in `folder`; nothing is read from there yet.

    Raises:
        RecBoleError: settings that RecBole refuses; ConfigError: `blair_*` keys that can't be meant.
    """
    path = Path(folder)
    merged = {"show_progress": False, "state": "WARNING", **settings, "data_path": str(path.parent)}
    name = model if isinstance(model, str) else model.__name__
    with recbole_errors(f"take the settings of {name}", CHANGE_SETTINGS):
        config = TypedConfig(model=model, dataset=path.name, config_dict=merged)
    config["data_path"] = str(path)  # RecBole has a folder of its own for the name ml-100k
    return config


RAISED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What RecBole raises where it can't do what its settings or files ask for."""

_RECBOLE, _OURS = Path(recbole.__file__).parent, Path(__file__).parents[1]


@contextmanager
def recbole_errors(asked: str, cure: str) -> Iterator[None]:
    """What RecBole raises within this block becomes one line; errors of our own code stay as they are.

    Args:
        asked: what RecBole was asked to do, such as "read data set 'shop'".
        cure: what the user can change.

    Raises:
        RecBoleError: RecBole, or what it called, raised one of RAISED.
    """
    try:
        yield
    except BlairRecError:
        raise
    except RAISED as error:
        place = _place_in_recbole(error)
        if place is None:
            raise
        raise RecBoleError(asked, error, place, cure) from error


def _place_in_recbole(error: BaseException) -> str | None:
    """The line of RecBole that raised an error, or called what raised it; None where the last such line is ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(_OURS):
            return None
        if path.is_relative_to(_RECBOLE):
            return f"{path.relative_to(_RECBOLE.parent).as_posix()}, line {frame.lineno}"
    return None


class ItemsOnly:
    """What a model asks of a data set when it is built, where only the items are known: to load a trained one."""

    def __init__(self, config: Config, n_items: int, item_vectors: Any) -> None:
        self.item_num = n_items
        self.item_vectors = item_vectors
        self._item_field = config["ITEM_ID_FIELD"]
        self.field2seqlen = {self._item_field + config["LIST_SUFFIX"]: config["MAX_ITEM_LIST_LENGTH"]}
        self.inter_feat = {self._item_field: torch.zeros(0, dtype=torch.int64)}

    def __getattr__(self, name: str) -> Any:
        """Anything else.

        Raises:
            CheckpointError: it is the data set's, such as its users or the features of its items.
        """
        if name.startswith("_"):  # Python asks for some, to copy for example
            raise AttributeError(name)
        raise CheckpointError(f"this model can't be loaded without its data set: it asks for {name!r}")

    def num(self, field: str) -> int:
        """Number of different values of a field, padding included.

        Raises:
            CheckpointError: any other field than the items'.
        """
        if field != self._item_field:
            raise CheckpointError(f"this model can't be loaded without its data set: it asks for {field!r}")
        return self.item_num


def complete_config(config: Config) -> None:
    """Defaults that our models add to RecBole's, where the user says nothing.

    Cross entropy takes no sampled negatives, while RecBole's default asks for one and then refuses it; a sequential
    model needs times, while RecBole's default leaves them in the file.

    Raises:
        ConfigError: an unknown `blair_*` key, or a value that can't be meant.
    """
    defaults, given = config.internal_config_dict, config.external_config_dict
    plugin = read_plugin_config(given)
    as_read = {
        "blair_items": plugin.variant.items,
        "blair_transforms": list(plugin.variant.transforms),
        "blair_control": plugin.variant.control,
        "blair_loss": plugin.train.loss,
        "blair_ties": plugin.ties,
        "blair_split": to_dict(plugin.split),
    }
    if plugin.train.temperature is not None:
        as_read["blair_temperature"] = plugin.train.temperature
    defaults.update(as_read)
    given.update({key: value for key, value in as_read.items() if key in given})  # a command line gives texts
    merged = {**defaults, **given}
    if merged.get("loss_type") == "CE":
        defaults["train_neg_sample_args"] = None
    elif plugin.train.loss != "recbole":  # one of ours
        if "blair_loss" in given:
            raise ConfigError(
                f"blair_loss is {plugin.train.loss}, but loss_type is {merged.get('loss_type')!r}; "
                "leave blair_loss out to train with loss_type, or set loss_type to CE"
            )
        defaults.update(blair_loss="recbole", blair_temperature=None)
    if not isinstance(config, TypedConfig):  # run_recbole looks for them; a comparison doesn't
        _refuse_stray_pickles(config, merged)
        if (gpu_id := gpu_id_of(given)) is not None:
            given["gpu_id"] = gpu_id
    item = merged["ITEM_ID_FIELD"]
    needed = [merged["USER_ID_FIELD"], item]
    needed.append(item + merged["LIST_SUFFIX"] if merged.get("benchmark_filename") else merged["TIME_FIELD"])
    columns = dict(defaults.get("load_col") or {})
    columns["inter"] = list(dict.fromkeys([*(columns.get("inter") or []), *needed]))
    defaults["load_col"] = columns


def _refuse_stray_pickles(config: Config, merged: Mapping[str, Any]) -> None:
    """RecBole unpickles a saved data set or loader just because it lies there (recbole/data/utils.py)."""
    folder = Path(merged["checkpoint_dir"])
    names = (f"{config.dataset}-PluginDataset.pth", f"{config.dataset}-for-{config.model}-dataloader.pth")
    asked_for = {merged.get("dataset_save_path"), merged.get("dataloaders_save_path")}
    for path in (folder / name for name in names):
        if path.exists() and str(path) not in asked_for:
            raise ConfigError(
                f"{path} lies in checkpoint_dir, and RecBole would run what it holds (it is a pickle) "
                "without being asked; remove it, or name it as dataset_save_path or dataloaders_save_path"
            )
