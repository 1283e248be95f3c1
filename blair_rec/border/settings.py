"""Build a RecBole Config from our typed one: no sys.argv, no evaluated strings, no changes to the environment."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import blair_rec.border.apply_patches  # noqa: F401  (repairs RecBole before any part of it is used)
from blair_rec.border.gpus import gpu_id_of
from blair_rec.border.recbole_keys import wrong_values
from blair_rec.config.plugin import read_plugin_config
from blair_rec.config.section import to_dict
from blair_rec.config.yaml.files import refuse
from blair_rec.device import AUTO, choose_device
from blair_rec.errors import BlairRecError, CheckpointError, ConfigError, RecBoleError

import recbole
from recbole.config import Config

CHANGE_SETTINGS = "change the setting that caused this under `recbole`"
"""The advice for an error caused by a comparison's RecBole settings."""


class TypedConfig(Config):
    """RecBole's Config without side effects: values keep their types, and the environment stays unchanged."""

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
    """Return a Config for `model` on the data set whose atomic files are in `folder`; no data is read yet.

    Raises:
        RecBoleError: settings that RecBole refuses.
        ConfigError: invalid `blair_*` keys.
    """
    path = Path(folder)
    merged = {"show_progress": False, "state": "WARNING", **settings, "data_path": str(path.parent)}
    name = model if isinstance(model, str) else model.__name__
    with recbole_errors(f"take the settings of {name}", CHANGE_SETTINGS):
        config = TypedConfig(model=model, dataset=path.name, config_dict=merged)
    config["data_path"] = str(path)  # RecBole replaces the folder for the name ml-100k
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
"""Exceptions that RecBole raises if it can't do what its settings or files ask for."""

_RECBOLE, _OURS = Path(recbole.__file__).parent, Path(__file__).parents[1]


@contextmanager
def recbole_errors(asked: str, cure: str) -> Iterator[None]:
    """Turn what RecBole raises inside this block into a one-line error; errors of our own code stay unchanged.

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
    """Return the last line of RecBole in the traceback; None if a line of our package comes after it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(_OURS):
            return None
        if path.is_relative_to(_RECBOLE):
            return f"{path.relative_to(_RECBOLE.parent).as_posix()}, line {frame.lineno}"
    return None


class ItemsOnly:
    """A data set that contains only its items: enough to build a model and load trained weights into it."""

    def __init__(self, config: Config, n_items: int, item_vectors: Any) -> None:
        self.made_with = None  # see PluginDataset
        self.item_num = n_items
        self.item_vectors = item_vectors
        self._item_field = config["ITEM_ID_FIELD"]
        self.field2seqlen = {self._item_field + config["LIST_SUFFIX"]: config["MAX_ITEM_LIST_LENGTH"]}
        self.inter_feat = {self._item_field: torch.zeros(0, dtype=torch.int64)}

    def __getattr__(self, name: str) -> Any:
        """Refuse any other attribute.

        Raises:
            CheckpointError: the attribute needs the whole data set, such as users or item features.
        """
        if name.startswith("_"):  # Python looks these up itself, for example to copy the object
            raise AttributeError(name)
        raise CheckpointError(f"this model can't be loaded without its data set: it asks for {name!r}")

    def num(self, field: str) -> int:
        """Return the number of distinct values of the item field, padding included.

        Raises:
            CheckpointError: another field than the item field.
        """
        if field != self._item_field:
            raise CheckpointError(f"this model can't be loaded without its data set: it asks for {field!r}")
        return self.item_num


def complete_config(config: Config) -> None:
    """Add the defaults of our models to RecBole's, for keys that the user doesn't set.

    Cross entropy uses no sampled negatives, but RecBole's default asks for one and then refuses it. A sequential model
    needs times, but RecBole's default doesn't load them.

    Raises:
        ConfigError: an unknown `blair_*` key, or a value that can't be used.
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
    given.update({key: value for key, value in as_read.items() if key in given})  # a command line gives strings
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
    if not isinstance(config, TypedConfig):  # a comparison has checked its settings, and doesn't look for pickles
        refuse(wrong_values(given, config.model))
        _refuse_stray_pickles(config, merged)
        if (gpu_id := gpu_id_of(given)) is not None:
            given["gpu_id"] = gpu_id
    if isinstance(args := given.get("eval_args"), Mapping):  # RecBole fills a missing order with RO, then refuses it
        given["eval_args"] = {"order": "TO", **args}
    item = merged["ITEM_ID_FIELD"]
    needed = [merged["USER_ID_FIELD"], item]
    needed.append(item + merged["LIST_SUFFIX"] if merged.get("benchmark_filename") else merged["TIME_FIELD"])
    columns = dict(defaults.get("load_col") or {})
    columns["inter"] = list(dict.fromkeys([*(columns.get("inter") or []), *needed]))
    defaults["load_col"] = columns


def _refuse_stray_pickles(config: Config, merged: Mapping[str, Any]) -> None:
    """Refuse pickles that RecBole would load only because they are in its folder (recbole/data/utils.py)."""
    if not isinstance(merged["checkpoint_dir"], str):
        raise ConfigError(f"checkpoint_dir is {merged['checkpoint_dir']!r}; name a folder")
    folder = Path(merged["checkpoint_dir"])
    names = (f"{config.dataset}-PluginDataset.pth", f"{config.dataset}-for-{config.model}-dataloader.pth")
    asked_for = {merged.get("dataset_save_path"), merged.get("dataloaders_save_path")}
    for path in (folder / name for name in names):
        if os.path.exists(path) and str(path) not in asked_for:  # False for a name that can't be used
            raise ConfigError(
                f"{path} is in checkpoint_dir, and RecBole would load it unasked; it is a pickle, which can run code; "
                "remove it, or name it as dataset_save_path or dataloaders_save_path"
            )
