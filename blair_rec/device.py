"""Choose the device that computes, from the `device` of a config, and manage a GPU's random state.

Also read which of torchrun's processes this one is.

Data is read, shuffled and sampled on the CPU, so that one seed gives the same batches on every device. Only the
computation runs on the chosen device.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from blair_rec.errors import ConfigError, counted

if TYPE_CHECKING:  # imported inside functions, because planning and --help don't need torch
    import torch
    from torch import Tensor

AUTO = "auto"
"""A GPU if there is one, else the CPU."""


def choose_device(asked: str | None = AUTO) -> str:
    """Return the device to compute on, by torch's name: cpu, cuda:0, cuda:1 and so on.

    Args:
        asked: auto (or None), cpu, cuda, cuda:1, or any other device of torch. If torchrun started one process per
            GPU, auto and cuda mean the process's own GPU.

    Raises:
        ConfigError: there is no such device, or this process doesn't have that GPU.
    """
    import torch

    asked = AUTO if asked is None else asked
    if asked == AUTO and not torch.cuda.is_available():
        return "cpu"
    try:
        device = torch.device("cuda" if asked == AUTO else asked)
    except RuntimeError:
        raise ConfigError(f"device is {asked!r}; expected auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError):  # meta, or a kind that this build of torch doesn't have
            raise ConfigError(f"device is {asked!r}, on which torch can't compute here; use device: cpu") from None
    if device.type != "cuda":
        return str(device)
    if not torch.cuda.is_available():
        raise ConfigError(f"device is {asked}, but torch finds no GPU here; use device: cpu, or auto")
    own, found = _number("LOCAL_RANK"), torch.cuda.device_count()
    if device.index is not None and own is not None and (_number("LOCAL_WORLD_SIZE") or 1) > 1:
        raise ConfigError(f"device is {asked}, but torchrun gives each process its own GPU; use device: cuda")
    index = (own or 0) if device.index is None else device.index
    if index >= found:
        raise ConfigError(
            f"device cuda:{index} doesn't exist: torch finds {counted(found, 'GPU')} here, numbered from cuda:0; "
            + ("start only one process per GPU" if device.index is None else "choose one of them")
        )
    return f"cuda:{index}"


def device_name(device: str | torch.device) -> str:
    """The device's name in results: cpu, or the product name of the GPU."""
    import torch

    kind = torch.device(device).type
    return torch.cuda.get_device_name(device) if kind == "cuda" else kind


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device. A copy from the CPU doesn't wait for the GPU's running work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the random generator of a GPU. The CPU's random state doesn't change."""
    if device.type == "cuda":
        _generator(device).manual_seed(seed)


def random_state(gpu: torch.device) -> Tensor:
    """[bytes] uint8 on the CPU: the state of this GPU's random generator."""
    state: Tensor = _generator(gpu).get_state()
    return state


def set_random_state(gpu: torch.device, state: Tensor) -> None:
    """Restore a state that `random_state` returned, for this GPU or another one."""
    _generator(gpu).set_state(state)


def _generator(gpu: torch.device) -> torch.Generator:
    """The generator that all random operations on this GPU share."""
    import torch

    torch.cuda.init()  # creates the generators
    return torch.cuda.default_generators[torch.cuda.current_device() if gpu.index is None else gpu.index]


def process_count() -> int:
    """Return the number of processes that torchrun started; 1 without it.

    Raises:
        ConfigError: WORLD_SIZE is not a whole number.
    """
    return _number("WORLD_SIZE") or 1


def process_rank() -> int:
    """Return this process's number, from 0; 0 for a single process.

    Raises:
        ConfigError: RANK or WORLD_SIZE is not a whole number, or they contradict each other.
    """
    number, processes = _number("RANK"), process_count()
    if processes == 1:
        return 0
    if number is None or number >= processes:
        state = "not set" if number is None else str(number)
        raise ConfigError(
            f"the environment variable WORLD_SIZE is {processes}, but RANK is {state}; start the processes with "
            "torchrun, which numbers them from 0 on, or unset both variables"
        )
    return number


def check_group() -> None:
    """Check that several processes can find each other, before they try to; does nothing for a single process.

    Raises:
        ConfigError: the first one's address or port is not set; or as `process_rank`.
    """
    processes = process_count()
    process_rank()
    if processes > 1 and (_number("MASTER_PORT") is None or not os.environ.get("MASTER_ADDR")):
        raise ConfigError(
            f"the environment variable WORLD_SIZE is {processes}, but MASTER_ADDR or MASTER_PORT is not set, so the "
            "processes can't find each other; start them with torchrun, which sets all of these, or unset WORLD_SIZE"
        )


def _number(name: str) -> int | None:
    """The whole number in an environment variable; None if it is not set, or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ConfigError(
            f"the environment variable {name} is {text!r}, which is not a whole number; start the processes with "
            "torchrun, which sets it, or unset it"
        )
    return int(text)
