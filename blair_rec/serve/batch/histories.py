"""Turn a file of events, or of a list for each user, into histories of item ids, in the order of time.

Events of one user are sorted by their times. Tied events, and events without times, stay in file order. Ids are text:
"007" is not "7". A column of JSON or Parquet that holds only whole numbers becomes text, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blair_rec.errors import SourceError, UnknownItems
from blair_rec.lines.rows import CSV, Columns, OnRead, check_columns, kind_of, read_columns
from blair_rec.lines.values import Ids, Times, check_text
from blair_rec.serve.items import KnownItems, OnUnknown

USER, ITEM, TIME, HISTORY = "user_id", "item_id", "timestamp", "history"
KNOWN = (USER, ITEM, TIME, HISTORY)
_LISTS = (list, tuple, np.ndarray)
BLOCK = 8192
"""Users that are passed on together."""


class UserBlock(NamedTuple):
    """Some users and their histories of item ids, oldest first."""

    users: list[str]
    items: np.ndarray
    """[P] int64, user after user."""
    lengths: np.ndarray
    """[len(users)] int64; 0 for a user without a known item."""
    done: int
    """Number of users so far, these included."""
    total: int | None
    """Number of all users; None while it is unknown."""


@dataclass
class Unknown:
    """Unknown item tokens: they are an error, or skipped and counted."""

    policy: OnUnknown
    skipped: int = 0
    """Events, or places in lists."""
    first: list[str] = field(default_factory=list)

    def see(self, tokens: Sequence[str], ids: np.ndarray, where: str) -> None:
        """Count the unknown items among `tokens` [n]: those whose `ids` [n] are 0.

        Raises:
            UnknownItems: there are some, and the policy is error. SourceError: one of them can't be an id.
        """
        if ids.all():
            return
        missing = [tokens[place] for place in np.flatnonzero(ids == 0).tolist()]
        for token in set(missing):
            check_text(token, ITEM, where)
        if self.policy == "error":
            raise UnknownItems(missing, len(tokens))
        self.skipped += len(missing)
        if len(self.first) < 3:
            self.first = list(dict.fromkeys([*self.first, *missing[:100]]))[:3]


def read_histories(
    path: Path, known: KnownItems, unknown: Unknown, told: OnRead = lambda done, total: None
) -> Iterator[UserBlock]:
    """Yield the histories in a file of events (columns user_id, item_id and perhaps timestamp) or of lists.

    A file of lists has the columns user_id and history (or item_id); in CSV, spaces separate the items of a list. It is
    passed on while it is read. Events need 16 bytes each in memory until all are read. Users are in the order of their
    first rows.

    Raises:
        SourceError: a file that can't be read, is empty, or holds other columns or values; the line is named.
        UnknownItems: unknown items, where they are an error.
        MissingExtra: Parquet without pyarrow.
    """
    yield from _histories(read_columns(path, KNOWN, told), path, known, unknown, kind_of(path) == CSV)


def _histories(
    rows: Iterator[Columns], path: object, known: KnownItems, unknown: Unknown, words: bool
) -> Iterator[UserBlock]:
    """`words`: whether a list is a text with spaces."""
    first = next(rows)
    names = set(first.values)
    if USER not in names or not (names == {USER, HISTORY} or {USER, ITEM} <= names <= {USER, ITEM, TIME}):
        raise SourceError(
            f"{path} has the columns {', '.join(first.values)}; give {USER}, {ITEM} and perhaps {TIME}, an event in "
            f"each row, or {USER} and {HISTORY}, a list of items for each user"
        )
    every = chain([first], rows)
    column = HISTORY if HISTORY in names else ITEM
    if column == HISTORY or (names == {USER, ITEM} and isinstance(first.values[ITEM][0], _LISTS)):
        yield from _lists(every, column, path, known, unknown, words)
    else:
        yield from _events(every, path, known, unknown)


def _lists(
    rows: Iterable[Columns], column: str, path: object, known: KnownItems, unknown: Unknown, words: bool
) -> Iterator[UserBlock]:
    user_ids, item_ids = Ids(path, USER), Ids(path, column)
    seen: set[str] = set()
    for columns in rows:
        users = user_ids(columns.values[USER], columns.lines)
        for user, line in zip(users, columns.lines, strict=True):
            if user in seen:
                raise SourceError(f"{path}, line {line}: a second list of user {user!r}; give one for each user")
            check_text(user, USER, f"{path}, line {line}")
            seen.add(user)
        lists = [
            _list(value, words, f"{path}, line {line}: {column}")
            for value, line in zip(columns.values[column], columns.lines, strict=True)
        ]
        lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
        lines = np.repeat(np.asarray(columns.lines), lengths).tolist()
        tokens = item_ids([token for one in lists for token in one], lines)
        ids = known.ids(tokens)
        unknown.see(tokens, ids, str(path))
        row = np.repeat(np.arange(len(lists)), lengths)[ids > 0]
        lengths = np.bincount(row, minlength=len(lists))
        yield from in_blocks(users, ids[ids > 0], lengths, len(seen) - len(users), None)


def _list(value: Any, words: bool, where: str) -> list[Any]:
    if words and isinstance(value, str):
        return value.split()
    if not isinstance(value, _LISTS):
        raise SourceError(f"{where} is {str(value)[:40]!r}; give a list of item ids")
    return list(value.tolist() if isinstance(value, np.ndarray) else value)


def _events(rows: Iterable[Columns], path: object, known: KnownItems, unknown: Unknown) -> Iterator[UserBlock]:
    """Read all events, then yield the histories of all users, oldest items first."""
    number: dict[str, int] = {}  # of each user, in the order of their first rows
    user_ids, item_ids, times = Ids(path, USER), Ids(path, ITEM), Times(path, TIME)
    users_of, items_of, times_of = [], [], []  # blocks of all events, those of unknown items included
    for columns in rows:
        users = user_ids(columns.values[USER], columns.lines)
        before = len(number)
        users_of.append(np.fromiter((number.setdefault(user, len(number)) for user in users), np.int32, len(users)))
        for new in islice(number, before, None):
            check_text(new, USER, path)
        tokens = item_ids(columns.values[ITEM], columns.lines)
        ids = known.ids(tokens)
        unknown.see(tokens, ids, str(path))
        items_of.append(ids.astype(np.int32))
        if TIME in columns.values:
            times_of.append(times(columns.values[TIME], columns.lines))
    user, item = np.concatenate(users_of), np.concatenate(items_of)
    del users_of, items_of  # so that nothing is in memory twice
    order = np.argsort(np.concatenate(times_of), kind="stable") if times_of else np.arange(len(user))
    del times_of
    order = order[np.argsort(user[order], kind="stable")]
    order = order[item[order] > 0]
    lengths = np.bincount(user[order], minlength=len(number))
    yield from in_blocks(list(number), item[order].astype(np.int64), lengths, 0, len(number))


def in_blocks(
    users: list[str], items: np.ndarray, lengths: np.ndarray, before: int, total: int | None
) -> Iterator[UserBlock]:
    """Yield BLOCK users at a time; `items` holds their histories one after the other."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    for begin in range(0, len(users), BLOCK):
        end = min(begin + BLOCK, len(users))
        yield UserBlock(users[begin:end], items[ends[begin] : ends[end]], lengths[begin:end], before + end, total)


