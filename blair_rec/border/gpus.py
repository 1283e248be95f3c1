"""Choose the GPU that the user's keys ask for.

RecBole's Config reads only `gpu_id`, and overwrites CUDA_VISIBLE_DEVICES with it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from blair_rec.errors import ConfigError

logger = logging.getLogger("blair_rec")

VISIBLE = "CUDA_VISIBLE_DEVICES"
_AT_FIRST = os.environ.get(VISIBLE)
"""The value at the start of the process, before RecBole overwrites it."""


def gpu_id_of(given: Mapping[str, Any], visible: str | None = _AT_FIRST) -> str | None:
    """Return the `gpu_id` that makes RecBole follow `use_gpu` and `device`; None if nothing has to change.

    Without this, RecBole would use GPU 0 instead of the GPU that a scheduler assigned in CUDA_VISIBLE_DEVICES.

    Args:
        given: the keys that the user has set.
        visible: CUDA_VISIBLE_DEVICES.

    Raises:
        ConfigError: keys that contradict each other, or an invalid device.
    """
    device = "auto" if given.get("device") is None else str(given["device"])
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and (kind != "cuda" or not number.isdecimal())):
        raise ConfigError(f"device is {device!r}; expected auto, cpu, cuda, or a GPU number such as cuda:1")
    if kind == "cuda" and given.get("use_gpu") is False:
        raise ConfigError(f"use_gpu is false, but device is {device}; leave one of them out")
    if "gpu_id" in given and (kind == "cpu" or number):
        raise ConfigError(f"gpu_id is {given['gpu_id']!r}, but device is {device}; leave one of them out")
    if kind == "cpu" or given.get("use_gpu") is False:
        return ""
    if number:
        names = None if visible is None else visible.split(",")
        if names is not None and int(number) >= len(names):
            raise ConfigError(f"device is {device}, but CUDA_VISIBLE_DEVICES lists {len(names)} GPUs ({visible})")
        return number if names is None else names[int(number)]
    return None if "gpu_id" in given else visible


def check_there(given: Mapping[str, Any], gpu_id: str | None) -> None:
    """Check before RecBole starts that it will find the GPU that was asked for; CUDA is not started for this.

    Args:
        given: the keys that the user has set.
        gpu_id: what `gpu_id_of` returned for them.

    Raises:
        ConfigError: there is no such GPU; for `use_gpu: True` this is a warning.
    """
    import torch

    if not _asks_for_gpu(given):
        return
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = str(given.get("gpu_id", 0)) if gpu_id is None else gpu_id  # as RecBole will set it
    try:
        found = torch.cuda.device_count()
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
    if not found:
        _not_found(given)


def check_found(given: Mapping[str, Any], device: Any) -> None:
    """Check that RecBole did not silently take the CPU instead of a GPU that was asked for.

    Raises:
        ConfigError: it did; for `use_gpu: True` this is a warning.
    """
    if _asks_for_gpu(given) and device.type == "cpu":
        _not_found(given)


def _asks_for_gpu(given: Mapping[str, Any]) -> bool:
    kind = str(given.get("device") or "auto").partition(":")[0]
    return kind == "cuda" or (kind == "auto" and given.get("use_gpu") is True)


def _not_found(given: Mapping[str, Any]) -> None:
    if given.get("device") in (None, "auto"):
        logger.warning("use_gpu is true, but torch finds no GPU, so the CPU computes")
        return
    raise ConfigError(f"device is {given['device']}, but torch finds no such GPU; use device: cpu, or auto")
