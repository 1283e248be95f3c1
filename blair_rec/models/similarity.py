"""How a model's state and an item's vector make a score: their product, or their cosine over a temperature.

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
"""What a parameter of their forward is called -> the model's attribute that names the field given there."""


def product_scorer(cls: Any) -> Any | None:
    """The class of SCORE_BY_PRODUCT whose scoring a model class has unchanged; None where it has another one.

    A class that scores in a way of its own is none of these, whatever it inherits from.
    """
    scoring = getattr(cls, "recbole_base", cls).full_sort_predict
    return next((known for known in SCORE_BY_PRODUCT if known.full_sort_predict is scoring), None)


def state_fields(scorer: Any) -> list[str]:
    """The attributes of such a model that name the fields which its forward is given, in their order."""
    _, *parameters = inspect.signature(scorer.forward).parameters
    return [_READ_AS[name] for name in parameters]


def as_query(state: Tensor, temperature: float | None) -> Tensor:
    """[..., H] states as they meet `as_key`'s: unchanged, or of length 1 / temperature."""
    return state if temperature is None else F.normalize(state, dim=-1) / temperature


def as_key(vectors: Tensor, temperature: float | None) -> Tensor:
    """[..., H] item vectors as they meet `as_query`'s: unchanged, or of length 1 where there is a temperature."""
    return vectors if temperature is None else F.normalize(vectors, dim=-1)


class Similarity:
    """Base of our models, before RecBole's class: with `blair_temperature`, scores are cosines over it."""

    item_side_name: str
    """Where the item side is, as nn.Module.get_submodule takes it."""
    blair_temperature: float | None = None
    scores_packed: bool = False
    """Whether full_sort_predict leaves out the padding of histories, which rounds other than RecBole's own; its trainer
    asks for it where training leaves it out, too."""
    _held: Tensor | None = None

    def set_temperature(self, temperature: float | None) -> None:
        """Score by cosine over `temperature`; None leaves the scores as they are.

        Raises:
            ConfigError: a model whose training is RecBole's own, which a temperature doesn't reach.
        """
        if temperature is not None and not can_pack(type(self)):
            raise ConfigError(
                f"{type(self).__name__} trains and scores RecBole's way, which a temperature doesn't reach; "
                "leave it out (set it to null for unisrec, which has one by itself), or take SASRec or GRU4Rec"
            )
        self.blair_temperature = temperature

    @property
    def scores_by_product(self) -> bool:
        """Whether the scores are `user_vectors @ item_matrix.T` and nothing else."""
        return product_scorer(type(self)) is not None

    def user_vectors(self, interaction: Any) -> Tensor:
        """[B, H]: the model's state after each history, ready to meet `item_matrix`.

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
        """[N, H]: the vector of every item, ready to meet `user_vectors`."""
        model: Any = self
        return as_key(model.get_submodule(self.item_side_name).weight, self.blair_temperature)

    def predict(self, interaction: Any) -> Tensor:
        """[B]: the score of each case's own item."""
        if self.blair_temperature is None:
            return super().predict(interaction)  # type: ignore[misc]
        rows = self.item_matrix()[interaction[self.ITEM_ID]]  # type: ignore[attr-defined]
        return (self.user_vectors(interaction) * rows).sum(-1)

    @contextmanager
    def scores_overwritten(self) -> Iterator[None]:
        """Within this block, and without gradients, full_sort_predict may write over the scores that it gave before.

        They are tens of megabytes, which a system that gives them anew for each batch fills with zeros first.
        """
        self._held = torch.empty(0, device=self.device)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self._held = None

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """[B, N]: the score of every item."""
        if self.blair_temperature is not None or self.scores_packed:
            users, items = self.user_vectors(interaction), self.item_matrix()
            return torch.mm(users, items.T, out=self._room(users, items))
        scores: Tensor = super().full_sort_predict(interaction)  # type: ignore[misc]
        return scores

    def _room(self, users: Tensor, items: Tensor) -> Tensor | None:
        """Where the scores may be written: [B, N], or None for a place of their own."""
        if self._held is None:
            return None
        if self._held.numel() < len(users) * len(items):
            self._held = users.new_empty(len(users) * len(items))
        return self._held[: len(users) * len(items)].view(len(users), len(items))