def from_frame(frame: Any) -> dict[str, list[str]]:
    """Return the histories by user in a frame of pandas or Polars, with the columns that `read_histories` reads.

    Raises:
        SourceError: other columns or values; the row is named, counted from 1.
    """
    names, where = [str(name) for name in frame.columns], "the frame"
    check_columns(where, names, KNOWN)
    values = {name: _python_values(frame[name]) for name in names}
    rows = len(next(iter(values.values()), []))
    if rows == 0:
        return {}
    listed = values.get(ITEM) or values.get(HISTORY) or []
    if any(isinstance(one, _LISTS) for one in listed):
        listed = [token for one in listed for token in _list(one, False, f"{where}: a history")]
    tokens = list(dict.fromkeys(Ids(where, ITEM)(listed, range(1, len(listed) + 1))))
    every = KnownItems(["[PAD]", *tokens])
    blocks = _histories(iter([Columns(values, range(1, rows + 1))]), where, every, Unknown("error"), False)
    found: dict[str, list[str]] = {}
    for block in blocks:
        ends = np.cumsum(block.lengths)
        for user, end, length in zip(block.users, ends.tolist(), block.lengths.tolist(), strict=True):
            found[user] = [every.tokens[item] for item in block.items[end - length : end].tolist()]
    return found


def _python_values(column: Any) -> list[Any]:
    """Return Python values. Times of pandas and Polars become numbers of their unit, missing values None."""
    values = [None if _is_missing(value) else value for value in column.to_list()]
    if str(column.dtype).lower().startswith("datetime") and None not in values:
        in_pandas = type(column).__module__.partition(".")[0] == "pandas"
        values = (column.astype("int64") if in_pandas else column.to_physical()).to_list()
    return values


def _is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or the NaT of pandas (the last two are not equal to themselves)."""
    return value is None or (not isinstance(value, (str, list, tuple, np.ndarray)) and value != value)
