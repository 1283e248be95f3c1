"""A scorer that looks up the scores of another system, for the cases of a split and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.log import LOG_POSITION
from blair_rec.errors import ConfigError, ScoringError
from blair_rec.experiment.elsewhere.lists import Lists
from blair_rec.experiment.elsewhere.matrices import Matrix
from blair_rec.models.scorer import refuse_new_items
from blair_rec.models.transforms import FittedTransforms


class FixedScores(nn.Module):
    """The scores of another system: its matrices, or its top lists, whose absent items have NaN.

    Shapes: B cases of a batch, N item ids with the padding.
    """

    scores_by_product = False
    fitted_transforms: FittedTransforms | None = None

    def __init__(
        self,
        split: TextSequentialDataset,
        device: torch.device,
        given: Sequence[tuple[TextSequentialDataset, Matrix | Lists]],
        digest: str = "",
    ) -> None:
        """
        Args:
            given: the scores with the part of the split that they are for; empty if nothing is looked up.
            digest: the hash of all files of the system.

        Raises:
            ConfigError: benchmark files in which a user has the same target in several cases.
        """
        super().__init__()
        self.device = device
        self.ITEM_SEQ, self.ITEM_SEQ_LEN = (
            f"{split.iid_field}{split.config['LIST_SUFFIX']}",
            split.item_list_length_field,
        )
        self._fields, self._n_items = (split.uid_field, split.iid_field), split.item_num
        self._given, self._digest = [scores for _, scores in given], digest
        keys = [self._keys(part.inter_feat) for part, _ in given]
        key = np.concatenate([np.zeros(0, dtype=np.int64), *keys])
        self._order = np.argsort(key)
        self._sorted = key[self._order]
        self._part = np.repeat(np.arange(len(keys)), [len(part) for part in keys])
        self._case = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(len(part)) for part in keys)])
        if (self._sorted[1:] == self._sorted[:-1]).any():
            raise ConfigError(
                "scores of other systems can't be used here: in the benchmark files a user has the same target in "
                "several cases"
            )

    def _keys(self, rows: Any) -> np.ndarray:
        """[B] int64, a number for each case that no other one has."""
        if LOG_POSITION in rows:
            found: np.ndarray = rows[LOG_POSITION].cpu().numpy()
            return found
        user, item = (rows[field].cpu().numpy() for field in self._fields)
        return np.asarray(user * self._n_items + item)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return scores [B, N] float32, NaN for items that a top list lacks; ignore column 0, the padding.

        Raises:
            ScoringError: a case that no file is for.
        """
        key = self._keys(interaction)
        place = np.minimum(np.searchsorted(self._sorted, key), max(len(self._sorted) - 1, 0))
        if len(self._sorted) == 0 or (self._sorted[place] != key).any():
            raise ScoringError(
                "the other system gave no scores for these cases; an average chooses its weights on validation, so "
                "give from_valid, or set weights: equal"
            )
        found = np.zeros((len(key), self._n_items), dtype=np.float32)
        index = self._order[place]
        for part, given in enumerate(self._given):
            mine = self._part[index] == part
            case = self._case[index[mine]]
            found[mine] = given.rows(case) if isinstance(given, Matrix) else given.rows(case, self._n_items)
        return torch.from_numpy(found).to(self.device)

    def shared_items(self) -> AbstractContextManager[Any]:
        """Do nothing: the scores are given."""
        return nullcontext()

    def user_vectors(self, interaction: Any) -> NoReturn:
        """Refuse: another system gives scores, but no vectors.

        Raises:
            ScoringError: always.
        """
        raise ScoringError(NO_VECTORS)

    def item_matrix(self) -> NoReturn:
        """Refuse: another system gives scores, but no vectors.

        Raises:
            ScoringError: always.
        """
        raise ScoringError(NO_VECTORS)

    def append_items(self, vectors: np.ndarray) -> None:
        """See Scorer.append_items.

        Raises:
            ConfigError: always.
        """
        refuse_new_items("another system made the scores")

    def state_dict(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Return the hash of the files instead of the scores; if it changes, results of these scores are made again."""
        return {"files": torch.tensor(list(self._digest.encode()), dtype=torch.uint8, device="cpu")}


NO_VECTORS = "another system made the scores, so there are no vectors of users and items"
