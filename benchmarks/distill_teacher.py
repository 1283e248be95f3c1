"""What the teacher of distill.py ranks first at every training position, with rules that have not seen the user.

Rules that count a transition rank its target too high when they are asked about this same transition. So they are
counted without all events of the user whose position is asked about. This is also what the rules know in validation: a
user's own transitions lead to items of the history, which are not candidates in the masked protocol.

Shapes: C training positions, B of them in a batch, S sequences in a batch, L items of a history at most, K items in a
list, N item ids with the padding row 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.files import partial_of, replace_file
from blair_rec.ranking.ensemble import Ensemble, standardised
from blair_rec.ranking.scorers import Counted
from blair_rec.ranking.scorers.rules import SequentialRules
from blair_rec.ranking.scorers.tables import pairs_within

TOGETHER = 512
"""Training positions that are scored together, about."""


@dataclass(frozen=True, eq=False)
class TopLists:
    """The teacher's best items at every training position, in the order of the targets in the training sequences."""

    items: np.ndarray
    """[C, K] int32 item ids, best first."""
    scores: np.ndarray
    """[C, K] float32 scores, standardised over all items; -inf for an item that isn't a candidate."""
    ndcg: float
    """The teacher's NDCG@10 at the training positions."""

    def save(self, path: Path) -> None:
        """Write a complete file or none."""
        partial = partial_of(path)
        with partial.open("wb") as file:
            np.savez(file, items=self.items, scores=self.scores, ndcg=self.ndcg)
        replace_file(partial, path)

    @classmethod
    def load(cls, path: Path) -> TopLists:
        """Read what `save` has written."""
        with np.load(path, allow_pickle=False) as file:
            return cls(file["items"], file["scores"], float(file["ndcg"]))


