"""Rules between items: what followed the items of a history in training, as a sparse table.

Shapes: B cases, L items of a history at most, N item ids with the padding row 0.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError, counted
from blair_rec.ranking.scorers.base import Counted, recency
from blair_rec.ranking.scorers.tables import divided_by_degree, pairs_within


class Rules(Counted):
    """Scores from a sparse table of rules between items, with one entry for each pair that occurs.

    score = sum over the items i of the history of rules(i -> item) / age(i), plus POPULARITY times the item's share of
    events. The last item of the history has age 1, the one before it 2, and so on.

    SciPy multiplies the table on the CPU, whatever device keeps it. A subclass makes the table in `table`.
    """

    LAST_ITEMS: ClassVar[int | None] = None
    """How many of the last items of the history are used; None: all of them."""
    POPULARITY: ClassVar[float] = 1e-4
    """Factor of the items' popularity, small enough that it only ranks the items that no rule reaches."""
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

    def table(self, sequences: TrainingSequences) -> csr_array:
        """Return the rules, [N, N] float64, without an entry in row or column 0."""
        raise NotImplementedError

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split, and make the rules.

        Raises:
            ConfigError: options make some rules larger or smaller than float32 numbers can be.
        """
        events = np.bincount(sequences.items, minlength=self.n_items)
        table = self.table(sequences)
        device = self.device
        self.share = torch.from_numpy(events / (1 + events.max())).float().to(device)
        self.start, self.successor = (torch.from_numpy(ids).long().to(device) for ids in (table.indptr, table.indices))
        self.transitions = torch.from_numpy(table.data).float().to(device)
        limits = torch.finfo(torch.float32)  # the largest rules may add up over a history; tiny ones lose digits
        held = (self.transitions >= limits.tiny) & (self.transitions <= limits.max / 1024)
        if lost := int((~held).sum()):
            raise ConfigError(
                f"{type(self).__name__}: {lost:,} of {counted(len(table.data), 'rule')} are too large or too small for "
                "float32; choose smaller options"
            )

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return scores [B, N] float32; ignore column 0, the padding."""
        row, item, weight = (part.cpu().numpy() for part in self.antecedents(interaction))
        shape = len(interaction[self.ITEM_SEQ]), self.n_items
        history = csr_array((weight, (row, item)), shape)
        rules = tuple(part.cpu().numpy() for part in (self.transitions, self.successor, self.start))
        found = history @ csr_array(rules, (self.n_items, self.n_items))
        return torch.from_numpy(found.toarray()).to(self.device).add_(self.share, alpha=self.POPULARITY)

    def antecedents(self, interaction: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the rules start from: ([E] cases, [E] items of their histories, [E] float32 weights 1 / age)."""
        items, weights = interaction[self.ITEM_SEQ], recency(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        if self.LAST_ITEMS is not None:
            weights = torch.where(weights >= 1 / self.LAST_ITEMS, weights, 0)
        row, place = weights.nonzero(as_tuple=True)
        return row, items[row, place], weights[row, place]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # The number of pairs is known only from the saved state.
        for name in ("successor", "transitions"):
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved, device=self.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Markov(Rules):
    """First-order Markov chain: how often an item came right after the last one of the history, in training.

    score = transitions(last -> item) + events(item) / (1 + the most events of an item)

    The second part is below 1, so popularity only breaks ties between transitions. If no item followed the last one in
    training, it ranks all items.
    """

    LAST_ITEMS = 1
    POPULARITY = 1.0

    def table(self, sequences: TrainingSequences) -> csr_array:
        """Return the number of transitions between two items, [N, N]."""
        return pairs_within(sequences, 1, self.n_items)


class SequentialRules(Rules):
    """Sequential rules: items that came soon after the history's items in training; the sooner, the higher the score.

    score = sum over the items i of the history of rules(i -> item) / age(i)

    rules(i -> item) = (sum of 1 / d over all times that `item` came d <= 10 events after i)
                       / (degree(i) ^ source_power * degree(item) ^ target_power)

    where the degree of a source is the sum of all rules from it, and that of a target the sum of all rules to it, both
    before the division. The last item of the history has age 1, the one before it 2, and so on. Popularity, times 1e-4,
    ranks the items that no rule reaches.

    Without a division (both powers 0, the default), a frequent item of the history decides more than a rare one. With
    source_power 1 the rules of each source are shares, as in a Markov chain.

    Source: SR with steps=10 and weighting=div in Ludewig and Jannach, "Evaluation of session-based recommendation
    algorithms" (2018). SR uses the last item alone; 1 / age extends the same idea to the others. The powers are those
    of degree normalisation in graphs, as in Christoffel et al., "Blockbusters and wallflowers" (RecSys 2015).
    """

    REACH: ClassVar[int] = 10
    """An item counts as a successor of another one if it comes at most this many events later."""

    def __init__(
        self, n_items: int, item_seq: str, item_seq_len: str, *, source_power: float = 0, target_power: float = 0
    ) -> None:
        super().__init__(n_items, item_seq, item_seq_len)
        self.source_power, self.target_power = source_power, target_power

    def table(self, sequences: TrainingSequences) -> csr_array:
        """Return the rules, [N, N]."""
        rules = pairs_within(sequences, self.REACH, self.n_items)
        return divided_by_degree(rules, self.source_power, self.target_power)
