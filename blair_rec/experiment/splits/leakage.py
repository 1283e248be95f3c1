"""Checks of data and split before training: leaks, ties and other problems that change the meaning of results."""

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
from blair_rec.errors import agreed, counted, out_of
from blair_rec.lines.rejected import REJECTED

if TYPE_CHECKING:  # takes torch and RecBole
    from blair_rec.data.hidden import NewItemCases

TRAINING, VALIDATION, TEST, NOWHERE = 0, 1, 2, -1


@dataclass(frozen=True)
class Leaks:
    """Counts of problems in a data set and its split."""

    users: int
    without_test: int
    """Users without a test case: they have too few events to split, or none in the test period."""
    tests: int
    """Test cases."""
    unseen: int
    """Test cases whose target has no training event."""
    tied: int | None
    """Test cases whose target shares its timestamp with the event before it; None without timestamps."""
    duplicates: int | None
    """Events with the same user, item and timestamp as another one; None without timestamps."""
    before_training: int | None
    """Test cases earlier than some training event, which is another user's; None without timestamps."""
    training: int
    """Training events."""
    later_training: int | None
    """Training events later than some test case; None without timestamps."""

    def notes(self) -> list[str]:
        """One sentence for each problem found, the most important first."""
        notes = []
        if self.before_training:
            notes.append(
                f"training contains events later than some test cases ({self.later_training or 0:,} of "
                f"{counted(self.training, 'training event')}, {self.before_training:,} of "
                f"{counted(self.tests, 'test case')}); set the config key `split` (valid_from, test_from) to cut all "
                "users at the same times"
            )
        if self.tied:
            share = "shares its" if self.tied == 1 else "share their"
            notes.append(
                f"{self.tied:,} of {counted(self.tests, 'test target')} {share} timestamp with the event before; file "
                "order decides which is predicted (key `ties`, docs/configuration.md)"
            )
        if self.unseen:
            notes.append(
                f"{self.unseen:,} of {counted(self.tests, 'test target')} never {agreed(self.unseen, 'occur')} in "
                "training, so without text nothing is known about them"
            )
        if self.without_test:
            notes.append(
                f"{out_of(self.without_test, self.users, 'user', 'have')} no test case: too few events, or none in the "
                "test period"
            )
        if self.duplicates:
            verb = "event repeats" if self.duplicates == 1 else "events repeat"
            notes.append(f"{self.duplicates:,} {verb} another one (same user, item and timestamp)")
        return notes


def leaks_of(train: Any, valid: Any, test: Any) -> Leaks:
    """Count the problems in the three splits of a data set (TextSequentialDataset)."""
    uid, iid = train.uid_field, train.iid_field
    if train.log is None:  # benchmark files: rows with histories, without a log
        parts = [split.inter_feat for split in (train, valid, test)]
        user, item = (np.concatenate([part[field].numpy() for part in parts]) for field in (uid, iid))
        part = np.repeat([TRAINING, VALIDATION, TEST], [len(part) for part in parts])
        # Items in the histories of training rows were seen in training, even if they are not targets.
        lists = train.inter_feat[iid + train.config["LIST_SUFFIX"]].numpy()
        return count_leaks(user, item, part, None, also_seen=lists[lists > 0])
    part = np.where(train.events_up_to_last_row().numpy(), TRAINING, NOWHERE)
    for split, number in ((valid, VALIDATION), (test, TEST)):
        part[split.inter_feat.position.numpy()] = number
    return count_leaks(train.log.user.numpy(), train.log.item.numpy(), part, train.event_times)


def count_leaks(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    part: NDArray[np.int64],
    time: NDArray[np.float64] | None,
    also_seen: NDArray[np.int64] | None = None,
) -> Leaks:
    """Count the problems in a log of events.

    user, item, time: [M] all events, user by user, oldest first; part: [M] TRAINING, VALIDATION, TEST or NOWHERE.
    also_seen: items that were seen in training besides these events. Timestamps that only number the events of each
    user are ignored, because they can't be compared between users.
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


def file_notes(data: Any) -> list[str]:
    """A sentence for each problem in the files of a data set (TrainingData), and on lines that were rejected."""
    rejected = [f"{data.rejected.note('events')}; they are in {REJECTED}"] if data.rejected.count else []
    return [*rejected, *data.reading_notes]


def text_notes(fields: Sequence[str], texts: Sequence[str]) -> list[str]:
    """A sentence on items with identical or nearly identical texts; `texts` has one line per item."""
    texts = [text for text in texts if text]
    same, similar = repeated_texts(texts)
    if not similar:
        return []
    nearly = f", and {similar - same:,} more differ only in case, punctuation or word order" if similar > same else ""
    if not same:
        return [
            f"the texts ({', '.join(fields)}) of {out_of(similar, len(texts), 'item', 'differ')} only in case, "
            "punctuation or word order from another one, so text can hardly tell these items apart"
        ]
    return [
        f"{out_of(same, len(texts), 'item', 'share')} identical text ({', '.join(fields)}){nearly}, so text can't tell "
        "them apart"
    ]


def repeated_texts(texts: Sequence[str]) -> tuple[int, int]:
    """The number of texts that equal another one: exactly, and apart from case, punctuation and word order."""
    same = _repeated(texts)
    return same, _repeated([" ".join(sorted(re.findall(r"\w+", text.casefold()))) for text in texts])


def new_items_notes(config: CompareConfig, cases: NewItemCases | None) -> list[str]:
    """Notes on how new items were measured, or that they were not."""
    if cases is None:
        how = "hides a share of the items and measures them"
        which: float | str = 0.05
        if config.split is not None:
            which, how = AFTER_CUTOFF, "hides the items without an event before `valid_from` and measures them"
        key = f"`evaluate: {{new_items: {which}}}`"
        return [f"new items were not measured, because no item was hidden from training; {key} {how}"]
    items = cases.known - 1 + len(cases.tokens)
    drawn = "no event before `valid_from`" if config.evaluate.new_items == AFTER_CUTOFF else "drawn by their ids"
    notes = [
        f"{len(cases.tokens):,} of {counted(items, 'item')} ({drawn}) and all their events were hidden from training "
        f"and selection; {counted(len(cases.split), 'more test case')} with one of them as target "
        f"{agreed(len(cases.split), 'are')} measured apart, as new items; histories hold known items alone"
    ]
    if cases.left_out:
        notes.append(
            f"{counted(cases.left_out, 'test case')} of new items {agreed(cases.left_out, 'were')} left out: no known "
            "item comes before the target"
        )
    return notes


def _repeated(values: Sequence[str]) -> int:
    """The number of values that occur more than once, counting each occurrence."""
    return sum(count for count in Counter(values).values() if count > 1)


def _only_numbers(user: NDArray[np.int64], time: NDArray[np.float64]) -> bool:
    """Whether timestamps are 0, 1, 2, ... or 1, 2, 3, ... for every user."""
    first = np.flatnonzero(np.diff(user, prepend=-1))
    place = np.arange(len(user)) - np.repeat(first, np.diff(np.append(first, len(user))))
    return bool((time == place + time[:1]).all() and time[0] in (0, 1))