@dataclass(frozen=True, eq=False)
class Batch:
    """The training positions of some whole sequences."""

    items: np.ndarray
    """[M] int64 item of every event of these sequences."""
    sequence: np.ndarray
    """[M] int64 sequence of every event, from 0 in this batch."""
    before: np.ndarray
    """[M] int64 number of events before each event in its sequence."""
    targets: np.ndarray
    """[B] int64 places of the targets among the M events."""

    def history(self, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ([E] position, [E] place of an event before it, [E] age from 1) of the last `width` items of each."""
        length = np.minimum(self.before[self.targets], width)
        position = np.repeat(np.arange(len(self.targets)), length)
        age = np.arange(len(position)) - np.repeat(np.cumsum(length) - length, length) + 1
        return position, self.targets[position] - age, age

    def interaction(self, scorer: Any, width: int) -> dict[str, Tensor]:
        """Return the histories as a scorer reads them: [B, L] items, oldest first, and [B] lengths."""
        position, place, age = self.history(width)
        length = np.minimum(self.before[self.targets], width)
        items = np.zeros((len(self.targets), width), dtype=np.int64)
        items[position, length[position] - age] = self.items[place]
        fields = {scorer.ITEM_SEQ: items, scorer.ITEM_SEQ_LEN: length}
        return {name: torch.from_numpy(part).to(scorer.device) for name, part in fields.items()}


def batches(sequences: TrainingSequences, together: int = TOGETHER) -> Iterator[Batch]:
    """Yield all training positions in order, about `together` at a time; no sequence is split."""
    targets_before = np.concatenate([[0], np.cumsum(sequences.is_target)])[sequences.offsets]
    number = targets_before[:-1] // together
    for part in np.split(np.arange(len(number)), np.flatnonzero(np.diff(number)) + 1):
        offsets = sequences.offsets[part[0] : part[-1] + 2]
        events = slice(offsets[0], offsets[-1])
        length = np.diff(offsets)
        before = np.arange(offsets[-1] - offsets[0]) - np.repeat(offsets[:-1] - offsets[0], length)
        targets = np.flatnonzero(sequences.is_target[events])
        if len(targets):
            yield Batch(sequences.items[events], np.repeat(np.arange(len(part)), length), before, targets)


class RulesWithoutUser:
    """The scores of sequential rules, counted for each position without the sequence that it is in.

    Raises:
        ConfigError: the rules are divided by the degree of the target.
    """

    def __init__(self, rules: SequentialRules, sequences: TrainingSequences) -> None:
        if rules.target_power:
            raise ConfigError("rules with a target_power can't be counted without the user here; leave it out")
        self.rules = rules
        self.counts = pairs_within(sequences, rules.REACH, rules.n_items)
        self.events = np.bincount(sequences.items, minlength=rules.n_items)

    def scores(self, batch: Batch, width: int) -> Tensor:
        """Return the scores of all items, [B, N] float32."""
        key, slot = np.unique(batch.sequence * self.rules.n_items + batch.items, return_inverse=True)
        table = self.counts[key % self.rules.n_items] - self._own(batch, slot, len(key))
        table.data[table.data < 0.5 / self.rules.REACH] = 0  # smaller than any count: left over by rounding
        table.eliminate_zeros()
        degree = np.asarray(table.sum(axis=1), dtype=np.float64)
        if self.rules.source_power:
            factor = np.power(np.where(degree > 0, degree, 1), -float(self.rules.source_power))
            table = csr_array(diags_array(factor) @ table)
        position, place, age = batch.history(width)
        history = csr_array((1 / age, (position, slot[place])), (len(batch.targets), len(key)))
        found = (history @ table).toarray() + self.rules.POPULARITY * self._share(batch)
        return torch.from_numpy(found.astype(np.float32))

    def _own(self, batch: Batch, slot: np.ndarray, n_slots: int) -> csr_array:
        """Return the rules that each sequence alone would make: a row for each of its items, [slots, N] float64."""
        shape = n_slots, self.rules.n_items
        own = csr_array(shape)
        for distance in range(1, self.rules.REACH + 1):
            target = batch.targets[batch.before[batch.targets] >= distance]
            pairs = slot[target - distance], batch.items[target]
            own = own + csr_array((np.full(len(target), 1 / distance), pairs), shape)
        return own

    def _share(self, batch: Batch) -> np.ndarray:
        """Return each item's share of the events without the position's sequence, [B, N] float64."""
        left = np.tile(self.events, (batch.sequence[-1] + 1, 1))
        np.subtract.at(left, (batch.sequence, batch.items), 1)
        share = left / (1 + left.max(axis=1, keepdims=True))
        return share[batch.sequence[batch.targets]]


def check_members(names: Sequence[str], members: Sequence[Any]) -> None:
    """Check that every member's own position can be counted out.

    Raises:
        ConfigError: a member counts the training split and is no `sequential_rules`.
    """
    counted = [
        name
        for name, member in zip(names, members, strict=True)
        if isinstance(member, Counted) and type(member) is not SequentialRules
    ]
    if counted:
        raise ConfigError(
            f"{', '.join(counted)}: only scorer: sequential_rules can be counted without the user; other scorers that "
            "count the training split can't teach"
        )


@torch.no_grad()
def top_lists(ensemble: Ensemble, sequences: TrainingSequences, width: int, masked: bool, size: int) -> TopLists:
    """Return the best `size` items of an ensemble at every training position.

    Args:
        width: the maximum number of history items that a member reads.
        masked: whether the whole history is removed from the candidates.
    """
    without = {
        member: RulesWithoutUser(member, sequences)
        for member in ensemble.members
        if isinstance(member, SequentialRules)
    }
    found: list[tuple[np.ndarray, np.ndarray]] = []
    gain, n_targets = 0.0, 0
    ensemble.eval()
    with ensemble.shared_items():
        for batch in batches(sequences):
            total: Any = 0
            for member, weight in zip(ensemble.members, ensemble.weights.tolist(), strict=True):
                if member in without:
                    scores = without[member].scores(batch, width)
                else:
                    scores = member.full_sort_predict(batch.interaction(member, width)).float().cpu()
                total = total + weight * standardised(scores)
            total[:, 0] = -math.inf
            if masked:
                position, place, _ = batch.history(len(batch.items))
                total[torch.from_numpy(position), torch.from_numpy(batch.items[place])] = -math.inf
            best = total.topk(min(size, total.shape[1] - 1), dim=1)
            found.append((best.indices.numpy().astype(np.int32), best.values.numpy()))
            hit = best.indices.numpy()[:, :10] == batch.items[batch.targets][:, None]
            hit &= np.isfinite(best.values.numpy()[:, :10])
            gain += float((hit / np.log2(np.arange(2, hit.shape[1] + 2))).sum())
            n_targets += len(hit)
    listed, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return TopLists(listed, values, gain / n_targets)
