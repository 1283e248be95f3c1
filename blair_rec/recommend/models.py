"""RecBole sequential models with their item side replaced, and what can be asked of them."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from recbole.model import sequential_recommender
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import GRU4Rec, SASRec
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blair_rec.errors import CheckpointError, ConfigError
from blair_rec.recommend.items import Items, build_items
from blair_rec.recommend.settings import complete_config

EVERY_POSITION = (SASRec, GRU4Rec)
"""Causal models whose hidden state at a position sees the items up to it: one pass teaches all positions."""


def with_text(base: type[SequentialRecommender]) -> type[SequentialRecommender]:
    """A RecBole sequential model class whose item embedding can be replaced by an item side of ours.

    The new class is called BLaIR<Name>. It reads `blair_items`, `blair_transforms` and `blair_control` from its
    config and the text vectors from its data set (`item_vectors`). With `blair_items: id` it is the model that it
    was, with the same initial weights.

    Raises:
        ConfigError: not a class of sequential models.
    """
    if not (inspect.isclass(base) and issubclass(base, SequentialRecommender)):
        raise ConfigError(f"{base!r} is not a class of RecBole sequential models")

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

        def gather_indexes(self, output: Tensor, gather_index: Tensor) -> Tensor:
            """As RecBole's; a matrix of indices asks for every position."""
            return output if gather_index.dim() == 2 else super().gather_indexes(output, gather_index)

    TextModel.__name__ = TextModel.__qualname__ = f"BLaIR{base.__name__}"
    TextModel.__doc__ = f"RecBole's {base.__name__} with `blair_items` in the place of its item embedding."
    return TextModel


def model_class(name: str) -> type[SequentialRecommender]:
    """BLaIR<name> for the name of a RecBole sequential model.

    Raises:
        ConfigError: RecBole has no such sequential model.
    """
    base = getattr(sequential_recommender, name, None)
    if base is None:
        known = [key for key, value in vars(sequential_recommender).items() if inspect.isclass(value)]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
        raise ConfigError(f"model is {name!r}, which is no sequential model of RecBole; {hint}")
    return with_text(base)


def item_embedding_name(model: nn.Module, n_items: int) -> str:
    """Where the one item embedding of a built RecBole model is.

    Raises:
        ConfigError: none, or several: then replacing one would leave the others untouched.
    """
    names = [
        name
        for name, module in model.named_modules()
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


def can_teach_every_position(model: nn.Module) -> bool:
    """Whether one pass over a sequence gives the hidden state of each of its positions."""
    return isinstance(model, EVERY_POSITION)


def hidden_states(model: Any, items: Tensor) -> Tensor:
    """[B, T] item ids, padded at the end -> [B, T, H]: the state after each item, from which the next is predicted."""
    lengths = torch.arange(1, items.shape[1] + 1, device=items.device).expand_as(items)
    states: Tensor = model.forward(items, lengths)
    return states


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers that training moves, and numbers that it reads but leaves (frozen tables)."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return {"trained": trained, "frozen": frozen + sum(b.numel() for b in model.buffers() if b.is_floating_point())}


def save_weights(model: nn.Module, path: Path, store_sha256: str | None) -> None:
    """The trained weights as safetensors, under a temporary name first; frozen tables stay in their store."""
    partial = path.with_name(f".{path.name}.partial")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, partial, metadata={"store_sha256": store_sha256 or "", "model": type(model).__name__})
    partial.replace(path)


def load_weights(model: nn.Module, path: Path, store_sha256: str | None) -> None:
    """Put saved weights into a model built the same way.

    Raises:
        CheckpointError: no such file, weights of another model, or trained over another store.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no saved weights there")
    with safe_open(path, framework="pt") as file:
        needed = (file.metadata() or {}).get("store_sha256") or None
    if needed is not None and needed != store_sha256:
        has = f"the store given is {store_sha256}" if store_sha256 else "no store was given"
        raise CheckpointError(
            f"{path} was trained over the text vectors of store {needed}, which a checkpoint does not carry, "
            f"and {has}; point to that store, or make it again with `blair-rec encode`"
        )
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds weights of another model: {error}") from None
