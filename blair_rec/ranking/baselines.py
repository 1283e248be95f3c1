"""Training-free scorers: popularity, transitions, rules, nearest neighbours by text.

Shapes: B cases, L items of a history at most, N item ids with the padding row 0, E text_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from blair_rec import registry
from blair_rec.config.steps import Step
from blair_rec.data.dataset import ItemVectors
from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.models.items import controlled
from blair_rec.models.scorer import refuse_new_items
from blair_rec.models.transforms import FittedTransforms
from blair_rec.models.whitening import fit_checked


class Baseline(nn.Module):
    """A training-free Scorer: it counts the training split, or looks up neighbours.

    Nothing here has a gradient. Counts are buffers, so they are saved and loaded like weights. A scorer of another
    package inherits from Counted or LastItem, and also gets the variant's `options` by name (docs/extend.md);
    `blair_rec.testing.ScorerContract` tests it.
    """

    scores_by_product = True
    """Whether the scores are `user_vectors @ item_matrix.T`."""
    uses_text: ClassVar[bool] = False
    """Whether it uses the items' text vectors."""
    fitted_transforms: FittedTransforms | None = None
    """Transforms of the text vectors; None without text."""

    def __init__(self, n_items: int, item_seq: str, item_seq_len: str) -> None:
        super().__init__()
        self.n_items = n_items
        self.ITEM_SEQ, self.ITEM_SEQ_LEN = item_seq, item_seq_len
        """Fields of an interaction: the items [B, L], oldest first, padded with 0, and their number [B]."""

    @property
    def device(self) -> torch.device:
        """Device of the counts, on which interactions have to be."""
        return next((counted.device for counted in self.buffers()), torch.device("cpu"))

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return scores [B, N] float32; ignore column 0, the padding."""
        return self.user_vectors(interaction) @ self.item_matrix().T

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return a vector for each history, [B, D] float32."""
        raise NotImplementedError

    def item_matrix(self) -> Tensor:
        """Return the vector of every item, [N, D] float32."""
        raise NotImplementedError

    def shared_items(self) -> AbstractContextManager[None]:
        """Do nothing: no item vectors have to be computed."""
        return nullcontext()

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split; a scorer that only looks up counts nothing."""

    def append_items(self, vectors: np.ndarray) -> None:
        """See Scorer.append_items.

        Raises:
            ConfigError: always, if it uses no text.
        """
        refuse_new_items(f"{type(self).__name__} can only score the items that it was built with")

    def last_items(self, interaction: Any) -> Tensor:
        """Return the last item of each history, [B] int64."""
        length: Tensor = interaction[self.ITEM_SEQ_LEN]
        last: Tensor = interaction[self.ITEM_SEQ].gather(1, length.unsqueeze(1) - 1).squeeze(1)
        return last


class Counted(Baseline):
    """A baseline that uses only counts of the training split."""

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split."""
        raise NotImplementedError


class Popularity(Counted):
    """Ranks items by their number of training events, for every user in the same way."""

    counts: Tensor

    def __init__(self, n_items: int, item_seq: str, item_seq_len: str) -> None:
        super().__init__(n_items, item_seq, item_seq_len)
        self.register_buffer("counts", torch.zeros(n_items))

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split."""
        counts = np.bincount(sequences.items, minlength=self.n_items)
        self.counts = torch.from_numpy(counts).float().to(self.device)

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return ones, [B, 1]."""
        return torch.ones(len(interaction[self.ITEM_SEQ_LEN]), 1, device=self.device)

    def item_matrix(self) -> Tensor:
        """Return the items' numbers of training events, [N, 1]."""
        return self.counts.unsqueeze(1)


