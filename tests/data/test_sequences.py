"""Training sequences: every target once, nothing from the future, and prefixes joined into the original sequences."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import built, read_log

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.sequences import TrainingSequences, fold_prefixes, training_sequences
from blair_rec.errors import DatasetError

Window = tuple[list[int], list[int]]
"""Items, and the target of each (0 for none)."""


def numbered(lengths: list[int], context: list[int] | None = None) -> TrainingSequences:
    """Return sequences whose events are the items 1, 2, 3, ..., each used once; the first items are context."""
    offsets = np.cumsum([0, *lengths])
    is_target = np.ones(offsets[-1], dtype=bool)
    for begin, size, first in zip(offsets, lengths, context or [1] * len(lengths), strict=False):
        is_target[begin : begin + min(first, size)] = False
    return TrainingSequences(np.arange(1, offsets[-1] + 1), offsets, is_target)


def windows_of(batch: Any) -> list[Window]:
    """Return the windows of one packed batch."""
    sizes = batch.lengths.tolist()
    found = list(zip(batch.items.split(sizes), batch.targets.split(sizes), strict=True))
    for (items, _), positions in zip(found, batch.positions.split(sizes), strict=True):
        assert positions.tolist() == list(range(len(items)))
    return [(items.tolist(), targets.tolist()) for items, targets in found]


def epoch(
    sequences: TrainingSequences, width: int, targets_per_batch: int, seed: int = 0, stride: int | None = None
) -> list[list[Window]]:
    """Return all batches of one epoch; without a stride, windows don't overlap."""
    return [windows_of(batch) for batch in sequences.batches(width, stride or width, targets_per_batch, seed)]


worlds = st.lists(st.integers(1, 30), min_size=1, max_size=12).flatmap(
    lambda lengths: st.tuples(
        st.just(lengths), st.lists(st.integers(1, 30), min_size=len(lengths), max_size=len(lengths))
    )
)
cuts = st.integers(1, 9).flatmap(lambda width: st.tuples(st.just(width), st.integers(1, width)))
"""Window widths and strides."""


@given(worlds, cuts, st.integers(1, 40), st.integers(0, 99))
def test_every_target_is_learnt_once_in_each_epoch(
    world: tuple[list[int], list[int]], cut: tuple[int, int], targets_per_batch: int, seed: int
) -> None:
    sequences = numbered(*world)
    width, stride = cut
    batches = epoch(sequences, width, targets_per_batch, seed, stride)
    learnt = Counter(target for batch in batches for _, targets in batch for target in targets if target)
    assert learnt == Counter((np.flatnonzero(sequences.is_target) + 1).tolist())
    assert sequences.n_targets == learnt.total()


@given(worlds, cuts, st.integers(1, 40), st.integers(0, 99))
def test_windows_are_runs_of_one_sequence_and_targets_the_next_items(
    world: tuple[list[int], list[int]], cut: tuple[int, int], targets_per_batch: int, seed: int
) -> None:
    sequences, (width, stride) = numbered(*world), cut
    for batch in epoch(sequences, width, targets_per_batch, seed, stride):
        for items, targets in batch:
            assert 1 <= len(items) <= width
            assert all(after == before + 1 for before, after in pairwise(items))
            at = np.searchsorted(sequences.offsets, np.array(items) - 1, side="right")
            assert len(set(at.tolist())) == 1
            for item, target in zip(items, targets, strict=True):
                if target:  # the item after this one, which is number `item` of the log
                    assert target == item + 1 and sequences.is_target[item] and item < sequences.offsets[at[0]]


@given(worlds, cuts, st.integers(1, 40), st.integers(0, 99))
def test_no_batch_is_without_a_target_or_far_larger_than_asked_for(
    world: tuple[list[int], list[int]], cut: tuple[int, int], targets_per_batch: int, seed: int
) -> None:
    width, stride = cut
    for batch in epoch(numbered(*world), width, targets_per_batch, seed, stride):
        assert 1 <= sum(target > 0 for _, targets in batch for target in targets) < targets_per_batch + width


@given(worlds, cuts, st.integers(0, 99))
def test_no_window_is_without_a_target(world: tuple[list[int], list[int]], cut: tuple[int, int], seed: int) -> None:
    width, stride = cut
    for batch in epoch(numbered(*world), width, 10, seed, stride):
        assert all(any(targets) for _, targets in batch)


@given(worlds, cuts, st.integers(0, 99))
def test_windows_hold_the_last_events_before_their_targets(
    world: tuple[list[int], list[int]], cut: tuple[int, int], seed: int
) -> None:
    sequences, (width, stride) = numbered(*world), cut
    for batch in epoch(sequences, width, 10, seed, stride):
        for items, targets in batch:
            assert sum(target > 0 for target in targets) <= stride
            begin = sequences.offsets[np.searchsorted(sequences.offsets, items[0] - 1, side="right") - 1]
            for position, target in enumerate(targets):
                assert not target or position + 1 > width - stride or items[0] == begin + 1


