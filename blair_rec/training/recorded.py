"""One training step recorded as a CUDA graph and played for every batch: a GPU waits for Python no more.

A small model's step is some hundred short kernels; to start them one by one takes several times as long as to compute
them. A graph starts them all at once, but always the same ones over the same memory. So each batch is brought to one
shape first: windows of padding that nothing reads, and targets that don't count.

Shapes: P tokens, W windows, T targets, all of them with room to spare.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blair_rec.data.packing import Packed
from blair_rec.data.sequences import TrainingSequences
from blair_rec.device import moved, seed_device

logger = logging.getLogger("blair_rec")

StepLoss = Callable[[Packed, Tensor, Tensor], Tensor]
"""A batch, the tokens [T] int64 that have targets, and which of these count [T] bool -> the mean loss []."""
WARM_UP = 3
"""Steps on a stream beside, before one is recorded, as torch asks for."""
SPARE, STEP = 1.05, 64
"""Room beyond the largest batch of one epoch, and the multiple that room is rounded up to."""


@dataclass(frozen=True)
class Room:
    """What a recorded step has room for."""

    tokens: int
    windows: int
    targets: int

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
        sizes = [
            (len(batch.items), len(batch.lengths) + -(-len(batch.items) // (8 * width)), int((batch.targets > 0).sum()))
            for batch in sequences.batches(width, stride, targets_per_batch, seed, share)
        ]
        tokens, windows, targets = (-(-int(SPARE * most + 1) // STEP) * STEP for most in np.max(sizes, axis=0))
        return cls(tokens, windows, targets)


class RecordedStep:
    """A batch in; its mean loss out, and the gradients of the parameters in their place."""

    def __init__(self, model: Any, loss: StepLoss, room: Room, width: int) -> None:
        self.model, self.loss, self.room, self.width = model, loss, room, width
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._sizes = [room.tokens] * 4 + [room.windows * width] + [room.targets] * 2
        self._numbers = torch.zeros(sum(self._sizes), dtype=torch.int64, device=model.device)
        items, targets, positions, slots, tokens, learnt, counts = self._numbers.split(self._sizes)
        self._packed = Packed(
            items, targets, positions, np.array([]), ((room.windows, width),), token_of_slot=tokens, slot_of_token=slots
        )
        self._learnt, self._counts = learnt, counts
        self._graph: Any = None
        self._value: Tensor
        self._gradients: list[Tensor | None]

    def fits(self, packed: Packed, learnt: Tensor) -> bool:
        """Whether there is room for a batch, with a token to spare."""
        spare = self.room.tokens - len(packed.items)
        windows = len(packed.lengths) + -(-spare // self.width)
        return spare > 0 and windows <= self.room.windows and len(learnt) <= self.room.targets

    def fill(self, packed: Packed, learnt: Tensor) -> None:
        """Put a batch of the CPU where the step reads it."""
        moved_numbers = moved(torch.from_numpy(self._shaped(packed, learnt)), self._numbers.device)
        self._numbers.copy_(moved_numbers, non_blocking=True)

    def _shaped(self, packed: Packed, learnt: Tensor) -> np.ndarray:
        """All of a batch's numbers in the one shape, behind one another: [sum of sizes] int64."""
        whole = np.zeros(sum(self._sizes), dtype=np.int64)
        items, targets, positions, slots, tokens, at, counts = np.split(whole, np.cumsum(self._sizes)[:-1])
        n = len(packed.items)
        items[:n], targets[:n], positions[:n] = packed.items, packed.targets, packed.positions
        window = np.repeat(np.arange(len(packed.lengths)), packed.lengths)
        beyond = np.arange(len(items) - n)  # windows of padding take what is left of the tokens
        positions[n:] = beyond % self.width
        window = np.concatenate([window, len(packed.lengths) + beyond // self.width])
        slots[:] = window * self.width + positions
        tokens[slots] = np.arange(len(items))
        at[: len(learnt)], at[len(learnt) :] = learnt, len(items) - 1
        counts[: len(learnt)] = 1
        return whole

    def __call__(self, packed: Packed, learnt: Tensor) -> Tensor:
        """[] the mean loss over a batch of the CPU that fits. RuntimeError: the model can't be recorded."""
        self.fill(packed, learnt)
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


def recorded_or_none(step: RecordedStep, packed: Packed, learnt: Tensor, seed: int) -> RecordedStep | None:
    """The step, recorded; None where the model can't be. What a GPU draws afterwards depends on `seed` alone."""
    state = torch.get_rng_state()  # item sides draw a seed for each step, on the CPU
    try:
        step(packed, learnt)
    except RuntimeError as error:  # whatever it was, it is met again when the same is computed call by call
        logger.warning("a training step can't be recorded as a CUDA graph, so it takes longer: %s", str(error)[:200])
        return None
    finally:
        for parameter in step._parameters:
            parameter.grad = None
        seed_device(step.model.device, seed)
        torch.set_rng_state(state)
    return step
