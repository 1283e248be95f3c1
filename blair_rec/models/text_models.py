"""RecBole sequential models whose item embedding is replaced by an item side."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor, nn

from blair_rec.border.settings import complete_config
from blair_rec.config.plugin import PLUGIN_KEYS, PluginConfig, differing_data, read_plugin_config
from blair_rec.config.variant import VariantConfig
from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.models.counting import count_events
from blair_rec.models.eligibility import (
    Eligible,
    eligibility,
    item_embedding_name,
    recbole_model,
    replace_items,
    why_not,
)
from blair_rec.models.items import ItemSide
from blair_rec.models.scorer import refuse_new_items
from blair_rec.models.similarity import Similarity
from blair_rec.models.transforms import FittedTransforms

from recbole.model.abstract_recommender import SequentialRecommender


class TextScorer(Similarity):
    """Base class of our models, before RecBole's class: adds what `Scorer` needs and RecBole's class lacks."""

    recbole_base: type[Any]

    def shared_items(self, ids: Tensor | None = None) -> AbstractContextManager[None]:
        """Compute the item vectors only once within this block; with `ids`, those of these items alone."""
        items = item_side(self)
        return items.shared(ids) if isinstance(items, ItemSide) else nullcontext()

    def count(self, sequences: TrainingSequences) -> None:
        """Let the item side read the training split, before the first epoch."""
        items = item_side(self)
        if isinstance(items, ItemSide):
            count_events(items, sequences)

    def append_items(self, vectors: np.ndarray) -> None:
        """See Scorer.append_items.

        Raises:
            ConfigError: this model, or its item side, needs more than an item's text.
        """
        items = item_side(self)
        if not isinstance(items, ItemSide):
            refuse_new_items("items: id learns items from their events alone")
        found = eligibility(self.recbole_base)
        if isinstance(found, Eligible) and not found.cold_items:
            refuse_new_items(f"{self.recbole_base.__name__} keeps more about each item than its vector")
        items.append(vectors)

    @property
    def fitted_transforms(self) -> FittedTransforms | None:
        """Transforms of the item side; None if it isn't made from text."""
        items = item_side(self)
        return items.transforms if isinstance(items, ItemSide) else None


@cache
def with_text(base: type[SequentialRecommender]) -> type[SequentialRecommender]:
    """Return a RecBole sequential model class whose item embedding can be replaced by one of our item sides.

    The new class is called BLaIR<Name>. It reads the `blair_*` keys of a variant from its config and the text vectors
    from its data set (`item_vectors`). With `blair_items: id` the model is unchanged, with the same initial weights.
    The same base gives the same class. `eligibility` tests whether this works for a class of your own.

    Raises:
        ConfigError: `base` is not a class of RecBole sequential models. The new class raises it, too, when a model is
            built that can't take item text; the message says why.
    """
    if not (inspect.isclass(base) and issubclass(base, SequentialRecommender)):
        raise ConfigError(f"{base!r} is not a class of RecBole sequential models")
    if hasattr(base, "recbole_base"):  # its item embedding is replaced already
        return base

    class TextModel(TextScorer, base):
        recbole_base = base
        complete_config = staticmethod(complete_config)

        def __init__(self, config: Any, dataset: Any) -> None:
            _refuse_ineligible(base)
            try:
                super().__init__(config, dataset)
            except KeyError as error:
                if error.args[0] not in (config["selected_features"] or ()):
                    raise
                raise ConfigError(
                    f"{base.__name__} reads {error.args[0]!r} of each item, which the data set doesn't have; "
                    "list columns of its .item file in selected_features"
                ) from error
            self.item_side_name = item_embedding_name(self, self.n_items)
            self.set_temperature(config["blair_temperature"])
            variant = _variant_of(config)
            if (made_with := getattr(dataset, "made_with", None)) is not None:
                _refuse_other_data(config, made_with)
                vectors = dataset.item_vectors
                config["blair_store_sha256"] = vectors.store_sha256 if vectors else None
            if variant.items == "id":
                return
            vectors = getattr(dataset, "item_vectors", None)
            if vectors is None:
                raise ConfigError(f"blair_items is {variant.items!r}, but the data set carries no text vectors")
            replace_items(self, self.item_side_name, variant, vectors.table, config["seed"], vectors.fitted)

    TextModel.__name__ = TextModel.__qualname__ = f"BLaIR{base.__name__}"
    TextModel.__doc__ = f"RecBole's {base.__name__} with the item side of `blair_items` as its item embedding."
    return TextModel


def model_class(name: str) -> type[SequentialRecommender]:
    """Return the class BLaIR<name> for the name of a RecBole sequential model.

    Raises:
        ConfigError: RecBole has no such sequential model, or it can't take item text (and why).
    """
    base = recbole_model(name.removeprefix("BLaIR"))
    _refuse_ineligible(base)
    return with_text(base)


def item_side(model: Any) -> nn.Embedding | ItemSide:
    """Return the module of this model that turns item ids into vectors."""
    return model.get_submodule(model.item_side_name)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count the numbers that training changes, and the frozen ones, which it reads but doesn't change."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return {"trained": trained, "frozen": frozen + sum(b.numel() for b in model.buffers() if b.is_floating_point())}


def _refuse_ineligible(base: Any) -> None:
    if reason := why_not(base):
        raise ConfigError(f"{base.__name__} can't take item text: it {reason}")


def _refuse_other_data(config: Any, made_with: PluginConfig) -> None:
    """Refuse a data set whose text, ties or split differ from the config: RecBole compares only its own keys.

    This happens with dataset_save_path and dataloaders_save_path.

    Raises:
        ConfigError: some differ.
    """
    if differing := differing_data(read_plugin_config({**config.external_config_dict}), made_with):
        raise ConfigError(
            f"the data set was saved with other values of {', '.join(differing)}; set them as they were, or leave out "
            "dataset_save_path and dataloaders_save_path, so that the data set is made again"
        )


def _variant_of(config: Any) -> VariantConfig:
    """Read a variant's item side from the `blair_*` keys of a RecBole config."""
    keys = {key: name for key, (section, name) in PLUGIN_KEYS.items() if section is VariantConfig}
    return VariantConfig(**{name: config[key] for key, name in keys.items() if config[key] is not None})
