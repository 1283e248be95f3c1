"""Scorers that are counted or looked up, not trained: popularity, a Markov chain, nearest neighbours on text.

Shapes: B cases, L items of a history at most, N item ids with the padding row 0, E text_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blair_rec.recommend.dataset import ItemVectors
from blair_rec.recommend.items import controlled
from blair_rec.recommend.sequences import TrainingSequences
from blair_rec.recommend.transforms import fit_transforms
from blair_rec.steps import Step


class Baseline(nn.Module):
    """What `rank` and `Recommender` ask of a model, where the training split was counted instead of learnt.

    Nothing here has a gradient; what was counted are buffers, so that it is saved and loaded as weights are.
    """

    scores_by_product = True
    """Whether the scores are `user_vectors @ item_matrix.T`."""

    def __init__(self, n_items: int, item_seq: str, item_seq_len: str) -> None:
        super().__init__()
        self.n_items = n_items
        self.ITEM_SEQ, self.ITEM_SEQ_LEN = item_seq, item_seq_len
        """Fields of an interaction: the items [B, L], oldest first, padded with 0, and how many they are [B]."""
        self.device = torch.device("cpu")

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """[B, N] float32; the column of the padding means nothing."""
        return self.user_vectors(interaction) @ self.item_matrix().T

    def user_vectors(self, interaction: Any) -> Tensor:
        """[B, D] float32."""
        raise NotImplementedError

    def item_matrix(self) -> Tensor:
        """[N, D] float32."""
        raise NotImplementedError

    def shared_items(self) -> AbstractContextManager[None]:
        """As models.shared_items: there is nothing to compute once."""
        return nullcontext()

    def last_items(self, interaction: Any) -> Tensor:
        """[B] int64."""
        length: Tensor = interaction[self.ITEM_SEQ_LEN]
        last: Tensor = interaction[self.ITEM_SEQ].gather(1, length.unsqueeze(1) - 1).squeeze(1)
        return last


class Counted(Baseline):
    """A baseline that is made of counts of the training split alone."""

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split."""
        raise NotImplementedError


