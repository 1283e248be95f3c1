"""A training step recorded as a CUDA graph and replayed for every batch, so the GPU doesn't wait for Python.

A small model's step is hundreds of short kernels. Starting them one by one takes several times as long as computing
them. A graph starts them all together, but always the same kernels on the same memory. So each batch is first padded to
one shape, with windows that nothing reads and targets that don't count.

Shapes: P tokens, W windows, T targets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blair_rec.data.packing import GROWTH, Packed, block_lengths
from blair_rec.data.sequences import TrainingSequences
from blair_rec.device import moved, seed_device

logger = logging.getLogger("blair_rec")

StepLoss = Callable[[Packed, Tensor, Tensor], Tensor]
"""A batch, the tokens [T] int64 that have targets, and which of these count [T] bool -> the mean loss []."""
WARM_UP = 3
"""Steps on a side stream before one is recorded, as torch requires."""
SPARE, STEP = 1.05, 32
"""Room relative to the largest batch of one epoch, and the multiple to which room is rounded up."""


@dataclass(frozen=True)
class Room:
    """Sizes of the largest batch that a recorded step can take."""

    tokens: int
    targets: int
    blocks: tuple[tuple[int, int], ...]
    """(windows, slots of each) of every block, short ones first; padding goes into the last one."""

    @classmethod
    def for_batches(
        cls,
        sequences: TrainingSequences,
        width: int,
        stride: int,
        targets_per_batch: int,
        seed: int,
        share: slice = slice(None),
    ) -> Room:
        """Return room for batches like those of one epoch; it is the same from whichever epoch training resumes."""
        slots = block_lengths(width, GROWTH["cuda"])
        batches = list(sequences.batches(width, stride, targets_per_batch, seed, share))
        tokens, targets = (
            with_spare(max(sizes))
            for sizes in zip(*((len(batch.items), int((batch.targets > 0).sum())) for batch in batches), strict=True)
        )
        windows = [np.bincount(np.searchsorted(slots, batch.lengths), minlength=len(slots)) for batch in batches]
        most = [with_spare(count) for count in np.max(windows, axis=0)]
        padding = tokens - min(len(batch.items) for batch in batches[:-1] or batches)
        most[-1] += -(-padding // width)
        return cls(tokens, targets, tuple(zip(most, slots.tolist(), strict=True)))

    def window_starts(self, lengths: np.ndarray, padding: int) -> np.ndarray | None:
        """Return the first slot of each window, then of each window of padding; None if they don't fit.

        The windows are sorted by length, shortest first.
        """
        starts, taken, offset, width = [], 0, 0, self.blocks[-1][1]
        for number, (room, size) in enumerate(self.blocks, start=1):
            fit = min(room, int(np.searchsorted(lengths, size, side="right")) - taken)
            filled = fit + (-(-padding // width) if number == len(self.blocks) else 0)
            if filled > room:
                return None
            starts.append(offset + size * np.arange(filled))
            taken, offset = taken + fit, offset + room * size
        return np.concatenate(starts) if taken == len(lengths) else None


def with_spare(most: int) -> int:
    """Return room for a little more than the most that was seen."""
    return -(-int(SPARE * most + 1) // STEP) * STEP


class RecordedStep:
    """Takes a batch, returns its mean loss, and sets the gradients of the parameters."""

    def __init__(self, model: Any, loss: StepLoss, room: Room) -> None:
        self.model, self.loss, self.room = model, loss, room
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        slots = sum(windows * size for windows, size in room.blocks)
        self._sizes = [room.tokens] * 4 + [slots] + [room.targets] * 2
        self._numbers = torch.zeros(sum(self._sizes), dtype=torch.int64, device=model.device)
        items, targets, positions, slot_of_token, token_of_slot, learnt, counts = self._numbers.split(self._sizes)
        self._packed = Packed(items, targets, positions, np.array([]), room.blocks, token_of_slot, slot_of_token)
        self._learnt, self._counts = learnt, counts
        self._graph: Any = None
        self._value: Tensor
        self._gradients: list[Tensor | None]

    def shaped(self, packed: Packed, learnt: Tensor) -> np.ndarray | None:
        """Return all numbers of a batch on the CPU in the one shape, [sum of sizes] int64; None if it doesn't fit."""
        padding = self.room.tokens - len(packed.items)
        starts = self.room.window_starts(packed.lengths, padding) if padding > 0 else None
        if starts is None or len(learnt) > self.room.targets:
            return None
        whole = np.zeros(sum(self._sizes), dtype=np.int64)
        items, targets, positions, slots, tokens, at, counts = np.split(whole, np.cumsum(self._sizes)[:-1])
        n, width = len(packed.items), self.room.blocks[-1][1]
        items[:n], targets[:n] = packed.items.numpy(), packed.targets.numpy()
        positions[:n] = packed.positions.numpy()
        positions[n:] = np.arange(padding) % width
        window = np.repeat(np.arange(len(packed.lengths)), packed.lengths)
        window = np.concatenate([window, len(packed.lengths) + np.arange(padding) // width])
        slots[:] = starts[window] + positions
        tokens[slots] = np.arange(len(items))
        at[: len(learnt)], at[len(learnt) :] = learnt.numpy(), len(items) - 1  # a token of padding
        counts[: len(learnt)] = 1
        return whole

    def fill(self, numbers: np.ndarray) -> None:
        """Copy what `shaped` returned to the memory that the step reads."""
        self._numbers.copy_(moved(torch.from_numpy(numbers), self._numbers.device), non_blocking=True)

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """Return the mean loss [] of the batch that `shaped` returned. RuntimeError: the model can't be recorded."""
        self.fill(numbers)
        if self._graph is None:
            self._record()
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._value.clone()

    def step(self) -> Tensor:
        """Compute the loss of the batch that `fill` copied, and its gradients, without the graph."""
        for parameter in self._parameters:
            parameter.grad = None
        with self.model.shared_items():
            value = self.loss(self._packed, self._learnt, self._counts > 0)
        value.backward()
        return value.detach()

    def _record(self) -> None:
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        for parameter in self._parameters:
            parameter.grad = None
        with torch.cuda.graph(graph):
            self._value = self.step()
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._graph = graph


def recorded_or_none(step: RecordedStep, numbers: np.ndarray, seed: int) -> RecordedStep | None:
    """Record the step and return it; None if that fails. What a GPU draws afterwards depends on `seed` alone."""
    state = torch.get_rng_state()  # item sides draw a seed for each step, on the CPU
    try:
        step(numbers)
    except RuntimeError as error:  # a real error appears again when the step runs without the graph
        logger.warning("can't record a training step as a CUDA graph, so training is slower: %s", str(error)[:200])
        return None
    finally:
        for parameter in step._parameters:
            parameter.grad = None
        seed_device(step.model.device, seed)
        torch.set_rng_state(state)
    return step
