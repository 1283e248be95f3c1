"""Where tensors are computed: the `device` that is asked for -> one that this process really has, and its random state.

Data is read, shuffled and drawn on the CPU, so that one seed gives the same batches on every device; what is computed
goes to the device.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blair_rec.errors import ConfigError

if TYPE_CHECKING:  # imported where it is used: planning and --help do without torch
    import torch
    from torch import Tensor

AUTO = "auto"
"""A GPU where there is one, and the CPU elsewhere."""


def choose_device(asked: str | None = AUTO) -> str:
    """The device to compute on, as torch names it: cpu, cuda:0, cuda:1 and so on.

    Args:
        asked: auto (or None), cpu, cuda, cuda:1, or any other device that torch knows. auto and cuda mean the process's
            own GPU where torchrun has started one process for each.

    Raises:
        ConfigError: no device of that name, or a GPU that this process doesn't have.
    """
    import torch

    asked = asked or AUTO
    if asked == AUTO and not torch.cuda.is_available():
        return "cpu"
    try:
        device = torch.device("cuda" if asked == AUTO else asked)
    except RuntimeError:
        raise ConfigError(f"device is {asked!r}; expected auto, cpu, cuda or cuda:1") from None
    if device.type != "cuda":
        return str(device)
    if not torch.cuda.is_available():
        raise ConfigError(f"device is {asked}, but torch finds no GPU here; use device: cpu, or auto")
    own, found = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
    if device.index is not None and own is not None and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"device is {asked}, but each process of torchrun takes a GPU of its own; use device: cuda")
    index = int(own or 0) if device.index is None else device.index
    if index >= found:
        raise ConfigError(
            f"device cuda:{index} is not there: torch finds {found} here, from cuda:0 on; name one of these"
            + (", or start one process for each" if device.index is None else "")
        )
    return f"cuda:{index}"


def device_name(device: str | torch.device) -> str:
    """What a reader of results calls it: cpu, or the name that the GPU's maker gives it."""
    import torch

    kind = torch.device(device).type
    return torch.cuda.get_device_name(device) if kind == "cuda" else kind


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device; one that comes from the CPU does not wait for what a GPU is doing."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def compile_layers(model: torch.nn.Module) -> None:
    """Let torch compile the layers of a transformer where they are: once for all of them, since they are the same.

    What happens between the products is then done in fewer passes over memory. The first batches take seconds longer.
    """
    from torch import nn

    for stack in model.modules():
        if isinstance(stack, nn.ModuleList) and len({type(layer) for layer in stack}) == 1 and len(stack) > 1:
            for layer in stack:
                layer.compile(dynamic=True)


def seed_device(device: torch.device, seed: int) -> None:
    """What is drawn on a GPU from now on depends on `seed` alone; the CPU's random state stays as it is."""
    if device.type == "cuda":
        _generator(device).manual_seed(seed)


def random_state(gpu: torch.device) -> Tensor:
    """[bytes] uint8 on the CPU: what this GPU draws from next."""
    state: Tensor = _generator(gpu).get_state()
    return state


def set_random_state(gpu: torch.device, state: Tensor) -> None:
    """Go on with what `random_state` gave, of this GPU or another one."""
    _generator(gpu).set_state(state)


def _generator(gpu: torch.device) -> torch.Generator:
    """The one that all drawing on this GPU shares."""
    import torch

    torch.cuda.init()  # there is none before
    return torch.cuda.default_generators[torch.cuda.current_device() if gpu.index is None else gpu.index]
