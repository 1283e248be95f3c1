"""RecBole sequential models with their item side replaced, and what can be asked of them."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor, nn

from blair_rec.border.settings import complete_config
from blair_rec.config.plugin import PLUGIN_KEYS
from blair_rec.config.sections import VariantConfig
from blair_rec.errors import ConfigError
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
    """Base of our models, before RecBole's class: what `Scorer` asks for and RecBole's class doesn't have."""

    recbole_base: type[Any]

    def shared_items(self, ids: Tensor | None = None) -> AbstractContextManager[None]:
        """Compute the item vectors once within this block, if computing them costs anything; those of `ids` alone."""
        items = item_side(self)
        return items.shared(ids) if isinstance(items, ItemSide) else nullcontext()

    def append_items(self, vectors: np.ndarray) -> None:
        """As Scorer's.

        Raises:
            ConfigError: this model, or its item side, knows items by more than their text.
        """
        items = item_side(self)
        if not isinstance(items, ItemSide):
            refuse_new_items("items: id knows items by their events alone")
        found = eligibility(self.recbole_base)
        if isinstance(found, Eligible) and not found.cold_items:
            refuse_new_items(f"{self.recbole_base.__name__} keeps more of each item than its vector")
        items.append(vectors)

    @property
    def fitted_transforms(self) -> FittedTransforms | None:
        """Those of the item side; None where it is not made from text."""
        items = item_side(self)
        return items.transforms if isinstance(items, ItemSide) else None


@cache
def with_text(base: type[SequentialRecommender]) -> type[SequentialRecommender]:
    """A RecBole sequential model class whose item embedding can be replaced by an item side of ours.

    The new class is called BLaIR<Name>. It reads the `blair_*` keys of a variant from its config and the text vectors
    from its data set (`item_vectors`). With `blair_items: id` it is the model that it was, with the same initial
    weights. The same base gives the same class. Whether a class of your own is read right is what `eligibility` tries.

    Raises:
        ConfigError: not a class of sequential models; from the new class: it can't take item text (and why).
    """
    if not (inspect.isclass(base) and issubclass(base, SequentialRecommender)):
        raise ConfigError(f"{base!r} is not a class of RecBole sequential models")
    if hasattr(base, "recbole_base"):  # it has its item side replaced already
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
                    "name the columns of its .item file to read in selected_features"
                ) from error
            self.item_side_name = item_embedding_name(self, self.n_items)
            self.set_temperature(config["blair_temperature"])
            variant = _variant_of(config)
            if variant.items == "id":
                return
            vectors = getattr(dataset, "item_vectors", None)
            if vectors is None:
                raise ConfigError(f"blair_items is {variant.items!r}, but the data set carries no text vectors")
            replace_items(self, self.item_side_name, variant, vectors.table, config["seed"], vectors.fitted)

    TextModel.__name__ = TextModel.__qualname__ = f"BLaIR{base.__name__}"
    TextModel.__doc__ = f"RecBole's {base.__name__} with `blair_items` in the place of its item embedding."
    return TextModel


def model_class(name: str) -> type[SequentialRecommender]:
    """BLaIR<name> for the name of a RecBole sequential model.

    Raises:
        ConfigError: RecBole has no such sequential model, or it can't take item text (and why).
    """
    base = recbole_model(name.removeprefix("BLaIR"))
    _refuse_ineligible(base)
    return with_text(base)


def item_side(model: Any) -> nn.Embedding | ItemSide:
    """What turns item ids into vectors in this model."""
    side: nn.Embedding | ItemSide = model.get_submodule(model.item_side_name)
    return side


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers that training moves, and numbers that it reads but leaves (frozen tables)."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return {"trained": trained, "frozen": frozen + sum(b.numel() for b in model.buffers() if b.is_floating_point())}


def _refuse_ineligible(base: Any) -> None:
    if reason := why_not(base):
        raise ConfigError(f"{base.__name__} can't take item text: it {reason}")


def _variant_of(config: Any) -> VariantConfig:
    """What the `blair_*` keys of a RecBole config say of the item side."""
    keys = {key: name for key, (section, name) in PLUGIN_KEYS.items() if section is VariantConfig}
    return VariantConfig(**{name: config[key] for key, name in keys.items() if config[key] is not None})
