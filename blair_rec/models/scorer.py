"""What scores items: the one interface that ranking, recommending, exporting and saving know."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from blair_rec.errors import ConfigError
from blair_rec.models.items.base import NEW_ITEMS
from blair_rec.models.transforms import FittedTransforms


@runtime_checkable
class Scorer(Protocol):
    """A model with text, a baseline or an ensemble.

    Shapes: B cases, N item ids with the padding row 0, D the width of the vectors, L items of a history at most.
    """

    ITEM_SEQ: str
    """Field of an interaction: the items [B, L] int64, oldest first, padded with 0."""
    ITEM_SEQ_LEN: str
    """Field of an interaction: how many they are, [B] int64."""

    @property
    def device(self) -> torch.device:
        """Where interactions have to be."""

    def eval(self) -> Any:
        """No dropout from now on, as torch's."""

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """[B, N]: the score of every item; the column of the padding means nothing."""

    @property
    def scores_by_product(self) -> bool:
        """Whether items are ordered as by `user_vectors @ item_matrix.T`; without it, there are no such vectors."""

    def user_vectors(self, interaction: Any) -> Tensor:
        """[B, D]: a vector for each history."""

    def item_matrix(self) -> Tensor:
        """[N, D]: the vector of every item."""

    def shared_items(self) -> AbstractContextManager[Any]:
        """Within this block the items' vectors are computed once, where computing them costs anything."""

    def append_items(self, vectors: np.ndarray) -> None:
        """Items that came after training get the ids from N on: [M, E] text vectors as the store has them.

        Raises:
            ConfigError: it knows items by more than their text.
        """

    @property
    def fitted_transforms(self) -> FittedTransforms | None:
        """What the text vectors went through; None where it is not made from them."""

    def state_dict(self) -> Mapping[str, Any]:
        """What a file of weights holds, as torch's."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take what `state_dict` gave, as torch's."""


def refuse_new_items(why: str) -> NoReturn:
    """The error of a scorer that knows items by more than their text.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"an item that came after training can't be scored: {why}; {NEW_ITEMS}")


def transform_report(scorer: Scorer) -> list[dict[str, Any]]:
    """What each transform of the text vectors found in the catalogue; nothing where no item side comes from text."""
    fitted = scorer.fitted_transforms
    return [] if fitted is None else list(fitted.report)
