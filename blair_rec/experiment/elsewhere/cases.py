"""The cases of a split under names that other systems can use, and a hash by which a split is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from blair_rec.errors import counted

if TYPE_CHECKING:  # imports torch and RecBole, which checking a file doesn't need
    from blair_rec.data.dataset import TextSequentialDataset

PartName = Literal["valid", "test"]
IN_WORDS: Mapping[PartName, str] = {"valid": "validation", "test": "test"}
"""The name of a part in messages."""
USER, CASE = "user_id", "case_id"


@dataclass(frozen=True, eq=False)
class Cases:
    """The cases of one part. Shapes: B cases, N item ids with the padding id 0, P items in histories."""

    part: PartName
    key: str
    """The column that names a case: user_id where every user has one case, else case_id."""
    names: Sequence[str]
    """[B] the user of each case, or its number from 1 as text."""
    target: np.ndarray
    """[B] int64 item ids."""
    history_case: np.ndarray
    """[P] int64, the case of each history item, ascending."""
    history_item: np.ndarray
    """[P] int64 item ids, oldest first."""
    item_tokens: Sequence[str]
    """[N] by item id; the first one is the padding token."""
    users: Collection[str]
    """All users of the data set, also those without a case."""

    def __len__(self) -> int:
        return len(self.target)

    @property
    def n_items(self) -> int:
        """Item ids, with the padding."""
        return len(self.item_tokens)

    @cached_property
    def number_of(self) -> Mapping[str, int]:
        """The place of each case by its name."""
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def id_of(self) -> Mapping[str, int]:
        """The item id of each token, without the padding."""
        return {token: number for number, token in enumerate(self.item_tokens) if number > 0}

    @cached_property
    def history_pairs(self) -> np.ndarray:
        """[H] int64, ascending: case * N + item of each item in a history, each once."""
        return np.unique(self.history_case * self.n_items + self.history_item)

    def in_history(self, case: np.ndarray, item: np.ndarray) -> np.ndarray:
        """[R] bool: whether each item is in the history of its case. case, item: [R] int64."""
        return np.isin(case * self.n_items + item, self.history_pairs)

    @cached_property
    def history_sizes(self) -> np.ndarray:
        """[B] int64: number of different items in each history."""
        return np.bincount(self.history_pairs // self.n_items, minlength=len(self)).astype(np.int64)

    @cached_property
    def target_in_history(self) -> np.ndarray:
        """[B] bool."""
        return self.in_history(np.arange(len(self)), self.target)

    def called(self, count: int) -> str:
        """A number of cases in words: "3 users" or "3 cases"."""
        return counted(count, "user" if self.key == USER else "case")


def tokens_of(split: TextSequentialDataset, field: str) -> np.ndarray:
    """The tokens of a field by id, as objects; the first one is the padding token."""
    tokens: np.ndarray = split.field2id_token[field].astype(object)
    return tokens


def cases_of(split: TextSequentialDataset, part: PartName) -> Cases:
    """The cases of a validation or test split."""
    users = tokens_of(split, split.uid_field).tolist()
    user = split.inter_feat[split.uid_field].numpy()
    single = len(np.unique(user)) == len(user)
    row, item = (part.numpy() for part in split.histories())
    return Cases(
        part=part,
        key=USER if single else CASE,
        names=[users[one] for one in user] if single else [str(number) for number in range(1, len(user) + 1)],
        target=split.inter_feat[split.iid_field].numpy(),
        history_case=row,
        history_item=item,
        item_tokens=tokens_of(split, split.iid_field).tolist(),
        users=frozenset(users[1:]),
    )


def split_hash(train: TextSequentialDataset, valid: TextSequentialDataset, test: TextSequentialDataset) -> str:
    """SHA-256 of a split: tokens, the order of all events, and the cases of each part in their order."""
    found = hashlib.sha256()
    for field in (train.uid_field, train.iid_field):
        for token in train.field2id_token[field][1:]:
            found.update(str(token).encode() + b"\n")
        found.update(b"\n")
    log = train.log
    if log is not None:
        arrays = [log.user, log.item, *(part.inter_feat.position for part in (train, valid, test))]
    else:
        arrays = []
        for part in (train, valid, test):
            arrays += [part.inter_feat[part.uid_field], part.inter_feat[part.iid_field], *part.histories()]
    for array in arrays:
        values = np.ascontiguousarray(array.numpy(), dtype="<i8")
        found.update(f"{len(values)}\n".encode())
        found.update(values.tobytes())
    return found.hexdigest()
