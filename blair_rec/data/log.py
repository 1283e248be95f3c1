"""All events of a data set, held once, and rows in RecBole's format that are built from them on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole.data.interaction import Interaction

LOG_POSITION = "blair_log_position"
"""Field of every row: the position of its target in the log."""


@dataclass(frozen=True, eq=False)
class EventLog:
    """All events, user by user, oldest first; views of them share this one copy.

    Shapes: M events.
    """

    fields: Mapping[str, Tensor]
    """Field name -> [M, ...]; users and items are among the fields."""
    user_field: str
    item_field: str
    offsets: Tensor
    """[user_num + 1] int64: the events of user u are those from offsets[u] up to offsets[u + 1]."""

    @property
    def user(self) -> Tensor:
        """[M] int64 user ids, ascending."""
        return self.fields[self.user_field]

    @property
    def item(self) -> Tensor:
        """[M] int64 item ids."""
        return self.fields[self.item_field]

    def before(self, position: Tensor) -> Tensor:
        """Return the number of earlier events of the same user: [...] int64 positions in the log -> [...] int64."""
        return position - self.offsets[self.user[position]]

    def earlier(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the events that `before` counts, for each of [R] positions: (row [P], position in the log [P])."""
        length = self.before(position)
        row = torch.repeat_interleave(torch.arange(len(position), device=length.device), length)
        begins = torch.repeat_interleave(torch.cumsum(length, 0) - length, length)
        return row, (position - length)[row] + torch.arange(len(row), device=row.device) - begins


class LogRows(Interaction):
    """The rows that RecBole's augmentation would store, each held as the position of its target in the log.

    Values are built on demand. Indexing with rows returns an Interaction with `item_id_list` and all other columns.
    Indexing with a name returns that column as [R, ...]; a column of lists is built row by row when it is indexed. Rows
    can be reordered or selected, but not changed.
    """

    def __init__(
        self, log: EventLog, position: Tensor, lists: Mapping[str, str], length_field: str, width: int
    ) -> None:
        """`lists`: column of lists -> the field it is built from; `width`: maximum number of events in a list."""
        self.log = log
        self.position = position
        self.lists = dict(lists)
        self.length_field = length_field
        self.width = width
        self._columns = [*log.fields, length_field, LOG_POSITION, *lists]

    def __len__(self) -> int:
        return len(self.position)

    @property
    def length(self) -> int:
        """Number of rows, under RecBole's name."""
        return len(self.position)

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return self._columns

    @property
    def interaction(self) -> Mapping[str, Tensor]:
        """All columns in full, as RecBole stores them, for methods of Interaction that read all of them."""
        return MappingProxyType(self[:].interaction)

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_columns", ()):
            return self[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            if index not in self.columns:
                raise KeyError(index)
            return ListColumn(self, index) if index in self.lists else self._column(index, self.position)
        position = self.position[as_index(index)]
        return Interaction({name: self._column(name, position) for name in self.columns})

    def _column(self, name: str, position: Tensor) -> Tensor:
        if name == LOG_POSITION:
            return position
        if name in self.log.fields:
            return self.log.fields[name][position]
        length = self.log.before(position).clamp(max=self.width)
        if name == self.length_field:
            return length
        return gather_windows(self.log.fields[self.lists[name]], position - length, length, self.width)

    def select(self, index: Any) -> LogRows:
        """Return some of the rows, as rows of the same log."""
        rows = LogRows(self.log, self.position[as_index(index)], self.lists, self.length_field, self.width)
        rows._columns = list(self._columns)
        return rows

    def drop(self, column: str) -> None:
        """Remove a column.

        Raises:
            ValueError: no column has that name.
        """
        self._columns.remove(column)

    def _reindex(self, index: Any) -> None:
        self.position = self.position[as_index(index)]

    def sort(self, by: str | Sequence[str], ascending: bool | Sequence[bool] = True) -> None:
        """Sort the rows in place; rows with equal keys keep their order."""
        names = [by] if isinstance(by, str) else list(by)
        rising = [ascending] * len(names) if isinstance(ascending, bool) else list(ascending)
        for name, up in reversed(list(zip(names, rising, strict=True))):
            self._reindex(torch.argsort(self[name], stable=True, descending=not up))


class ListColumn:
    """A column of lists, built for the requested rows only; FEARec's loss reads one row at a time."""

    def __init__(self, rows: LogRows, name: str) -> None:
        self._rows, self._name = rows, name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Tensor:
        return self._rows._column(self._name, self._rows.position[as_index(index)])


def as_index(index: Any) -> Any:
    """Convert an index to one that torch uses directly; RecBole would make it a Python list first."""
    if isinstance(index, (list, np.ndarray, range)):
        array = np.asarray(index)
        return torch.from_numpy(array if array.dtype == bool else array.astype(np.int64, copy=False))
    return index


def gather_windows(values: Tensor, first: Tensor, length: Tensor, width: int) -> Tensor:
    """Return values[first : first + length] of each row, padded with zeros: [M, ...], [B], [B] -> [B, width, ...]."""
    column = torch.arange(width, device=values.device)
    index = (first.unsqueeze(-1) + column).clamp(max=len(values) - 1)
    inside = column < length.unsqueeze(-1)
    picked = values[index]
    return picked * inside.view(*inside.shape, *[1] * (values.dim() - 1)).to(picked.dtype)