class Popularity(Counted):
    """Every user is given the items with the most training events."""

    counts: Tensor

    def __init__(self, n_items: int, item_seq: str, item_seq_len: str) -> None:
        super().__init__(n_items, item_seq, item_seq_len)
        self.register_buffer("counts", torch.zeros(n_items))

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split."""
        self.counts = torch.from_numpy(np.bincount(sequences.items, minlength=self.n_items)).float()

    def user_vectors(self, interaction: Any) -> Tensor:
        """[B, 1] ones."""
        return torch.ones(len(interaction[self.ITEM_SEQ_LEN]), 1)

    def item_matrix(self) -> Tensor:
        """[N, 1] training events."""
        return self.counts.unsqueeze(1)


class Markov(Counted):
    """First-order Markov chain: how often an item came right after the last one of the history, in training.

    score = transitions(last -> item) + events(item) / (1 + the most events of an item)

    The second part is below 1, so that popularity decides among equal transitions alone, and among all items after a
    last item that training never continued. Kept sparse: one entry for each pair that occurs.
    """

    scores_by_product = False
    share: Tensor
    start: Tensor
    successor: Tensor
    transitions: Tensor

    def __init__(self, n_items: int, item_seq: str, item_seq_len: str) -> None:
        super().__init__(n_items, item_seq, item_seq_len)
        self.register_buffer("share", torch.zeros(n_items))
        self.register_buffer("start", torch.zeros(n_items + 1, dtype=torch.int64))
        self.register_buffer("successor", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("transitions", torch.zeros(0))

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split, and each of its targets with the item right before it."""
        events = np.bincount(sequences.items, minlength=self.n_items)
        target = np.flatnonzero(sequences.is_target)
        pairs = sequences.items[target - 1] * self.n_items + sequences.items[target]
        pairs, transitions = np.unique(pairs, return_counts=True)
        self.share = torch.from_numpy(events / (1 + events.max())).float()
        self.start = torch.from_numpy(np.searchsorted(pairs, np.arange(self.n_items + 1) * self.n_items))
        self.successor = torch.from_numpy(pairs % self.n_items)
        self.transitions = torch.from_numpy(transitions).float()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """[B, N] float32; the column of the padding means nothing."""
        last = self.last_items(interaction)
        start, seen = self.start[last], self.start[last + 1] - self.start[last]
        row = torch.repeat_interleave(seen)
        entry = torch.arange(len(row)) - torch.repeat_interleave(seen.cumsum(0) - seen - start, seen)
        scores = self.share.repeat(len(last), 1)
        scores[row, self.successor[entry]] += self.transitions[entry]
        return scores

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # How many pairs there are is only known from what was saved.
        for name in ("successor", "transitions"):
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class LastItem(Baseline):
    """Nearest neighbours of the history's last item: the cosine of transformed text vectors.

    An item without text (a zero vector) has cosine 0 with all others.
    """

    unit: Tensor

    def __init__(
        self,
        vectors: np.ndarray,
        transforms: Sequence[Step],
        item_seq: str,
        item_seq_len: str,
        fitted: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """
        Args:
            vectors: [N - 1, E] as the store has them, without a row for the padding.
            fitted: what the transforms found in them before; None: they are fitted now.
        """
        super().__init__(len(vectors) + 1, item_seq, item_seq_len)
        self.transforms, rows = fit_transforms(vectors, transforms, fitted)
        # The store can give them again, so checkpoints do not carry them.
        self.register_buffer("unit", F.pad(unit_length(rows), (0, 0, 1, 0)), persistent=False)

    def append(self, vectors: np.ndarray) -> None:
        """Items that came later get the ids from N on: [M, E] text vectors as the store has them."""
        self.unit = torch.cat([self.unit, unit_length(self.transforms.apply(vectors))])
        self.n_items += len(vectors)

    def user_vectors(self, interaction: Any) -> Tensor:
        """[B, E] the last item's vector, of length 1."""
        return self.unit[self.last_items(interaction)]

    def item_matrix(self) -> Tensor:
        """[N, E] the items' vectors, of length 1."""
        return self.unit


class MeanHistory(LastItem):
    """Nearest neighbours of the whole history: the mean of an item's cosines to the items in the model's window."""

    def user_vectors(self, interaction: Any) -> Tensor:
        """[B, E] the mean of the history's vectors, each of length 1 before."""
        total = F.embedding_bag(interaction[self.ITEM_SEQ], self.unit, mode="sum", padding_idx=0)
        return total / interaction[self.ITEM_SEQ_LEN].unsqueeze(1)


def build_baseline(setup: Mapping[str, Any], recbole: Any, n_items: int, vectors: ItemVectors | None) -> Baseline:
    """The baseline of a run's set-up (plan.run_setup), with nothing counted yet.

    Args:
        recbole: a RecBole config, which names the fields of an interaction.
        vectors: the items' text vectors, for neighbours.
    """
    fields = recbole["ITEM_ID_FIELD"] + recbole["LIST_SUFFIX"], recbole["ITEM_LIST_LENGTH_FIELD"]
    if setup["scorer"] in COUNTED:
        return COUNTED[setup["scorer"]](n_items, *fields)
    assert vectors is not None  # the config asks for text fields
    rows = controlled(vectors.table[1:], setup["control"], setup["seed"])
    return NEIGHBOURS[setup["scorer"]](rows, setup["transforms"], *fields, vectors.fitted)


def unit_length(vectors: np.ndarray) -> Tensor:
    """[n, E] float32 of length 1; a zero vector stays zero."""
    return F.normalize(torch.from_numpy(np.asarray(vectors, dtype=np.float64)), dim=1).float()


COUNTED: dict[str, type[Counted]] = {"popularity": Popularity, "markov": Markov}
NEIGHBOURS: dict[str, type[LastItem]] = {"last_item": LastItem, "mean_history": MeanHistory}
"""By the `scorer` in the config."""
