"""Scorers that are counted or looked up, not trained: popularity, transitions, nearest neighbours on text.

Shapes: B cases, L items of a history at most, N item ids with the padding row 0, E text_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from blair_rec.config.steps import Step
from blair_rec.data.dataset import ItemVectors
from blair_rec.data.sequences import TrainingSequences
from blair_rec.models.items import controlled
from blair_rec.models.scorer import refuse_new_items
from blair_rec.models.transforms import FittedTransforms
from blair_rec.models.whitening import fit_checked


class Baseline(nn.Module):
    """A Scorer that counts the training split, or looks up neighbours, instead of learning.

    Nothing here has a gradient; what was counted are buffers, so that it is saved and loaded as weights are.
    """

    scores_by_product = True
    """Whether the scores are `user_vectors @ item_matrix.T`."""
    fitted_transforms: FittedTransforms | None = None
    """What the text vectors went through; None without text."""

    def __init__(self, n_items: int, item_seq: str, item_seq_len: str) -> None:
        super().__init__()
        self.n_items = n_items
        self.ITEM_SEQ, self.ITEM_SEQ_LEN = item_seq, item_seq_len
        """Fields of an interaction: the items [B, L], oldest first, padded with 0, and how many they are [B]."""

    @property
    def device(self) -> torch.device:
        """Where what was counted is, and where interactions have to be."""
        return next((counted.device for counted in self.buffers()), torch.device("cpu"))

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
        """There is nothing to compute once."""
        return nullcontext()

    def append_items(self, vectors: np.ndarray) -> None:
        """As Scorer's.

        Raises:
            ConfigError: always, where no text is used.
        """
        refuse_new_items(f"{type(self).__name__} is made of the items that it was given at first")

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
        counts = np.bincount(sequences.items, minlength=self.n_items)
        self.counts = torch.from_numpy(counts).float().to(self.device)

    def user_vectors(self, interaction: Any) -> Tensor:
        """[B, 1] ones."""
        return torch.ones(len(interaction[self.ITEM_SEQ_LEN]), 1, device=self.device)

    def item_matrix(self) -> Tensor:
        """[N, 1] training events."""
        return self.counts.unsqueeze(1)


class Markov(Counted):
    """First-order Markov chain: how often an item came right after the last one of the history, in training.

    score = transitions(last -> item) + events(item) / (1 + the most events of an item)

    The second part is below 1, so that popularity decides among equal transitions alone, and among all items after a
    last item that training never continued. Kept sparse: one entry for each pair that occurs; SciPy multiplies them, on
    the CPU, wherever they are kept.
    """

    REACH = 1
    """How many events after another one an item is still counted as its successor."""
    POPULARITY = 1.0
    """What the items' popularity is multiplied by: less than any rule counts."""
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
        """Count the events of a training split, and each of its targets with the items up to REACH before it."""
        events = np.bincount(sequences.items, minlength=self.n_items)
        before = np.arange(len(sequences.items)) - np.repeat(sequences.offsets[:-1], np.diff(sequences.offsets))
        table = csr_array((self.n_items, self.n_items))
        for distance in range(1, self.REACH + 1):
            target = np.flatnonzero(sequences.is_target & (before >= distance))
            pairs = sequences.items[target - distance], sequences.items[target]
            table = table + csr_array((np.full(len(target), 1 / distance), pairs), table.shape)
        device = self.device
        self.share = torch.from_numpy(events / (1 + events.max())).float().to(device)
        self.start, self.successor = (torch.from_numpy(ids).long().to(device) for ids in (table.indptr, table.indices))
        self.transitions = torch.from_numpy(table.data).float().to(device)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """[B, N] float32; the column of the padding means nothing."""
        row, item, weight = (part.cpu().numpy() for part in self.antecedents(interaction))
        shape = len(interaction[self.ITEM_SEQ]), self.n_items
        history = csr_array((weight, (row, item)), shape)
        rules = tuple(part.cpu().numpy() for part in (self.transitions, self.successor, self.start))
        found = history @ csr_array(rules, (self.n_items, self.n_items))
        return torch.from_numpy(found.toarray()).to(self.device).add_(self.share, alpha=self.POPULARITY)

    def antecedents(self, interaction: Any) -> tuple[Tensor, Tensor, Tensor]:
        """What the rules start from: ([E] cases, [E] items of their histories, [E] float32 weights)."""
        last = self.last_items(interaction)
        return torch.arange(len(last), device=last.device), last, torch.ones(len(last), device=last.device)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # How many pairs there are is only known from what was saved.
        for name in ("successor", "transitions"):
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved, device=self.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class SequentialRules(Markov):
    """Sequential rules: which items came soon after those of the history, in training; the sooner, the more.

    score = sum over the items i of the history of rules(i -> item) / age(i)

    where rules(i -> item) is the sum of 1 / d over all times that `item` came d <= 10 events after i, and the last item
    of the history has age 1, the one before it 2, and so on. Popularity, times 1e-4, decides among items that no rule
    reaches. Source: SR with steps=10 and weighting=div in Ludewig and Jannach, "Evaluation of session-based
    recommendation algorithms" (2018), which looks at the last item alone; 1 / age is the same idea for the others.
    """

    REACH = 10
    POPULARITY = 1e-4

    def antecedents(self, interaction: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Every item of a history, with 1 / age."""
        items, weights = interaction[self.ITEM_SEQ], recency(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        row, place = weights.nonzero(as_tuple=True)
        return row, items[row, place], weights[row, place]


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

        Raises:
            ConfigError: whitening over too few items.
        """
        super().__init__(len(vectors) + 1, item_seq, item_seq_len)
        self._transforms, rows = fit_checked(vectors, transforms, fitted)
        self.fitted_transforms = self._transforms
        # The store can give them again, so checkpoints do not carry them.
        self.register_buffer("unit", F.pad(unit_length(rows), (0, 0, 1, 0)), persistent=False)

    def append_items(self, vectors: np.ndarray) -> None:
        """Items that came later get the ids from N on: [M, E] text vectors as the store has them."""
        self.unit = torch.cat([self.unit, unit_length(self._transforms.apply(vectors)).to(self.unit)])
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


class RecentHistory(LastItem):
    """Nearest neighbours of the history: the mean of cosines, weighted by 1 / age: 1 for the last item, 1/2, 1/3 ..."""

    def user_vectors(self, interaction: Any) -> Tensor:
        """[B, E] the weighted mean of the history's vectors, each of length 1 before."""
        items = interaction[self.ITEM_SEQ]
        weights = recency(items, interaction[self.ITEM_SEQ_LEN])
        weights /= weights.sum(dim=1, keepdim=True)
        return F.embedding_bag(items, self.unit, mode="sum", padding_idx=0, per_sample_weights=weights)


def build_baseline(setup: Mapping[str, Any], recbole: Any, n_items: int, vectors: ItemVectors | None) -> Baseline:
    """The baseline of a run's set-up (plan.run_setup), with nothing counted yet, on the config's device.

    Args:
        recbole: a RecBole config, which names the device, and the fields of an interaction.
        vectors: the items' text vectors, for neighbours.
    """
    fields = recbole["ITEM_ID_FIELD"] + recbole["LIST_SUFFIX"], recbole["ITEM_LIST_LENGTH_FIELD"]
    if setup["scorer"] in COUNTED:
        return COUNTED[setup["scorer"]](n_items, *fields).to(recbole["device"])
    assert vectors is not None  # the config asks for text fields
    rows = controlled(vectors.table[1:], setup["control"], setup["seed"])
    neighbours = NEIGHBOURS[setup["scorer"]](rows, setup["transforms"], *fields, vectors.fitted)
    return neighbours.to(recbole["device"])


def recency(items: Tensor, length: Tensor) -> Tensor:
    """[B, L] float32: 1 for the last item of each history, 1/2 for the one before it, 1/3 ...; 0 for the padding."""
    age = length.unsqueeze(1) - torch.arange(items.shape[1], device=items.device)
    return torch.where(age > 0, 1 / age, 0)


def unit_length(vectors: np.ndarray) -> Tensor:
    """[n, E] float32 of length 1; a zero vector stays zero."""
    return F.normalize(torch.from_numpy(np.asarray(vectors, dtype=np.float64)), dim=1).float()


COUNTED: dict[str, type[Counted]] = {
    "popularity": Popularity,
    "markov": Markov,
    "sequential_rules": SequentialRules,
}
NEIGHBOURS: dict[str, type[LastItem]] = {
    "last_item": LastItem,
    "mean_history": MeanHistory,
    "recent_history": RecentHistory,
}
"""By the `scorer` in the config."""
