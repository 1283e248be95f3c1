"""Count rules without the user whose next item is scored, as a teacher needs them.

Shapes: B training positions of a batch, M events of their sequences, N item ids with the padding row 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.ranking.scorers.rules import SequentialRules
from blair_rec.ranking.scorers.tables import divided_by_degree, pairs_within

TOGETHER = 512
"""Training positions that are scored together, about."""


class _Histories(dict[str, Tensor]):
    """The fields of an interaction that training positions have."""

    def __missing__(self, field: str) -> Tensor:
        raise ConfigError(
            f"a teacher reads the field {field} of a case, and training positions have histories of items alone; "
            "name another teacher under distill, or leave this model out of it"
        )


@dataclass(frozen=True, eq=False)
class Positions:
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
        return _Histories({name: torch.from_numpy(part).to(scorer.device) for name, part in fields.items()})


def positions_of(sequences: TrainingSequences, together: int = TOGETHER) -> Iterator[Positions]:
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
            yield Positions(sequences.items[events], np.repeat(np.arange(len(part)), length), before, targets)


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

    def scores(self, batch: Positions, width: int) -> Tensor:
        """Return the scores of all items, [B, N] float32."""
        key, slot = np.unique(batch.sequence * self.rules.n_items + batch.items, return_inverse=True)
        table = self.counts[key % self.rules.n_items] - self._own(batch, slot, len(key))
        table.data[table.data < 0.5 / self.rules.REACH] = 0  # smaller than any count: left over by rounding
        table.eliminate_zeros()
        table = divided_by_degree(table, self.rules.source_power, 0)
        position, place, age = batch.history(width)
        history = csr_array((1 / age, (position, slot[place])), (len(batch.targets), len(key)))
        found = (history @ table).astype(np.float32).toarray()
        share = (self.rules.POPULARITY * self._share(batch)).astype(np.float32)
        sequence = batch.sequence[batch.targets]
        for row, scores in enumerate(found):
            scores += share[sequence[row]]
        return torch.from_numpy(found)

    def _own(self, batch: Positions, slot: np.ndarray, n_slots: int) -> csr_array:
        """Return the rules that each sequence alone would make: a row for each of its items, [slots, N] float64."""
        shape = n_slots, self.rules.n_items
        own = csr_array(shape)
        for distance in range(1, self.rules.REACH + 1):
            target = batch.targets[batch.before[batch.targets] >= distance]
            pairs = slot[target - distance], batch.items[target]
            own = own + csr_array((np.full(len(target), 1 / distance), pairs), shape)
        return own

    def _share(self, batch: Positions) -> np.ndarray:
        """Return each item's share of the events without a sequence, for each sequence of the batch, float64."""
        left = np.tile(self.events, (batch.sequence[-1] + 1, 1))
        np.subtract.at(left, (batch.sequence, batch.items), 1)
        share: np.ndarray = left / (1 + left.max(axis=1, keepdims=True))
        return share
