"""A model and histories of item ids -> the k best items of each, exactly, in pieces that fit a processor's caches.

Shapes: B histories, P items of all of them, C candidates, N item ids with the padding row 0, D width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from blair_rec.errors import ScoringError
from blair_rec.models.packed import can_pack, last_states
from blair_rec.models.scorer import Scorer
from blair_rec.models.similarity import as_query

CHUNK = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Scores made and looked through at once, by kind of device."""
WRITTEN_OUT = 1 << 25
"""Scores held at once where a model gives them for all items."""


class HistoryIds(NamedTuple):
    """HistoryIds of item ids, one after the other, each oldest first; none is empty."""

    items: np.ndarray
    """[P] int64"""
    lengths: np.ndarray
    """[B] int64"""

    def recent(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the newest items of each begin, `width` at most, and how many they are: [B], [B] int64."""
        kept = np.minimum(self.lengths, width)
        return np.cumsum(self.lengths) - kept, kept

    def split(self, size: int) -> Iterator[HistoryIds]:
        """The same, `size` histories at a time."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        for begin in range(0, len(self.lengths), size):
            lengths = self.lengths[begin : begin + size]
            yield HistoryIds(self.items[ends[begin] : ends[begin + len(lengths)]], lengths)


class BestItems(NamedTuple):
    """The best candidates of each history, best first; among equal scores the one of the lowest id."""

    items: np.ndarray
    """[B, k] int64; 0 where a history has fewer candidates left."""
    scores: np.ndarray
    """[B, k] float32; -inf there."""


class TopK:
    """Finds the best of some items for any histories, with a model that scores them."""

    def __init__(self, model: Scorer, width: int, candidates: np.ndarray | None = None) -> None:
        """
        Args:
            width: items of a history that the model reads, at most.
            candidates: [C] int64 ids of what may be found, ascending; all items if not given.
        """
        self.model, self.width = model, width
        self.candidates = candidates
        self._packed = can_pack(type(model)) and model.scores_by_product
        self._items: Tensor | None = None
        """[D, C] candidates, while `ready`."""
        self._column: Tensor | None = None
        """[N] the column of each item id, -1 for no candidate, while `ready`."""

    @contextmanager
    def ready(self, n_items: int) -> Iterator[TopK]:
        """Within this block items' vectors are computed once; n_items is N."""
        self.model.eval()
        device = self.model.device
        candidates = np.arange(1, n_items) if self.candidates is None else self.candidates
        self._ids = torch.from_numpy(candidates).to(device)
        self._column = torch.full((n_items,), -1, dtype=torch.int64, device=device)
        self._column[self._ids] = torch.arange(len(candidates), device=device)
        with torch.no_grad(), self.model.shared_items():
            if self.model.scores_by_product:
                self._items = self.model.item_matrix()[self._ids].float().T.contiguous()
            yield self
        self._items = None

    @torch.no_grad()
    def best(self, histories: HistoryIds, k: int, exclude_history: bool) -> BestItems:
        """The k best candidates of each history, inside `ready`.

        Raises:
            ScoringError: scores that are not a number.
        """
        assert self._column is not None
        columns = len(self._ids)
        if self._items is None:
            parts = [
                self._best(self._written_out(part), part, k, exclude_history)
                for part in histories.split(max(1, WRITTEN_OUT // len(self._column)))
            ]
        else:
            users, begin, parts = self._users(histories), 0, []
            size = max(1, CHUNK.get(users.device.type, CHUNK["cuda"]) // columns)
            room = users.new_empty(min(size, len(users)), columns)
            for part in histories.split(size):
                some = users[begin : begin + len(part.lengths)]
                scores = torch.mm(some, self._items, out=room[: len(some)])
                parts.append(self._best(scores, part, k, exclude_history))
                begin += len(some)
        return BestItems(np.concatenate([one.items for one in parts]), np.concatenate([one.scores for one in parts]))

    def _users(self, histories: HistoryIds) -> Tensor:
        """[B, D]"""
        model: Any = self.model
        if not self._packed:
            users: Tensor = model.user_vectors(self.interaction(histories)).float()
            return users
        first, length = histories.recent(self.width)
        states = last_states(model, torch.from_numpy(histories.items), first, length)
        return as_query(states, model.blair_temperature).float()

    def _written_out(self, histories: HistoryIds) -> Tensor:
        """[B, C], which may be written into."""
        scores = self.model.full_sort_predict(self.interaction(histories)).float()
        return scores[:, self._ids] if len(self._ids) < scores.shape[1] - 1 else scores[:, 1:]

    def interaction(self, histories: HistoryIds) -> dict[str, Tensor]:
        """The newest items of each history, as many as the model reads, as its fields."""
        first, length = histories.recent(self.width)
        items = np.zeros((len(length), self.width), dtype=np.int64)
        inside = np.arange(self.width) < length[:, None]
        items[inside] = histories.items[(first[:, None] + np.arange(self.width))[inside]]
        fields = {self.model.ITEM_SEQ: items, self.model.ITEM_SEQ_LEN: length}
        return {name: torch.from_numpy(values).to(self.model.device) for name, values in fields.items()}

    def _best(self, scores: Tensor, histories: HistoryIds, k: int, exclude_history: bool) -> BestItems:
        if exclude_history:
            assert self._column is not None
            column = self._column[torch.from_numpy(histories.items).to(scores.device)]
            row = torch.from_numpy(np.repeat(np.arange(len(histories.lengths)), histories.lengths)).to(scores.device)
            known = column >= 0
            scores[row[known], column[known]] = -torch.inf
        columns, values = best_columns(scores, k)
        items = self._ids[columns].masked_fill_(values == -torch.inf, 0)
        return BestItems(items.cpu().numpy(), values.cpu().numpy())


def best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores of each row, the highest first, the lowest column among equals: [B, C] -> two of [B, k].

    Raises:
        ScoringError: scores that are not a number.
    """
    found = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    columns, values = found.indices[:, :k], found.values[:, :k]
    if values.isnan().any():
        rows = int(values.isnan().any(dim=1).sum())
        raise ScoringError(f"{rows} of {len(scores)} histories have scores that are not a number, so no best items")
    if found.values.shape[1] > k:  # which of equal ones is in is torch's own affair, if one is in and another is not
        last = values[:, -1]
        tied = torch.nonzero((last == found.values[:, k]) & (last > -torch.inf)).squeeze(1)
        if len(tied):
            part, bound = scores[tied], last[tied].unsqueeze(1)
            above, equal = part > bound, part == bound
            missing = k - above.sum(dim=1, keepdim=True)
            chosen = above | (equal & (equal.cumsum(dim=1) <= missing))
            columns = columns.clone()
            columns[tied] = chosen.nonzero()[:, 1].view(len(tied), k)
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return columns.gather(1, order), values
