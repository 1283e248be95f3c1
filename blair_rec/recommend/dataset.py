"""A RecBole SequentialDataset with exact time order, histories made on demand, and the vectors of its items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from blair_rec.errors import DatasetError

from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction

LOG_POSITION = "blair_log_position"
"""Field of every row: where its target stands in the log."""


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """The text vectors of a data set's items, by item_id."""

    table: np.ndarray
    """[N, E] float32 over item ids; row 0, the padding, is zero."""
    store_sha256: str
    """Of the store they came from."""


@dataclass(frozen=True, eq=False)
class Log:
    """All events, user by user, oldest first: held once, whatever is made of them.

    Shapes: M events, U users that have any.
    """

    user: Tensor
    """[M] int64 user ids, ascending."""
    item: Tensor
    """[M] int64 item ids."""
    start: Tensor
    """[M] int64: where the events of the same user begin."""


class TextSequentialDataset(SequentialDataset):
    """RecBole's SequentialDataset with three differences.

    Events are ordered by their times in float64, before RecBole rounds times to float32 (128 s for epoch seconds);
    ties stay in the order of the file, or are shuffled by the seed (`blair_ties`). The log is held once and
    `item_id_list` is made for the rows that are asked for, instead of being written out for every prefix. And
    `item_vectors` carries what a store knows of the items. Filtering, numbering and splitting are RecBole's own.
    Benchmark files, which hold the lists themselves, are taken as RecBole reads them.
    """

    inter_feat: Any
    item_vectors: ItemVectors | None = None
    log: Log | None = None
    neighbours = 0
    """Pairs of events that follow each other in a user's history; 0 for benchmark files, which hold no times."""
    tied_neighbours = 0
    """Those of equal time: their order is the file's, or drawn by lot with `blair_ties: shuffled`."""

    def _remove_duplication(self) -> None:
        super()._remove_duplication()
        self.inter_feat.sort_index(inplace=True)  # RecBole sorts by time here, without keeping the order of ties

    def _change_feat_format(self) -> None:
        if self.config["benchmark_filename"] is None:
            self._order_by_exact_time()
            super()._change_feat_format()
            return
        name = self.iid_field + self.config["LIST_SUFFIX"]
        if name not in (self.config["alias_of_item_id"] or []):
            raise DatasetError(_NO_ALIAS.format(name=name))
        super()._change_feat_format()
        if (longest := self.inter_feat[name].shape[1]) > self.max_item_list_len:
            raise DatasetError(
                f"the histories in {name!r} hold up to {longest} items, but MAX_ITEM_LIST_LENGTH is "
                f"{self.max_item_list_len}; set it to {longest}, or write shorter histories (their last items)"
            )

    def _order_by_exact_time(self) -> None:
        if self.time_field not in self.inter_feat:
            raise DatasetError(
                f"data set {self.dataset_name!r}: no column {self.time_field!r} was loaded from .inter, "
                "so the order of events is unknown; add it to load_col, or name it with TIME_FIELD "
                f"(columns: {', '.join(self.inter_feat)})"
            )
        time, user = self.inter_feat[self.time_field].to_numpy(), self.inter_feat[self.uid_field].to_numpy()
        keys = [time, user]  # the last one counts most; what they leave open stays as it stands in the file
        if self.config["blair_ties"] == "shuffled":
            keys.insert(0, np.random.default_rng(self.config["seed"]).random(len(time)))
        order = np.lexsort(keys)
        time, user = time[order], user[order]
        self.neighbours = int((user[1:] == user[:-1]).sum())
        self.tied_neighbours = int(((user[1:] == user[:-1]) & (time[1:] == time[:-1])).sum())
        self.inter_feat = self.inter_feat.iloc[order].reset_index(drop=True)

    def data_augmentation(self) -> None:
        """One row per event that has a history; the history itself is made in __getitem__."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        user = self.inter_feat[self.uid_field]
        position = torch.arange(len(user))
        first = torch.ones(len(user), dtype=torch.bool)
        first[1:] = user[1:] != user[:-1]
        start = torch.cummax(torch.where(first, position, 0), dim=0).values
        self.log = Log(user, self.inter_feat[self.iid_field], start)
        self._log_fields = {field: self.inter_feat[field] for field in self.inter_feat if field != self.uid_field}
        rows = torch.nonzero(~first).squeeze(1)
        if len(rows) == 0:
            raise DatasetError(f"data set {self.dataset_name!r}: no user has two events: nothing to predict")
        columns = {field: self.inter_feat[field][rows] for field in self.inter_feat}
        columns[self.item_list_length_field] = (rows - start[rows]).clamp(max=self.max_item_list_len)
        columns[LOG_POSITION] = rows
        self.inter_feat = Interaction(columns)

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        rows = self.inter_feat[index]
        if self.log is not None and LOG_POSITION in rows:
            length = rows[self.item_list_length_field]
            before = rows[LOG_POSITION] - length
            for field, values in self._log_fields.items():
                list_field = getattr(self, f"{field}_list_field")
                rows[list_field] = gather_windows(values, before, length, self.max_item_list_len)
        return self.join(rows) if join else rows

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """[user_num, item_num] sparse counts of the events up to the last row of each user in this split."""
        if self.log is None or value_field is not None:
            return super().inter_matrix(form=form, value_field=value_field)
        seen = self.events_up_to_last_row()
        user, item = self.log.user[seen].numpy(), self.log.item[seen].numpy()
        shape = (self.user_num, self.item_num)
        return sparse.coo_matrix((np.ones(len(user), np.float32), (user, item)), shape=shape).asformat(form)

    def histories(self) -> tuple[Tensor, Tensor]:
        """Every event before each row's target, the whole history and not just the window: (row [P], item_id [P])."""
        if self.log is None:  # benchmark files hold no more than the window
            items = self.inter_feat[self.iid_field + self.config["LIST_SUFFIX"]]
            row, column = torch.nonzero(items, as_tuple=True)
            return row, items[row, column]
        position = self.inter_feat[LOG_POSITION]
        start = self.log.start[position]
        length = position - start
        row = torch.repeat_interleave(torch.arange(len(position)), length)
        ends = torch.cumsum(length, 0)
        step = torch.arange(int(ends[-1]) if len(ends) else 0) - torch.repeat_interleave(ends - length, length)
        return row, self.log.item[start[row] + step]

    def events_up_to_last_row(self) -> Tensor:
        """[M] bool: events that stand at or before the last row of their user in this split."""
        assert self.log is not None
        last = torch.full((self.user_num,), -1)
        last.scatter_reduce_(0, self.inter_feat[self.uid_field], self.inter_feat[LOG_POSITION], "amax")
        return torch.arange(len(self.log.item)) <= last[self.log.user]


_NO_ALIAS = (
    "benchmark files hold the histories in {name!r}, but alias_of_item_id does not name it, "
    "so RecBole would number its items apart from the targets; add `alias_of_item_id: [{name}]`"
)


def gather_windows(values: Tensor, first: Tensor, length: Tensor, width: int) -> Tensor:
    """values[first : first + length] of each row, padded with zeros: [M, ...], [B], [B] -> [B, width, ...]."""
    column = torch.arange(width)
    index = (first.unsqueeze(1) + column).clamp(max=len(values) - 1)
    inside = column < length.unsqueeze(1)
    picked = values[index]
    return picked * inside.view(*inside.shape, *[1] * (picked.dim() - 2)).to(picked.dtype)