class Markov(Counted):
    """First-order Markov chain: how often an item came right after the last one of the history, in training.

    score = transitions(last -> item) + events(item) / (1 + the most events of an item)

    The second part is below 1, so popularity only breaks ties between transitions. If no item followed the last one in
    training, it ranks all items. The table is sparse, with one entry for each pair that occurs. SciPy multiplies it on
    the CPU, whatever device keeps it.
    """

    REACH = 1
    """An item counts as a successor of another one if it comes at most this many events later."""
    POPULARITY = 1.0
    """Factor of the items' popularity, small enough that any rule counts more."""
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
        """Return scores [B, N] float32; ignore column 0, the padding."""
        row, item, weight = (part.cpu().numpy() for part in self.antecedents(interaction))
        shape = len(interaction[self.ITEM_SEQ]), self.n_items
        history = csr_array((weight, (row, item)), shape)
        rules = tuple(part.cpu().numpy() for part in (self.transitions, self.successor, self.start))
        found = history @ csr_array(rules, (self.n_items, self.n_items))
        return torch.from_numpy(found.toarray()).to(self.device).add_(self.share, alpha=self.POPULARITY)

    def antecedents(self, interaction: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the rules start from: ([E] cases, [E] items of their histories, [E] float32 weights)."""
        last = self.last_items(interaction)
        return torch.arange(len(last), device=last.device), last, torch.ones(len(last), device=last.device)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # The number of pairs is known only from the saved state.
        for name in ("successor", "transitions"):
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved, device=self.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class SequentialRules(Markov):
    """Sequential rules: items that came soon after the history's items in training; the sooner, the higher the score.

    score = sum over the items i of the history of rules(i -> item) / age(i)

    where rules(i -> item) is the sum of 1 / d over all times that `item` came d <= 10 events after i, and the last item
    of the history has age 1, the one before it 2, and so on. Popularity, times 1e-4, ranks the items that no rule
    reaches. Source: SR with steps=10 and weighting=div in Ludewig and Jannach, "Evaluation of session-based
    recommendation algorithms" (2018). SR uses the last item alone; 1 / age extends the same idea to the others.
    """

    REACH = 10
    POPULARITY = 1e-4

    def antecedents(self, interaction: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return every item of the histories, with weight 1 / age."""
        items, weights = interaction[self.ITEM_SEQ], recency(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        row, place = weights.nonzero(as_tuple=True)
        return row, items[row, place], weights[row, place]


class LastItem(Baseline):
    """Nearest neighbours of the history's last item, by the cosine of transformed text vectors.

    An item without text (a zero vector) has cosine 0 with all others.
    """

    uses_text = True
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
            vectors: [N - 1, E] as in the store, without a row for the padding.
            fitted: what the transforms found in an earlier fit; None: fit them now.

        Raises:
            ConfigError: whitening over too few items.
        """
        super().__init__(len(vectors) + 1, item_seq, item_seq_len)
        self._transforms, rows = fit_checked(vectors, transforms, fitted)
        self.fitted_transforms = self._transforms
        # They can be made from the store again, so checkpoints leave them out.
        self.register_buffer("unit", F.pad(unit_length(rows), (0, 0, 1, 0)), persistent=False)

    def append_items(self, vectors: np.ndarray) -> None:
        """Add items that came later, with ids from N on: [M, E] text vectors as in the store."""
        self.unit = torch.cat([self.unit, unit_length(self._transforms.apply(vectors)).to(self.unit)])
        self.n_items += len(vectors)

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return the last item's vector, of length 1, [B, E]."""
        return self.unit[self.last_items(interaction)]

    def item_matrix(self) -> Tensor:
        """Return the items' vectors, each of length 1, [N, E]."""
        return self.unit


class MeanHistory(LastItem):
    """Nearest neighbours of the whole history: the mean of an item's cosines to the items in the model's window."""

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return the mean of the history's vectors, which have length 1, [B, E]."""
        total = F.embedding_bag(interaction[self.ITEM_SEQ], self.unit, mode="sum", padding_idx=0)
        return total / interaction[self.ITEM_SEQ_LEN].unsqueeze(1)


class RecentHistory(LastItem):
    """Nearest neighbours of the history: the mean of cosines, weighted by 1 / age: 1 for the last item, 1/2, 1/3 ..."""

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return the weighted mean of the history's vectors, which have length 1, [B, E]."""
        items = interaction[self.ITEM_SEQ]
        weights = recency(items, interaction[self.ITEM_SEQ_LEN])
        weights /= weights.sum(dim=1, keepdim=True)
        return F.embedding_bag(items, self.unit, mode="sum", padding_idx=0, per_sample_weights=weights)


def build_baseline(setup: Mapping[str, Any], recbole: Any, n_items: int, vectors: ItemVectors | None) -> Baseline:
    """Build the baseline of a run's set-up (plan.run_setup) on the config's device, with nothing counted yet.

    Args:
        recbole: a RecBole config, which names the device and the fields of an interaction.
        vectors: the items' text vectors, for nearest neighbours.

    Raises:
        ConfigError: whitening over too few items; a scorer of another package that can't be imported; the errors of
            `scorer_kind`; UntrustedCode: as registry.load.
    """
    kind, options = scorer_kind(setup), setup.get("options") or {}
    fields = recbole["ITEM_ID_FIELD"] + recbole["LIST_SUFFIX"], recbole["ITEM_LIST_LENGTH_FIELD"]
    if not kind.uses_text:
        return make_baseline(kind, options, n_items, fields).to(recbole["device"])
    assert vectors is not None  # the config asks for text fields
    rows = controlled(vectors.table[1:], setup["control"], setup["seed"])
    made = make_baseline(kind, options, n_items, fields, rows, setup["transforms"], vectors.fitted)
    return made.to(recbole["device"])


def make_baseline(
    kind: Any,
    options: Mapping[str, Any],
    n_items: int,
    fields: tuple[str, str],
    vectors: np.ndarray | None = None,
    transforms: Sequence[Step] = (),
    fitted: Mapping[str, np.ndarray] | None = None,
) -> Baseline:
    """Build a baseline of any class, with the arguments of `LastItem` if it uses text, else with those of `Counted`."""
    given = (vectors, transforms, *fields, fitted) if kind.uses_text else (n_items, *fields)
    baseline: Baseline = kind(*given, **options)
    return baseline


def scorer_kind(setup: Mapping[str, Any]) -> Any:
    """Return the class of a run's scorer; `make_baseline` calls it.

    Raises:
        ConfigError: a scorer of another package is not a Baseline, doesn't take its options, or needs text that the
            variant doesn't name; UntrustedCode: as registry.load.
    """
    name = setup["scorer"]
    kind = registry.load_class("scorers", name, Baseline)
    if registry.is_outside("scorers", name):
        if kind.uses_text != bool(setup.get("text")):
            raise ConfigError(
                f"the scorer {name} uses item text, but its variant has neither text nor transforms; add text, or "
                "transforms such as [center]"
                if kind.uses_text
                else f"the scorer {name} uses no text, so transforms, control and text have no effect; leave them out"
            )
        registry.check_call("scorers", name, kind, 5 if kind.uses_text else 3, setup.get("options") or {})
    return kind


def recency(items: Tensor, length: Tensor) -> Tensor:
    """Return weights [B, L] float32: 1 for the last item of each history, 1/2 for the one before ...; 0 for padding."""
    age = length.unsqueeze(1) - torch.arange(items.shape[1], device=items.device)
    return torch.where(age > 0, 1 / age, 0)


def unit_length(vectors: np.ndarray) -> Tensor:
    """Scale vectors to length 1, [n, E] float32; a zero vector stays zero."""
    return F.normalize(torch.from_numpy(np.asarray(vectors, dtype=np.float64)), dim=1).float()
