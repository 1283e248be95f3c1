"""Train one model on all processes that `torchrun` started; in a single process, all of this does nothing.

Each process holds the model and takes its share of every batch. Gradients are averaged over targets, so each step is
the same as in a single process. Only the first process evaluates, writes files and reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from blair_rec.device import AUTO, check_group, choose_device
from blair_rec.errors import BlairRecError, TrainingError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long the others wait for the first process while it encodes or evaluates; torchrun ends them if it fails."""


@contextmanager
def group(device: str = AUTO) -> Iterator[None]:
    """Make the processes of torchrun one group within this block: nccl on GPUs (one GPU per process), gloo on CPUs.

    Raises:
        ConfigError: more processes than GPUs, or one GPU named for all of them (see choose_device); or a variable of
            torchrun is missing or wrong.
    """
    check_group()
    own = torch.device(choose_device(device))
    if own.type == "cuda":
        torch.cuda.set_device(own)  # from here on "cuda" means this one
    # The default arguments of this module keep the group that exists when an optimiser imports it. Then gloo's threads
    # outlive the group, and can abort the process at its end. Imported before the group, it keeps none.
    from torch.distributed import nn as _nn  # noqa: F401

    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share() -> slice:
    """Return the part of a batch that this process takes."""
    return slice(rank(), None, count())


def adds_rows() -> bool:
    """Return whether sparse gradients can be averaged; nccl can only sum whole tables."""
    return count() == 1 or dist.get_backend() == "gloo"


def from_first(make: Callable[[], Any]) -> Any:
    """Call `make` in the first process while the others wait; return its result, which JSON can hold, in all of them.

    Raises:
        BlairRecError: what `make` raises, in the first process; a TrainingError in the others.
    """
    if count() == 1:
        return make()
    if rank() == 0:
        try:
            made = make()
        except BlairRecError:
            _broadcast([])
            raise
        return _broadcast([made])[0]
    received = _broadcast([])
    if not received:
        raise TrainingError("the first process failed; its own message says why")
    return received[0]


def in_all(make: Callable[..., T], *given: Any) -> T:
    """Call `make(*given)` in every process and return its result; if it fails in any of them, it fails in all.

    If only that process failed, the others would wait for it forever in training.

    Raises:
        BlairRecError: in the first process, what `make` raises, or a TrainingError with the message of the process
            where it failed; a TrainingError in the others.
    """
    if count() == 1:
        return make(*given)
    made, error = None, None
    try:
        made = make(*given)
    except BlairRecError as raised:
        error = raised
    said = [_broadcast([None if error is None else str(error)], process)[0] for process in range(count())]
    if error is not None and rank() == 0:
        raise error
    if failed := [process for process, message in enumerate(said) if message is not None]:
        raise TrainingError(f"process {failed[0]} of {count()} failed: {said[failed[0]]}")
    return cast(T, made)


def _broadcast(what: list[Any], source: int = 0) -> Any:
    """Return one process's list in all processes; it is sent as JSON text, so nothing is unpickled."""
    text = json.dumps(what).encode()
    length = torch.tensor(len(text), device=_device())
    dist.broadcast(length, src=source)
    letters = torch.zeros(int(length), dtype=torch.uint8, device=_device())
    if rank() == source:
        letters.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(letters, src=source)
    return json.loads(bytes(letters.tolist()))


def average(parameters: Iterable[Tensor], loss: Tensor, targets: int) -> tuple[Tensor, int]:
    """Replace this process's gradients by those of the whole batch; return the batch's mean loss and target count.

    Args:
        parameters: with the gradients of a loss that is the mean over this process's share of the batch.
        loss: [] that mean.
        targets: number of targets in this process's share; 0 is possible.
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