def test_equal_seeds_give_equal_epochs_and_other_seeds_others() -> None:
    sequences = numbered([25, 3, 14, 9, 30])
    assert epoch(sequences, 6, 20, seed=3) == epoch(sequences, 6, 20, seed=3)
    assert epoch(sequences, 6, 20, seed=3) != epoch(sequences, 6, 20, seed=4)
    cut = [{items[0] for batch in epoch(sequences, 6, 20, seed) for items, _ in batch} for seed in range(30)]
    assert {1, 26, 29, 43, 52} <= set.intersection(*cut)  # a sequence begins with its first event
    assert len(set.union(*cut)) > len(cut[0]) + 20  # and may be cut anywhere else


class Always:
    """A generator that draws the same offset for every sequence."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        assert low <= self.offset < high
        return np.full(size, self.offset)


@given(worlds, cuts)
def test_the_mean_context_is_that_of_all_offsets(world: tuple[list[int], list[int]], cut: tuple[int, int]) -> None:
    sequences, (width, stride) = numbered(*world), cut
    if not sequences.n_targets:
        return
    contexts = []
    for offset in range(1, stride + 1):
        windows = sequences.windows(width, stride, Always(offset))  # type: ignore[arg-type]
        for begin, size, new in zip(*windows, strict=True):
            contexts += [n for n in range(size - new + 1, size + 1) if sequences.is_target[begin + n]]
    assert len(contexts) == stride * sequences.n_targets
    assert sequences.mean_context(width, stride) == pytest.approx(np.mean(contexts))


@given(worlds, st.integers(1, 9))
def test_with_a_stride_of_1_the_windows_are_recboles_rows(world: tuple[list[int], list[int]], width: int) -> None:
    sequences = numbered(*world)
    rows = [
        (list(range(max(begin, at - width) + 1, at + 1)), int(at) + 1)
        for begin, end in pairwise(sequences.offsets)
        for at in range(begin, end)
        if sequences.is_target[at]
    ]
    windows = [window for batch in epoch(sequences, width, 10, stride=1) for window in batch]
    assert all(not any(targets[:-1]) for _, targets in windows)
    assert sorted((items, targets[-1]) for items, targets in windows) == rows


def test_recboles_rows_have_the_mean_context_of_a_stride_of_1(tiny: Path) -> None:
    train = built(TextSequentialDataset, tiny)[1][0]
    mean = train.inter_feat["item_length"].double().mean().item()
    assert training_sequences(train).mean_context(6, 1) == pytest.approx(mean)
    assert 1 < training_sequences(train).mean_context(6, 6) < mean < 6


def test_windows_of_one_batch_come_from_all_over() -> None:
    lengths = [3] * 50 + [12] * 50
    first = epoch(numbered(lengths), 12, 200)[0]
    sizes = Counter(len(items) for items, _ in first)
    assert sizes[2] > 5 and sizes[11] > 5


def test_a_first_event_can_not_be_a_target() -> None:
    with pytest.raises(DatasetError, match="first event of a sequence has no history"):
        TrainingSequences(np.array([1, 2, 3]), np.array([0, 2, 3]), np.array([False, True, True]))


SPLITS: dict[str, dict[str, Any]] = {
    "leave one out": {"split": {"LS": "valid_and_test"}},
    "by ratio in each user": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user"},
    "by ratio in time": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none"},
}


@pytest.mark.parametrize("name", SPLITS)
def test_training_sequences_of_a_split_hold_its_targets_and_nothing_after_them(tiny: Path, name: str) -> None:
    eval_args = {"order": "TO", "mode": "full", **SPLITS[name]}
    train = built(TextSequentialDataset, tiny, eval_args=eval_args)[1][0]
    by_user = defaultdict(list)
    for user, item, time in read_log(tiny):
        by_user[user].append((time, item))
    tokens = train.field2id_token
    n_targets = Counter(str(tokens["user_id"][user]) for user in train.inter_feat["user_id"].tolist())
    expected = [
        [item for _, item in sorted(by_user[str(user)])][: n_targets[str(user)] + 1]
        for user in tokens["user_id"][1:]
        if n_targets[str(user)]
    ]
    sequences = training_sequences(train)
    parts = np.split(sequences.items, sequences.offsets[1:-1])
    assert [[str(tokens["item_id"][item]) for item in part] for part in parts] == expected
    assert sequences.n_targets == len(train)
    assert (~sequences.is_target).sum() == len(parts)


def prefixes(
    sequences: list[list[int]], width: int, descending: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return users, histories cut to the width, their lengths, and targets, as in benchmark files."""
    rows = []
    for user, items in enumerate(sequences, start=1):
        of_user = [(user, items[max(0, at - width) : at], items[at]) for at in range(1, len(items))]
        rows += of_user[::-1] if descending else of_user
    lists = np.zeros((len(rows), width), dtype=np.int64)
    for row, (_, history, _) in enumerate(rows):
        lists[row, : len(history)] = history
    user, target = (np.array([row[column] for row in rows], dtype=np.int64) for column in (0, 2))
    return user, lists, np.array([len(row[1]) for row in rows], dtype=np.int64), target


