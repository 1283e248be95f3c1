"""Training sequences of a split, and the windows that each epoch cuts from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.log import LOG_POSITION
from blair_rec.data.packing import GROWTH, Packed, pack, places_in
from blair_rec.errors import DatasetError


@dataclass(frozen=True, eq=False)
class TrainingSequences:
    """The events of a training split, sequence by sequence, and which of them are targets.

    Every target is in exactly one window per epoch, so all targets have the same weight. A sequence with more inputs
    than the stride is cut at a random offset that changes with the epoch. If the stride equals the width, windows don't
    overlap, and the first targets of a window have a shorter context. With a smaller stride, a window begins with
    events of the window before, which serve only as context.
    """

    items: np.ndarray
    """[M] int64 item ids, sequence after sequence, oldest first."""
    offsets: np.ndarray
    """[S + 1] int64: sequence s is items[offsets[s] : offsets[s + 1]]."""
    is_target: np.ndarray
    """[M] bool; False for the first event of each sequence."""

    def __post_init__(self) -> None:
        if self.is_target[self.offsets[:-1]].any():
            raise DatasetError("the first event of a sequence has no history and can't be a target")

    @property
    def n_targets(self) -> int:
        """Number of targets in one epoch."""
        return int(self.is_target.sum())

    def mean_context(self, width: int, stride: int) -> float:
        """Return how many items a target is predicted from: the mean over all targets and all offsets of `windows`.

        With a stride of 1 every target has the longest possible context, as in RecBole's rows.
        """
        length = np.diff(self.offsets)
        before = places_in(length)[1][self.is_target]
        # In a sequence that is cut, the last input of a target is with equal probability the first to the stride-th
        # new input of its window. Up to `shared` more inputs precede these, if the sequence has that many.
        shared = width - stride
        fewer = np.clip(before - shared - 1, 0, stride)  # number of offsets that cut off part of the context
        mean = (fewer * (fewer + 1) / 2 + fewer * shared + (stride - fewer) * before) / stride
        return float(np.where(np.repeat(length - 1 > stride, length)[self.is_target], mean, before).mean())

    def windows(
        self, width: int, stride: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the first event, number of inputs and number of new inputs of each window, in sequence order.

        Shapes: three arrays [W] int64.

        Args:
            width: maximum number of inputs in a window.
            stride: maximum number of new inputs in a window, 1 to `width`; the others were new in an earlier window.
        """
        inputs = np.diff(self.offsets) - 1  # the last event is never an input
        head = np.where(inputs > stride, generator.integers(1, stride + 1, len(inputs)), inputs)
        count = np.where(inputs > 0, 1 - (-(inputs - head) // stride), 0)
        sequence, nth = places_in(count)
        new = np.where(nth == 0, 0, head[sequence] + (nth - 1) * stride)
        begin = np.maximum(new - (width - stride), 0)
        end = np.minimum(head[sequence] + nth * stride, inputs[sequence])
        return self.offsets[sequence] + begin, end - begin, end - new

    def batches(
        self,
        width: int,
        stride: int,
        targets_per_batch: int,
        seed: int,
        share: slice = slice(None),
        growth: int = GROWTH["cpu"],
    ) -> Iterator[Packed]:
        """Yield one epoch of windows in random order, about `targets_per_batch` targets in each batch.

        Windows are shuffled over users, because batches of equal-length windows would bias the training. `share`
        selects windows of each batch, counted from the shortest to the longest. If it selects none, the batch is one
        window without targets.
        """
        generator = np.random.default_rng(seed)
        first, length, new = self.windows(width, stride, generator)
        learnt = np.concatenate([[0], np.cumsum(self.is_target)])
        n_targets = learnt[first + length + 1] - learnt[first + length - new + 1]
        order = generator.permutation(np.flatnonzero(n_targets))  # a window may contain only context
        first, length, new = first[order], length[order], new[order]
        before = np.cumsum(n_targets[order])
        cuts = np.flatnonzero(np.diff((before - 1) // targets_per_batch, prepend=0, append=-1))
        items = torch.from_numpy(self.items)
        targets = torch.from_numpy(np.where(self.is_target, self.items, 0))
        for begin, end in zip(np.concatenate([[0], cuts[:-1]]), cuts, strict=True):
            if begin == end:
                continue
            mine = begin + np.argsort(length[begin:end], kind="stable")[share]
            if len(mine):
                yield pack(items, targets, first[mine], length[mine], new[mine], growth)
            else:
                one = slice(begin, begin + 1)
                yield pack(items, targets, first[one], length[one], np.zeros(1, dtype=np.int64), growth)


def training_sequences(train: TextSequentialDataset) -> TrainingSequences:
    """Return the sequences of the training split: each event once, none after its user's last training target."""
    if train.log is None:
        lists = train.inter_feat[train.iid_field + train.config["LIST_SUFFIX"]]
        return fold_prefixes(
            train.inter_feat[train.uid_field].numpy(),
            lists.numpy(),
            train.inter_feat[train.item_list_length_field].numpy(),
            train.inter_feat[train.iid_field].numpy(),
        )
    kept = train.events_up_to_last_row().numpy()
    is_target = np.zeros(len(kept), dtype=bool)
    is_target[train.inter_feat[LOG_POSITION].numpy()] = True
    user = train.log.user.numpy()[kept]
    bounds = np.flatnonzero(np.diff(user, prepend=-1))
    return TrainingSequences(
        train.log.item.numpy()[kept], np.append(bounds, len(user)).astype(np.int64), is_target[kept]
    )


def fold_prefixes(user: np.ndarray, lists: np.ndarray, length: np.ndarray, target: np.ndarray) -> TrainingSequences:
    """Join rows of (history, target) into sequences in which each (user, position) is a target once.

    A row continues another row of the same user if its history is that row's history plus target, cut to the last
    `width` items. A row that continues no other row begins a new sequence, with its history only as context.

    Shapes: user, length, target [R] int64; lists [R, width] int64, left-aligned, padded with 0.
    """
    # Rows of a user are sorted by history length. Histories cut to the window all have the same length, and files list
    # them in either direction. So both directions are tried, and the one with fewer breaks is kept.
    best: tuple[np.ndarray, np.ndarray] | None = None
    for direction in (1, -1):
        order = np.lexsort((direction * np.arange(len(user)), length, user))
        continues = _continues(user[order], lists[order], length[order], target[order])
        if best is None or continues.sum() > best[1].sum():
            best = order, continues
    assert best is not None
    order, continues = best
    length, target, lists = length[order], target[order], lists[order]
    # A row that continues adds its target; a row that begins adds its whole history before it.
    added = np.where(continues, 1, length + 1)
    ends = np.cumsum(added)
    items = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
    is_target = np.zeros(len(items), dtype=bool)
    items[ends - 1], is_target[ends - 1] = target, True
    begins = np.flatnonzero(~continues)
    first = (ends - added)[begins]
    sequence, column = places_in(length[begins])
    items[first[sequence] + column] = lists[begins[sequence], column]
    offsets = np.append(first, len(items)).astype(np.int64)
    return TrainingSequences(items, offsets, is_target)


def _continues(user: np.ndarray, lists: np.ndarray, length: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return [R] bool: the history of row r is the history plus target of row r - 1, cut to the window."""
    width = lists.shape[1]
    previous_full = np.zeros((len(lists), width + 1), dtype=lists.dtype)
    previous_full[:, :width] = lists
    previous_full[np.arange(len(lists)), length] = target
    grown = length + 1
    cut = np.where((grown > width)[:, None], previous_full[:, 1:], previous_full[:, :width])
    result = np.zeros(len(lists), dtype=bool)
    result[1:] = (user[1:] == user[:-1]) & (length[1:] == np.minimum(grown, width)[:-1])
    result[1:] &= (lists[1:] == cut[:-1]).all(axis=1)
    return result
