"""What makes figures mean something else than one would think: looked for before anything is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.names import AFTER_CUTOFF

if TYPE_CHECKING:  # takes torch and RecBole
    from blair_rec.data.hidden import NewItemCases

TRAINING, VALIDATION, TEST, NOWHERE = 0, 1, 2, -1


@dataclass(frozen=True)
class Leaks:
    """Counts of what a reader of results has to know about a data set and its split."""

    users: int
    without_test: int
    """Users with no test case: their history is too short to be divided, or ends before the test period."""
    tests: int
    unseen: int
    """Test cases whose true item has no training event."""
    tied: int | None
    """Test cases whose true item has the time of the event before it; None without times."""
    duplicates: int | None
    """Events that repeat another one: user, item and time are the same; None without times."""
    before_training: int | None
    """Test cases that are earlier than some training event, which is another user's; None without times."""
    training: int
    later_training: int | None
    """Training events that are later than some test case; None without times."""

    def notes(self) -> list[str]:
        """A sentence for each thing that was found."""
        found = [
            (self.without_test, f"of {self.users:,} users have no test case: too few events, or none late enough"),
            (
                self.unseen,
                f"of {self.tests:,} true items of the test split never occur in training: without text nothing is "
                "known of them",
            ),
            (
                self.tied,
                f"of {self.tests:,} true items of the test split have the time of the event before them: which of the "
                "two is predicted is a matter of the order in the file (`ties`)",
            ),
            (self.duplicates, "events repeat another one: user, item and time are the same"),
            (
                self.before_training,
                f"of {self.tests:,} test cases are earlier than some training event of another user, and "
                f"{self.later_training or 0:,} of {self.training:,} training events are later than some test case: "
                "training knows what was to come (cut-off times for all users avoid it: `split`)",
            ),
        ]
        return [f"{count:,} {what}" for count, what in found if count]


def leaks_of(train: Any, valid: Any, test: Any) -> Leaks:
    """Of the three splits of a data set (TextSequentialDataset)."""
    uid, iid = train.uid_field, train.iid_field
    if train.log is None:  # benchmark files: rows with their histories, and no log
        parts = [split.inter_feat for split in (train, valid, test)]
        user, item = (np.concatenate([part[field].numpy() for part in parts]) for field in (uid, iid))
        part = np.repeat([TRAINING, VALIDATION, TEST], [len(part) for part in parts])
        # What a file's histories hold beyond its targets was seen in training, too.
        lists = train.inter_feat[iid + train.config["LIST_SUFFIX"]].numpy()
        return count_leaks(user, item, part, None, also_seen=lists[lists > 0])
    position = [split.inter_feat["blair_log_position"].numpy() for split in (valid, test)]
    part = np.where(train.events_up_to_last_row().numpy(), TRAINING, NOWHERE)
    part[position[0]], part[position[1]] = VALIDATION, TEST
    return count_leaks(train.log.user.numpy(), train.log.item.numpy(), part, train.event_times)


def count_leaks(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    part: NDArray[np.int64],
    time: NDArray[np.float64] | None,
    also_seen: NDArray[np.int64] | None = None,
) -> Leaks:
    """user, item, time: [M] every event, user by user, oldest first; part: [M] TRAINING, VALIDATION, TEST or NOWHERE.

    Times that only number the events of each user are taken for none: they are no clock that users share.
    """
    training, test = part == TRAINING, part == TEST
    seen = item[training] if also_seen is None else np.concatenate([item[training], also_seen])
    users = np.unique(user)
    tied = duplicates = before_training = later_training = None
    if time is not None and not _only_numbers(user, time):
        same_as_before = np.zeros(len(user), dtype=bool)
        same_as_before[1:] = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
        tied = int((test & same_as_before).sum())
        order = np.lexsort((item, time, user))
        again = [values[order][1:] == values[order][:-1] for values in (user, item, time)]
        duplicates = int(np.logical_and.reduce(again).sum())
        before_training = int((time[test] < time[training].max(initial=-np.inf)).sum())
        later_training = int((time[training] > time[test].min(initial=np.inf)).sum())
    return Leaks(
        users=len(users),
        without_test=len(users) - len(np.unique(user[test])),
        tests=int(test.sum()),
        unseen=int((~np.isin(item[test], seen)).sum()),
        tied=tied,
        duplicates=duplicates,
        before_training=before_training,
        training=int(training.sum()),
        later_training=later_training,
    )


def text_notes(fields: Sequence[str], texts: Sequence[str]) -> list[str]:
    """A sentence about items whose texts are the same, or nearly so; `texts` are one line per item."""
    texts = [text for text in texts if text]
    same = _in_company(texts)
    alike = _in_company([" ".join(sorted(re.findall(r"\w+", text.casefold()))) for text in texts])
    if not alike:
        return []
    nearly = f", and {alike - same:,} more but for case, punctuation or the order of words" if alike > same else ""
    return [
        f"{same:,} of {len(texts):,} items have the very text ({', '.join(fields)}) of another one{nearly}: "
        "text can't tell these apart"
    ]


def new_items_notes(config: CompareConfig, cases: NewItemCases | None) -> list[str]:
    """How new items were measured, or that they were not."""
    if cases is None:
        how = "hides a share of the items and measures them"
        which: float | str = 0.05
        if config.split is not None:
            which, how = AFTER_CUTOFF, "hides the items without an event before `valid_from` and measures them"
        key = f"`evaluate: {{new_items: {which}}}`"
        return [f"new items were not measured, for no item was hidden from training; {key} {how}"]
    items = cases.known - 1 + len(cases.tokens)
    drawn = "no event before `valid_from`" if config.evaluate.new_items == AFTER_CUTOFF else "drawn by their ids"
    notes = [
        f"{len(cases.tokens):,} of {items:,} items ({drawn}) and all their events were hidden from training and "
        f"selection; {len(cases.split):,} more test cases have one of them as target and are measured on their own, as "
        "new items; histories hold known items alone"
    ]
    if cases.left_out:
        notes.append(f"{cases.left_out:,} test cases of new items were left out: no known item comes before the target")
    return notes


def _in_company(values: Sequence[str]) -> int:
    """How many values occur more than once, each occurrence counted."""
    return sum(count for count in Counter(values).values() if count > 1)


def _only_numbers(user: NDArray[np.int64], time: NDArray[np.float64]) -> bool:
    """Whether times are 0, 1, 2, ... or 1, 2, 3, ... for every user."""
    first = np.flatnonzero(np.diff(user, prepend=-1))
    place = np.arange(len(user)) - np.repeat(first, np.diff(np.append(first, len(user))))
    return bool((time == place + time[:1]).all() and time[0] in (0, 1))
