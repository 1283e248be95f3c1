"""Which GPU RecBole's own keys ask for: its Config reads `gpu_id` alone, and writes it over CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from blair_rec.errors import ConfigError

_AT_FIRST = os.environ.get("CUDA_VISIBLE_DEVICES")
"""What the process was started with, before RecBole wrote over it."""


def gpu_id_of(given: Mapping[str, Any], visible: str | None = _AT_FIRST) -> str | None:
    """`gpu_id` as RecBole has to get it for what `use_gpu` and `device` say; None where it is right as it is.

    Without this a GPU that a scheduler gave to the process, in CUDA_VISIBLE_DEVICES, would be left for GPU 0.

    Args:
        given: the keys that the user has set.
        visible: CUDA_VISIBLE_DEVICES.

    Raises:
        ConfigError: keys that contradict each other, or a device that can't be meant.
    """
    device = str(given.get("device") or "auto")
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and (kind != "cuda" or not number.isdecimal())):
        raise ConfigError(f"device is {device!r}; expected auto, cpu, cuda, or a GPU by its number such as cuda:1")
    if kind == "cuda" and given.get("use_gpu") is False:
        raise ConfigError(f"use_gpu is false, but device is {device}; leave one of them out")
    if "gpu_id" in given and (kind == "cpu" or number):
        raise ConfigError(f"gpu_id is {given['gpu_id']!r}, but device is {device}; leave one of them out")
    if kind == "cpu" or given.get("use_gpu") is False:
        return ""
    if number:
        names = None if visible is None else visible.split(",")
        if names is not None and int(number) >= len(names):
            raise ConfigError(f"device is {device}, but CUDA_VISIBLE_DEVICES shows {len(names)} GPUs ({visible})")
        return number if names is None else names[int(number)]
    return None if "gpu_id" in given else visible


def check_found(given: Mapping[str, Any], device: Any) -> None:
    """Raises ConfigError where RecBole has taken the CPU, as it does without a word, though a GPU was asked for."""
    if str(given.get("device") or "").startswith("cuda") and device.type == "cpu":
        raise ConfigError(f"device is {given['device']}, but torch finds no such GPU; use device: cpu, or auto")
