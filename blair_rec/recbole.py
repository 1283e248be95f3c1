"""`import blair_rec.recbole`: repair RecBole and register our models where it looks up names.

RecBole finds a model by its module path, and its data set and trainer by attribute. After this import, BLaIRSASRec and
BLaIR<Name> of every other sequential model of RecBole can run from any RecBole config, or say why they can't use item
text. So can eSASRec, which RecBole lacks, and BLaIReSASRec. `with_text(YourModel)` does the same for your own model;
`eligibility(YourModel)` tests whether it can use text.
"""

from __future__ import annotations

import logging
import sys
from importlib.machinery import ModuleSpec
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import blair_rec.border.apply_patches  # noqa: F401  (has to come before any import of RecBole)
from blair_rec.border.gpus import check_found
from blair_rec.config.plugin import PluginConfig, in_flat_keys, read_plugin_config, text_keys
from blair_rec.data.dataset import ItemVectors, TextSequentialDataset
from blair_rec.experiment.item_vectors import find_encoder, find_encoding, item_vectors, items_reader
from blair_rec.models.eligibility import Eligible, check_name, eligibility, recbole_models
from blair_rec.models.ligr import eSASRec
from blair_rec.models.text_models import with_text as _with_text
from blair_rec.text.notes import repeat_notes, store_notes
from blair_rec.text.store.embeddings import open_store
from blair_rec.training.trainer import TextTrainer

import recbole.data.dataset
import recbole.model.sequential_recommender as sequential_models
import recbole.trainer
from recbole.quick_start import run_recbole as _run_recbole

__all__ = ["BLaIRSASRec", "Eligible", "PluginDataset", "eligibility", "run_recbole", "with_text"]

logger = logging.getLogger("blair_rec")


def run_recbole(*settings: Any, **more: Any) -> dict[str, Any]:
    """Call RecBole's `run_recbole` with the same arguments; our errors name the `blair_*` keys.

    Returns:
        RecBole's results: best_valid_score, valid_score_bigger, best_valid_result and test_result.

    Raises:
        BlairRecError: no model has this name, or our models can't use a setting or file. RecBole's own errors are
            passed on.
    """
    given = signature(_run_recbole).bind_partial(*settings, **more).arguments
    model = given.get("model") or (given.get("config_dict") or {}).get("model")
    if isinstance(model, str):
        check_name(model)
    with in_flat_keys():
        result: dict[str, Any] = _run_recbole(*settings, **more)
    return result


class PluginDataset(TextSequentialDataset):
    """The data set of a `blair_*` config. Building it encodes the items' text or opens the store."""

    made_with: PluginConfig | None = None
    """The keys with which it was built; it may be read from a pickle later."""

    def build(self) -> list[Any]:
        """Return the training, validation and test splits, with the items' vectors if the config uses text."""
        check_found(self.config.external_config_dict, self.config["device"])
        with in_flat_keys():
            self.made_with = read_plugin_config({**self.config.external_config_dict})
            self.item_vectors = self._item_vectors(self.made_with)
        splits: list[Any] = super().build()
        return splits

    def _item_vectors(self, plugin: PluginConfig) -> ItemVectors | None:
        if not plugin.variant.uses_text:
            given = [key for key in text_keys() if self.config.external_config_dict.get(key)]
            if given:
                logger.warning(
                    "blair_items is %r, which uses no item text, so these keys have no effect: %s; to use item text, "
                    "set blair_items, for example to text",
                    plugin.variant.items,
                    ", ".join(given),
                )
            else:
                logger.info("blair_items is id: no item text is used; set blair_items and blair_text_fields to use it")
            return None
        tokens = self.field2id_token[self.iid_field]
        item_tokens = [str(token) for token in tokens[1:]]
        if plugin.text.store is not None:
            store = open_store(plugin.text.store)
        else:
            items = Path(self.config["data_path"]) / f"{self.dataset_name}.item"
            stores = Path(self.config["checkpoint_dir"]) / "stores"
            source = find_encoder(plugin.text)
            read = items_reader({key: self.config[key] for key in ("field_separator", "encoding")})
            encoding = find_encoding(
                plugin.text, items, stores, source, self.iid_field, read, str(self.config["device"])
            )
            encoding.check(item_tokens, plugin.text.missing_text)
            for note in repeat_notes(encoding.catalogue):
                logger.info("data: %s", note)
            store = encoding.encode()
            logger.info("item vectors: %s", encoding.path)
        vectors = item_vectors(store, tokens, plugin.text.missing_text)
        for note in store_notes(store, item_tokens):
            logger.info("data: %s", note)
        return vectors


def with_text(base: type) -> type:
    """Return BLaIR<Name>, the version of a RecBole sequential model that can use text, and register it with RecBole.

    Args:
        base: a class of RecBole sequential models, RecBole's or your own.

    Raises:
        ConfigError: `base` is not a class of sequential models.
    """
    model: type = _with_text(base)
    model.__module__ = _register(model)
    setattr(recbole.data.dataset, f"{model.__name__}Dataset", PluginDataset)
    setattr(recbole.trainer, f"{model.__name__}Trainer", TextTrainer)
    return model


def _register(model: type) -> str:
    """Put a model class where RecBole looks up its name; return the path of the module."""
    name = model.__name__
    path = f"recbole.model.sequential_recommender.{name.lower()}"
    module = ModuleType(path, f"{name}, from blair_rec.")
    module.__spec__ = ModuleSpec(path, None)
    setattr(module, name, model)
    sys.modules[path] = module
    setattr(sequential_models, name.lower(), module)
    setattr(sequential_models, name, model)
    return path


BLaIRSASRec: type
"""RecBole's SASRec with the item side `blair_items` instead of its item embedding; RecBole's other models follow."""

_register(eSASRec)
for _base in recbole_models().values():
    globals()[f"BLaIR{_base.__name__}"] = with_text(_base)
