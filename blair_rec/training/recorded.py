"""One training step recorded as a CUDA graph and played for every batch: a GPU waits for Python no more.

A small model's step is some hundred short kernels; to start them one by one takes several times as long as to compute
them. A graph starts them all at once, but always the same ones over the same memory. So each batch is brought to one
shape first: windows of padding that nothing reads, and targets that don't count.

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
"""Steps on a stream beside, before one is recorded, as torch asks for."""
SPARE, STEP = 1.05, 32
"""Room beyond the largest batch of one epoch, and the multiple that room is rounded up to."""


@dataclass(frozen=True)
class Room:
    """What a recorded step has room for."""

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
        """For batches such as those of one epoch; the same whichever epoch training goes on from."""
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
        """[W and more] the first slot of each window, of rising lengths, and of those of padding; None without room."""
        starts, taken, offset, width = [], 0, 0, self.blocks[-1][1]
        for room, size in self.blocks:
            fit = min(room, int(np.searchsorted(lengths, size, side="right")) - taken)
            last = room == self.blocks[-1][0] and size == width
            fit_and_padding = fit + -(-padding // width) if last else fit
            if fit_and_padding > room:
                return None
            starts.append(offset + size * np.arange(fit_and_padding))
            taken, offset = taken + fit, offset + room * size
        return np.concatenate(starts) if taken == len(lengths) else None


def with_spare(most: int) -> int:
    """Room for some more than the most that was met."""
    return -(-int(SPARE * most + 1) // STEP) * STEP


class RecordedStep:
    """A batch in; its mean loss out, and the gradients of the parameters in their place."""

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
        """All numbers of a batch of the CPU in the one shape, [sum of sizes] int64; None where there is no room."""
        padding = self.room.tokens - len(packed.items)
        starts = self.room.window_starts(packed.lengths, padding) if padding > 0 else None
        if starts is None or len(learnt) > self.room.targets:
            return None
        whole = np.zeros(sum(self._sizes), dtype=np.int64)
        items, targets, positions, slots, tokens, at, counts = np.split(whole, np.cumsum(self._sizes)[:-1])
        n, width = len(packed.items), self.room.blocks[-1][1]
        items[:n], targets[:n], positions[:n] = packed.items, packed.targets, packed.positions
        positions[n:] = np.arange(padding) % width
        window = np.repeat(np.arange(len(packed.lengths)), packed.lengths)
        window = np.concatenate([window, len(packed.lengths) + np.arange(padding) // width])
        slots[:] = starts[window] + positions
        tokens[slots] = np.arange(len(items))
        at[: len(learnt)], at[len(learnt) :] = learnt, len(items) - 1  # a token of padding
        counts[: len(learnt)] = 1
        return whole

    def fill(self, numbers: np.ndarray) -> None:
        """Put what `shaped` gave where the step reads it."""
        self._numbers.copy_(moved(torch.from_numpy(numbers), self._numbers.device), non_blocking=True)

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """[] the mean loss over the batch that `shaped` gave. RuntimeError: the model can't be recorded."""
        self.fill(numbers)
        if self._graph is None:
            self._record()
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._value.clone()

    def step(self) -> Tensor:
        """The loss of what `fill` put there, and its gradients, computed call by call."""
        for parameter in self._parameters:
            parameter.grad = None
        with self.model.shared_items():
            value = self.loss(self._packed, self._learnt, self._counts > 0)
        value.backward()
        return value.detach()

    def _record(self) -> None:
        beside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self.step()
        torch.cuda.current_stream().wait_stream(beside)
        for parameter in self._parameters:
            parameter.grad = None
        with torch.cuda.graph(graph):
            self._value = self.step()
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._graph = graph


def recorded_or_none(step: RecordedStep, numbers: np.ndarray, seed: int) -> RecordedStep | None:
    """The step, recorded; None where the model can't be. What a GPU draws afterwards depends on `seed` alone."""
    state = torch.get_rng_state()  # item sides draw a seed for each step, on the CPU
    try:
        step(numbers)
    except RuntimeError as error:  # whatever it was, it is met again when the same is computed call by call
        logger.warning("a training step can't be recorded as a CUDA graph, so it takes longer: %s", str(error)[:200])
        return None
    finally:
        for parameter in step._parameters:
            parameter.grad = None
        seed_device(step.model.device, seed)
        torch.set_rng_state(state)
    return step
