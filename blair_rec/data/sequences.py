"""Training sequences of a split, and the windows that every epoch cuts from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.log import LOG_POSITION
from blair_rec.data.packing import GROWTH, Packed, pack
from blair_rec.errors import DatasetError


@dataclass(frozen=True, eq=False)
class TrainingSequences:
    """The events of a training split, sequence by sequence, and which of them are targets.

    Every target stands in exactly one window of every epoch, so each has the same weight. A sequence with more targets
    than the stride is cut, at a random offset that changes with the epoch. Windows as far apart as they are wide share
    nothing, and the first items of a window then see a shortened context; closer ones begin with events of the window
    before, as context alone.
    """

    items: np.ndarray
    """[M] int64 item ids, sequence after sequence, oldest first."""
    offsets: np.ndarray
    """[S + 1] int64: sequence s is items[offsets[s] : offsets[s + 1]]."""
    is_target: np.ndarray
    """[M] bool: never the first event of a sequence."""

    def __post_init__(self) -> None:
        if self.is_target[self.offsets[:-1]].any():
            raise DatasetError("the first event of a sequence has no history and can't be a target")

    @property
    def n_targets(self) -> int:
        """Targets in one epoch."""
        return int(self.is_target.sum())

    def mean_context(self, width: int, stride: int) -> float:
        """How many items a target is predicted from, in the mean over all targets and all offsets of `windows`.

        With a stride of 1 every target has all that comes before it, as in RecBole's rows.
        """
        length = np.diff(self.offsets)
        before = (np.arange(len(self.items)) - np.repeat(self.offsets[:-1], length))[self.is_target]
        # Of a sequence that is cut, any of the window's new inputs may be a target's last one, the first to the
        # stride-th alike; in front of them are `shared` more, where the sequence has so many.
        shared = width - stride
        fewer = np.clip(before - shared - 1, 0, stride)  # offsets that leave some of what comes before out
        mean = (fewer * (fewer + 1) / 2 + fewer * shared + (stride - fewer) * before) / stride
        return float(np.where(np.repeat(length - 1 > stride, length)[self.is_target], mean, before).mean())

    def windows(
        self, width: int, stride: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First event, number of inputs and number of new ones of each window, in the order of the sequences.

        Shapes: three times [W] int64.

        Args:
            width: inputs of a window, at most.
            stride: new inputs of a window, at most, 1 to `width`; the others have been new in a window before.
        """
        inputs = np.diff(self.offsets) - 1  # the last event is never an input
        head = np.where(inputs > stride, generator.integers(1, stride + 1, len(inputs)), inputs)
        count = np.where(inputs > 0, 1 - (-(inputs - head) // stride), 0)
        sequence = np.repeat(np.arange(len(inputs)), count)
        nth = np.arange(len(sequence)) - np.repeat(np.cumsum(count) - count, count)
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
        """One epoch of random windows, about `targets_per_batch` targets in each batch.

        Windows are drawn at random over users: batches of equal-length windows would bias the training. Of each batch
        come the windows of `share`, counted from the shortest to the longest; where that is none, one without targets.
        """
        generator = np.random.default_rng(seed)
        first, length, new = self.windows(width, stride, generator)
        learnt = np.concatenate([[0], np.cumsum(self.is_target)])
        n_targets = learnt[first + length + 1] - learnt[first + length - new + 1]
        order = generator.permutation(np.flatnonzero(n_targets))  # a window may hold nothing but context
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
    """What the training split holds, each (user, event) once; nothing after a user's last training target."""
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
    """Rows of (history, target) back into sequences, each (user, position) a target once.

    A row continues another of the same user when its history is that row's history and target, cut to the window from
    the left. What continues nothing begins a sequence of its own, with its history as context only.

    Shapes: user, length, target [R] int64; lists [R, width] int64, left-aligned, padded with 0.
    """
    # Rows of a user from the shortest history to the longest; those cut to the window are all equally long, and files
    # list them either way round, so both ways are tried and the one with fewer breaks is kept.
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
    row = np.repeat(begins, length[begins])
    column = np.arange(len(row)) - np.repeat(np.cumsum(length[begins]) - length[begins], length[begins])
    items[(ends - added)[row] + column] = lists[row, column]
    offsets = np.append((ends - added)[begins], len(items)).astype(np.int64)
    return TrainingSequences(items, offsets, is_target)


def _continues(user: np.ndarray, lists: np.ndarray, length: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[R] bool: row r holds the history and target of row r - 1, cut to the window."""
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