def as_lists(sequences: TrainingSequences) -> list[tuple[list[int], list[bool]]]:
    """Return each sequence with its targets marked."""
    cuts = sequences.offsets[1:-1]
    return [
        (items.tolist(), marks.tolist())
        for items, marks in zip(np.split(sequences.items, cuts), np.split(sequences.is_target, cuts), strict=True)
    ]


logs = st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=20), min_size=1, max_size=8)


@pytest.mark.parametrize("descending", [False, True])
@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=8))
def test_prefixes_fold_back_into_the_sequences_they_came_from(descending: bool, lengths: list[int]) -> None:
    log = [list(range(1, length + 1)) for length in lengths]
    folded = fold_prefixes(*prefixes(log, 5, descending))
    assert as_lists(folded) == [(items, [False] + [True] * (len(items) - 1)) for items in log]


@pytest.mark.parametrize("descending", [False, True])
@given(log=logs)
def test_repeated_items_don_t_confuse_the_folding(descending: bool, log: list[list[int]]) -> None:
    folded = fold_prefixes(*prefixes(log, 5, descending))
    assert folded.n_targets == sum(map(len, log)) - len(log)
    expected = [(items[max(0, at - 5) : at], items[at]) for items in log for at in range(1, len(items))]
    assert sorted(_ends(folded)) == sorted(expected)
    if not descending:
        assert as_lists(folded) == [(items, [False] + [True] * (len(items) - 1)) for items in log]


def _ends(sequences: TrainingSequences) -> list[tuple[list[int], int]]:
    """Return every target with the five items before it."""
    return [
        (items[max(0, at - 5) : at], items[at])
        for items, marks in as_lists(sequences)
        for at, mark in enumerate(marks)
        if mark
    ]


def test_rows_of_different_users_never_continue_each_other() -> None:
    lists = np.array([[1, 2, 3, 4, 5], [2, 3, 4, 5, 6]])
    folded = fold_prefixes(np.array([1, 2]), lists, np.array([5, 5]), np.array([6, 7]))
    assert [items for items, _ in as_lists(folded)] == [[1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7]]


@given(logs, st.randoms(use_true_random=False))
def test_rows_in_any_order_give_each_history_and_target_once(log: list[list[int]], random: Any) -> None:
    user, lists, length, target = prefixes(log, 5, False)
    order = np.array(random.sample(range(len(user)), len(user)))
    folded = fold_prefixes(user[order], lists[order], length[order], target[order])
    expected = Counter((str(row[:size].tolist()), item) for row, size, item in zip(lists, length, target, strict=True))
    assert Counter((str(history), item) for history, item in _ends(folded)) == expected


@given(logs, st.integers(0, 99), st.data())
def test_some_of_the_prefixes_give_each_of_them_once(log: list[list[int]], seed: int, data: st.DataObject) -> None:
    user, lists, length, target = prefixes(log, 5, True)
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(user), max_size=len(user))), dtype=bool)
    folded = fold_prefixes(user[kept], lists[kept], length[kept], target[kept])
    assert folded.n_targets == kept.sum()
    learnt = [target for batch in epoch(folded, 5, 8, seed) for _, targets in batch for target in targets if target]
    assert Counter(learnt) == Counter(target[kept].tolist())


@pytest.mark.skipif("BLAIR_REC_DATA" not in os.environ, reason="BLAIR_REC_DATA names no folder of real data")
def test_scientific_folds_to_one_sequence_for_each_user() -> None:
    folder = Path(os.environ["BLAIR_REC_DATA"]) / "Scientific"
    train = built(
        TextSequentialDataset,
        folder,
        benchmark_filename=["train", "valid", "test"],
        alias_of_item_id=["item_id_list"],
        load_col={"inter": ["user_id", "item_id_list", "item_id"]},
        MAX_ITEM_LIST_LENGTH=50,
    )[1][0]
    folded = training_sequences(train)
    rows = {
        tuple(row)
        for row in torch.cat(
            [
                train.inter_feat["item_id_list"],
                train.inter_feat["item_id"][:, None],
                train.inter_feat["user_id"][:, None],
            ],
            dim=1,
        ).tolist()
    }
    assert folded.n_targets == len(rows)
    assert len(folded.offsets) - 1 == len(set(train.inter_feat["user_id"].tolist()))
