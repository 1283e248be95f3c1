"""RecBole sequential models with their item side replaced, and what can be asked of them."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from functools import cache
from typing import Any

from torch import nn

from blair_rec.errors import ConfigError
from blair_rec.recommend.items import Items, build_items
from blair_rec.recommend.settings import complete_config

from recbole.model import sequential_recommender
from recbole.model.abstract_recommender import SequentialRecommender


@cache
def with_text(base: type[SequentialRecommender]) -> type[SequentialRecommender]:
    """A RecBole sequential model class whose item embedding can be replaced by an item side of ours.

    The new class is called BLaIR<Name>. It reads `blair_items`, `blair_transforms` and `blair_control` from its
    config and the text vectors from its data set (`item_vectors`). With `blair_items: id` it is the model that it
    was, with the same initial weights. The same base gives the same class.

    Raises:
        ConfigError: not a class of sequential models.
    """
    if not (inspect.isclass(base) and issubclass(base, SequentialRecommender)):
        raise ConfigError(f"{base!r} is not a class of RecBole sequential models")
    if hasattr(base, "recbole_base"):  # it has its item side replaced already
        return base

    class TextModel(base):
        recbole_base = base
        complete_config = staticmethod(complete_config)

        def __init__(self, config: Any, dataset: Any) -> None:
            super().__init__(config, dataset)
            self.item_side_name = item_embedding_name(self, self.n_items)
            kind = config["blair_items"] or "id"
            if kind == "id":
                return
            vectors = getattr(dataset, "item_vectors", None)
            if vectors is None:
                raise ConfigError(f"blair_items is {kind!r}, but the data set carries no text vectors")
            replaced = self.get_submodule(self.item_side_name)
            items = build_items(
                kind,
                vectors.table,
                tuple(config["blair_transforms"] or ()),
                config["blair_control"],
                replaced,
                seed=config["seed"],
            )
            parent, _, name = self.item_side_name.rpartition(".")
            setattr(self.get_submodule(parent), name, items)

    TextModel.__name__ = TextModel.__qualname__ = f"BLaIR{base.__name__}"
    TextModel.__doc__ = f"RecBole's {base.__name__} with `blair_items` in the place of its item embedding."
    return TextModel


def model_class(name: str) -> type[SequentialRecommender]:
    """BLaIR<name> for the name of a RecBole sequential model.

    Raises:
        ConfigError: RecBole has no such sequential model.
    """
    classes = vars(sequential_recommender).items()
    known: dict[str, Any] = {key: value for key, value in classes if inspect.isclass(value)}
    if name not in known:
        as_written = {key.lower(): key for key in known}
        near = get_close_matches(name.lower(), as_written, n=1)
        hint = f"did you mean {as_written[near[0]]!r}?" if near else f"known: {', '.join(sorted(known))}"
        raise ConfigError(f"model is {name!r}, which is no sequential model of RecBole; {hint}")
    return with_text(known[name])


def item_embedding_name(model: nn.Module, n_items: int) -> str:
    """Where the one item embedding of a built RecBole model is.

    Raises:
        ConfigError: none, or several (or one under several names): replacing one would leave the others untouched.
    """
    names = [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Embedding) and module.num_embeddings >= n_items and "item" in name.lower()
    ]
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise ConfigError(
            f"{type(model).__name__} has {len(names)} item embeddings ({found}); exactly one can be replaced"
        )
    return names[0]


def item_side(model: Any) -> nn.Embedding | Items:
    """What turns item ids into vectors in this model."""
    side: nn.Embedding | Items = model.get_submodule(model.item_side_name)
    return side


def shared_items(model: Any) -> AbstractContextManager[None]:
    """Compute the item vectors once within this block, where computing them costs anything."""
    items = item_side(model)
    return items.shared() if isinstance(items, Items) else nullcontext()


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers that training moves, and numbers that it reads but leaves (frozen tables)."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return {"trained": trained, "frozen": frozen + sum(b.numel() for b in model.buffers() if b.is_floating_point())}
