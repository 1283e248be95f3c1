"""Find the k best items for histories of item ids, exactly, in pieces that fit into a processor's caches.

Shapes: B histories, P items of all of them, C candidates, N item ids with the padding row 0, D width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from blair_rec.models.packed import can_pack, last_states
from blair_rec.models.scorer import Scorer
from blair_rec.models.similarity import as_query
from blair_rec.ranking.best import best_columns
from blair_rec.ranking.ensemble import Ensemble, standardised

CHUNK = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Scores computed and searched together, by kind of device."""
FEWEST_ROWS = 64
"""The least number of histories that are multiplied with a piece of the items together: each time, the whole piece is
read from memory."""
WRITTEN_OUT = 1 << 23
"""Scores in memory together if a model gives them for all items."""


class HistoryIds(NamedTuple):
    """Histories of item ids, one after the other, each oldest first; none is empty."""

    items: np.ndarray
    """[P] int64 item ids."""
    lengths: np.ndarray
    """[B] int64 number of items in each history."""

    def recent(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where the newest `width` items of each begin, and how many there are: [B], [B] int64."""
        kept = np.minimum(self.lengths, width)
        return np.cumsum(self.lengths) - kept, kept

    def split(self, size: int) -> Iterator[HistoryIds]:
        """Yield the same histories, `size` at a time."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        for begin in range(0, len(self.lengths), size):
            lengths = self.lengths[begin : begin + size]
            yield HistoryIds(self.items[ends[begin] : ends[begin + len(lengths)]], lengths)


class BestItems(NamedTuple):
    """The best candidates of each history, best first; among equal scores the one of the lowest id."""

    items: np.ndarray
    """[B, k] int64 item ids; 0 where a history has fewer candidates left."""
    scores: np.ndarray
    """[B, k] float32; -inf there."""


class TopK:
    """Finds the best candidates for any histories, by the scores of a model."""

    _ids: Tensor
    """[C] int64 the candidates, while `ready`."""
    _column: Tensor
    """[N] int64 the column of each item id among them, -1 for no candidate, while `ready`."""

    def __init__(self, model: Scorer, width: int, candidates: np.ndarray | None = None) -> None:
        """
        Args:
            width: the most items of a history that the model reads.
            candidates: [C] int64 ids of the items that may be found, ascending; all items if not given.
        """
        self.model, self.width, self.candidates = model, width, candidates
        self._tables: dict[int, Tensor] = {}
        """Item vectors [C, D] or [N, D], by `id()` of the model or of each member that scores by product."""

    @contextmanager
    def ready(self, n_items: int) -> Iterator[TopK]:
        """Compute the items' vectors once, for use within this block; n_items is N."""
        self.model.eval()
        device = self.model.device
        candidates = np.arange(1, n_items) if self.candidates is None else self.candidates
        self._ids = torch.from_numpy(candidates).to(device)
        self._column = torch.full((n_items,), -1, dtype=torch.int64, device=device)
        self._column[self._ids] = torch.arange(len(candidates), device=device)
        members = self.model.members if isinstance(self.model, Ensemble) else ()
        with torch.no_grad(), self.model.shared_items():
            for model in members or (self.model,):
                if model.scores_by_product:
                    items = model.item_matrix().float()  # an ensemble's are all needed, for mean and deviation
                    self._tables[id(model)] = items if members else self._of_candidates(items)
            yield self
        self._tables = {}

    @torch.no_grad()
    def best(self, histories: HistoryIds, k: int, exclude_history: bool) -> BestItems:
        """Return the k best candidates of each history; call it inside `ready`.

        Raises:
            ScoringError: scores that are not a number.
        """
        if id(self.model) in self._tables:
            parts = self._by_product(histories, k, exclude_history)
        else:
            parts = self._written_out(histories, k, exclude_history)
        found = [(self._ids[columns].masked_fill_(values == -torch.inf, 0), values) for columns, values in parts]
        items, scores = (torch.cat(both).cpu().numpy() for both in zip(*found, strict=True))
        return BestItems(items, scores)

    def _by_product(self, histories: HistoryIds, k: int, exclude_history: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield columns and scores [b, k] of a few histories at a time; items are scored piece by piece."""
        users, table, done = self._users(self.model, histories), self._tables[id(self.model)], 0
        chunk = CHUNK.get(users.device.type, WRITTEN_OUT)
        size = max(FEWEST_ROWS, chunk // len(table))
        width = min(len(table), max(k, chunk // size))
        pieces = [(begin, table[begin : begin + width]) for begin in range(0, len(table), width)]
        room = users.new_empty(size * width)
        for part in histories.split(size):
            some = users[done : done + len(part.lengths)]
            done += len(some)
            row, column = self._known(part) if exclude_history else self._nothing()
            found = []
            for begin, piece in pieces:
                scores = room[: len(some) * len(piece)].view(len(some), -1)
                torch.mm(some, piece.T, out=scores)
                here = (column >= begin) & (column < begin + len(piece))
                scores[row[here], column[here] - begin] = -torch.inf
                columns, values = best_columns(scores, min(k, len(piece)))
                found.append((columns + begin, values))
            columns, values = (torch.cat(both, dim=1) for both in zip(*found, strict=True))
            if len(pieces) > 1:  # ties are already in column order
                values, order = values.sort(dim=1, descending=True, stable=True)
                columns = columns.gather(1, order)
            yield columns[:, :k], values[:, :k]

    def _written_out(self, histories: HistoryIds, k: int, exclude_history: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Do the same for a model that scores all items at once, or for an ensemble."""
        for part in histories.split(max(1, WRITTEN_OUT // len(self._column))):
            if isinstance(self.model, Ensemble):
                weights = self.model.weights.tolist()
                members = zip(weights, self.model.members, strict=True)
                scores = sum(standardised(self._scores(member, part)).mul_(weight) for weight, member in members)
                assert isinstance(scores, Tensor)
            else:
                scores = self._scores(self.model, part)
            scores = self._of_candidates(scores.T).T
            if exclude_history:
                scores[self._known(part)] = -torch.inf
            yield best_columns(scores, k)

    def _of_candidates(self, rows: Tensor) -> Tensor:
        """Keep the candidates: [N, ...] -> [C, ...]. Nothing is copied if all items are candidates."""
        return rows[1:] if len(self._ids) == len(rows) - 1 else rows[self._ids]

    def _known(self, histories: HistoryIds) -> tuple[Tensor, Tensor]:
        """The candidates that are in each history: rows and columns, both [p] int64."""
        device = self._column.device
        column = self._column[torch.from_numpy(histories.items).to(device)]
        row = torch.from_numpy(np.repeat(np.arange(len(histories.lengths)), histories.lengths)).to(device)
        return row[column >= 0], column[column >= 0]

    def _nothing(self) -> tuple[Tensor, Tensor]:
        """No row and no column."""
        return self._column.new_empty(0), self._column.new_empty(0)

    def _scores(self, model: Scorer, histories: HistoryIds) -> Tensor:
        """[b, N] float32"""
        if id(model) in self._tables:
            return self._users(model, histories) @ self._tables[id(model)].T
        return model.full_sort_predict(self.interaction(histories)).float()

    def _users(self, scorer: Scorer, histories: HistoryIds) -> Tensor:
        """[B, D] float32"""
        model: Any = scorer
        if can_pack(type(model)):  # which computes nothing for padding
            first, length = histories.recent(self.width)
            states = last_states(model, torch.from_numpy(histories.items), first, length)
            return as_query(states, model.blair_temperature).float()
        return model.user_vectors(self.interaction(histories)).float()

    def interaction(self, histories: HistoryIds) -> dict[str, Tensor]:
        """Return the newest items of each history, as many as the model reads, in the fields of an interaction."""
        first, length = histories.recent(self.width)
        items = np.zeros((len(length), self.width), dtype=np.int64)
        inside = np.arange(self.width) < length[:, None]
        items[inside] = histories.items[(first[:, None] + np.arange(self.width))[inside]]
        fields = {self.model.ITEM_SEQ: items, self.model.ITEM_SEQ_LEN: length}
        return {name: torch.from_numpy(values).to(self.model.device) for name, values in fields.items()}
