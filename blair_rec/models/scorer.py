"""The interface of everything that scores items. Ranking, recommending, exporting and saving use nothing else."""

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
    """Field of an interaction: the number of items in the history, [B] int64."""

    @property
    def device(self) -> torch.device:
        """Device on which interactions have to be."""

    def eval(self) -> Any:
        """Switch dropout off, like torch's `eval`."""

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the score of every item, [B, N]; ignore column 0, the padding."""

    @property
    def scores_by_product(self) -> bool:
        """Whether `user_vectors @ item_matrix.T` orders items as the scores do; if not, there are no such vectors."""

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return a vector for each history, [B, D]."""

    def item_matrix(self) -> Tensor:
        """Return the vector of every item, [N, D]."""

    def shared_items(self) -> AbstractContextManager[Any]:
        """Compute the items' vectors only once within this block."""

    def append_items(self, vectors: np.ndarray) -> None:
        """Add items that came after training, with ids from N on: [M, E] text vectors as in the store.

        Raises:
            ConfigError: the scorer needs more than an item's text.
        """

    @property
    def fitted_transforms(self) -> FittedTransforms | None:
        """Transforms of the text vectors; None if the scorer uses no text."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the tensors that a file of weights holds, like torch's `state_dict`."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Load what `state_dict` returned, like torch's `load_state_dict`."""


def refuse_new_items(why: str) -> NoReturn:
    """Raise the error of a scorer that can't take new items, with the reason.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"an item that came after training can't be scored: {why}; {NEW_ITEMS}")


def transform_report(scorer: Scorer) -> list[dict[str, Any]]:
    """Return what each transform of the text vectors found in the catalogue; an empty list without text."""
    fitted = scorer.fitted_transforms
    return [] if fitted is None else list(fitted.report)
