"""Scores from a model's state and an item's vector: their inner product, or their cosine over a temperature.

Shapes: B cases, N items with the padding row 0, H hidden_size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blair_rec.errors import ConfigError
from blair_rec.models.packed import can_pack, last_states

from recbole.model import sequential_recommender as models

SCORE_BY_PRODUCT = (
    models.SASRec,
    models.GRU4Rec,
    models.FDSA,
    models.FEARec,
    models.GCSAN,
    models.GRU4RecF,
    models.LightSANs,
    models.NARM,
    models.SASRecF,
    models.SINE,
    models.SRGNN,
    models.STAMP,
    models.NextItNet,
    models.Caser,
    models.FOSSIL,
    models.HRM,
    models.SHAN,
)
"""RecBole's models whose full_sort_predict is `forward(...) @ item table`."""
_READ_AS = {
    "item_seq": "ITEM_SEQ",
    "seq_item": "ITEM_SEQ",
    "item_seq_len": "ITEM_SEQ_LEN",
    "seq_item_len": "ITEM_SEQ_LEN",
    "user": "USER_ID",
}
"""Name of a parameter of their forward -> attribute of the model that holds the name of the parameter's field."""


def product_scorer(cls: Any) -> Any | None:
    """Return the class of SCORE_BY_PRODUCT whose full_sort_predict a model class uses unchanged; None without one.

    A class with its own full_sort_predict gets None, whatever it inherits from.
    """
    scoring = getattr(cls, "recbole_base", cls).full_sort_predict
    return next((known for known in SCORE_BY_PRODUCT if known.full_sort_predict is scoring), None)


def state_fields(scorer: Any) -> list[str]:
    """Return the attributes of such a model that hold the names of its forward's fields, in order."""
    _, *parameters = inspect.signature(scorer.forward).parameters
    return [_READ_AS[name] for name in parameters]


def as_query(state: Tensor, temperature: float | None) -> Tensor:
    """Prepare states [..., H] for the product with `as_key`'s vectors: unchanged, or of length 1 / temperature."""
    return state if temperature is None else F.normalize(state, dim=-1) / temperature


def as_key(vectors: Tensor, temperature: float | None) -> Tensor:
    """Prepare item vectors [..., H] for the product with `as_query`'s states: unchanged, or of length 1."""
    return vectors if temperature is None else F.normalize(vectors, dim=-1)


class Similarity:
    """Base class of our models, before RecBole's class: with `blair_temperature`, scores are cosines divided by it."""

    item_side_name: str
    """Name of the item side, for nn.Module.get_submodule."""
    blair_temperature: float | None = None
    scores_packed: bool = False
    """Whether full_sort_predict skips the padding of histories. It then rounds differently from RecBole's own method.
    Our Trainer sets it for models whose training skips the padding, too."""
    _held: Tensor | None = None

    def set_temperature(self, temperature: float | None) -> None:
        """Score by cosine over `temperature`; None leaves the scores as they are.

        Raises:
            ConfigError: the model trains RecBole's way, where a temperature isn't supported.
        """
        if temperature is not None and not can_pack(type(self)):
            raise ConfigError(
                f"a temperature isn't supported for {type(self).__name__}, which trains and scores RecBole's way; "
                "leave it out (set it to null for unisrec, which has a default), or use SASRec, eSASRec or GRU4Rec"
            )
        self.blair_temperature = temperature

    @property
    def scores_by_product(self) -> bool:
        """Whether the scores are `user_vectors @ item_matrix.T` and nothing else."""
        return product_scorer(type(self)) is not None

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return the model's state after each history, [B, H], for the product with `item_matrix`.

        Raises:
            TypeError: a model that doesn't score by product.
        """
        model: Any = self
        scorer = product_scorer(type(self))
        if scorer is None:
            raise TypeError(f"{type(self).__name__} does not score by product")
        if can_pack(type(self)):  # which computes nothing for padding
            history, length = interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN].cpu().numpy()
            state = last_states(model, history.flatten(), np.arange(len(length)) * history.shape[1], length)
            return as_query(state, self.blair_temperature)
        state = model(*(interaction[getattr(model, field)] for field in state_fields(scorer)))
        return as_query(state, self.blair_temperature)

    def item_matrix(self) -> Tensor:
        """Return the vector of every item, [N, H], for the product with `user_vectors`."""
        model: Any = self
        return as_key(model.get_submodule(self.item_side_name).weight, self.blair_temperature)

    def predict(self, interaction: Any) -> Tensor:
        """Return the score of each case's own item, [B]."""
        if self.blair_temperature is None:
            return super().predict(interaction)  # type: ignore[misc]
        rows = self.item_matrix()[interaction[self.ITEM_ID]]  # type: ignore[attr-defined]
        return (self.user_vectors(interaction) * rows).sum(-1)

    @contextmanager
    def scores_overwritten(self) -> Iterator[None]:
        """Let full_sort_predict reuse the memory of its last scores within this block. Gradients have to be off.

        The scores are tens of megabytes. If each batch asked for new memory, the system would fill it with zeros first.
        """
        self._held = torch.empty(0, device=self.device)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self._held = None

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the score of every item, [B, N]."""
        if self.blair_temperature is not None or self.scores_packed:
            users, items = self.user_vectors(interaction), self.item_matrix()
            return torch.mm(users, items.T, out=self._room(users, items))
        return super().full_sort_predict(interaction)  # type: ignore[misc]

    def _room(self, users: Tensor, items: Tensor) -> Tensor | None:
        """Return memory for the scores, [B, N], or None if they have to get new memory."""
        if self._held is None:
            return None
        if self._held.numel() < len(users) * len(items):
            self._held = users.new_empty(len(users) * len(items))
        return self._held[: len(users) * len(items)].view(len(users), len(items))
