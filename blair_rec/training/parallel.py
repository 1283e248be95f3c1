"""One training on all the processes that `torchrun` started; in a process of its own, all of this does nothing.

Each process holds the model and takes its share of every batch. Gradients are averaged by targets, so that the step
is the one that a single process would take. What is not arithmetic (evaluation, files, words) is the first one's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blair_rec.device import AUTO, choose_device
from blair_rec.errors import BlairRecError, TrainingError

PATIENCE = timedelta(days=7)
"""How long the others wait for the first process while it encodes or evaluates; torchrun ends them if it fails."""


@contextmanager
def group(device: str = AUTO) -> Iterator[None]:
    """Within this block the processes of torchrun are one group: nccl on GPUs, one for each, gloo on CPUs.

    Raises:
        ConfigError: more processes than GPUs, or one GPU named for all of them; see choose_device.
    """
    own = torch.device(choose_device(device))
    if own.type == "cuda":
        torch.cuda.set_device(own)  # from here on "cuda" means this one
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share() -> slice:
    """What this process takes of a batch."""
    return slice(rank(), None, count())


def adds_rows() -> bool:
    """Whether gradients of a few rows can be averaged; nccl sums whole tables alone."""
    return count() == 1 or dist.get_backend() == "gloo"


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` gives in the first process, in all of them, while the others wait: anything that JSON can hold.

    Raises:
        BlairRecError: what `make` raises, in the first process; a TrainingError in the others.
    """
    if count() == 1:
        return make()
    if rank() == 0:
        try:
            made = make()
        except BlairRecError:
            _tell([])
            raise
        return _tell([made])[0]
    told = _tell([])
    if not told:
        raise TrainingError("the first process could not go on, and says why")
    return told[0]


def _tell(what: list[Any]) -> Any:
    """The first process's list, in all of them; as letters, so that nothing is unpickled."""
    text = json.dumps(what).encode()
    length = torch.tensor(len(text), device=_device())
    dist.broadcast(length, src=0)
    letters = torch.zeros(int(length), dtype=torch.uint8, device=_device())
    if rank() == 0:
        letters.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(letters, src=0)
    return json.loads(bytes(letters.tolist()))


def average(parameters: Iterable[Tensor], loss: Tensor, targets: int) -> tuple[Tensor, int]:
    """Put the gradients of the whole batch in the place of this process's, and return its mean loss and targets.

    Args:
        parameters: with the gradients of a loss that is the mean over this process's share of the batch.
        loss: [] that mean.
        targets: how many are in this process's share; none is possible.
    """
    if count() == 1:
        return loss, targets
    sums = torch.tensor([0, targets], dtype=torch.float64, device=_device())
    sums[0] = loss.double() * targets
    dist.all_reduce(sums)
    total, whole_tables = int(sums[1]), []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            rows = parameter.grad.coalesce().mul_(targets / total)
            dist.all_reduce(rows)
            parameter.grad = rows
        else:
            whole_tables.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in whole_tables]).mul_(targets / total)
    dist.all_reduce(flat)
    for gradient, averaged in zip(whole_tables, flat.split([g.numel() for g in whole_tables]), strict=True):
        gradient.copy_(averaged.view_as(gradient))
    return sums[0] / total, total


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
