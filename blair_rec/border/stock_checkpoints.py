"""Checkpoints of RecBole's stock models, which are pickles: only those that this process wrote are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from blair_rec.errors import CheckpointError

_written: dict[Path, tuple[int, int, int]] = {}
"""Checkpoints that this process wrote through RecBole: resolved path -> (inode, modification time, size)."""


def remember(path: Path) -> None:
    """Remember that this process has just written a checkpoint; under DDP only the first process writes."""
    if path.exists():
        _written[path.resolve()] = _fingerprint(path)


def load_own_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Load a stock RecBole checkpoint that this process wrote and that nothing has changed since.

    Raises:
        CheckpointError: the file is missing, was written by another process, or has changed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} doesn't exist; train with saved=True, or evaluate with load_best_model=False")
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path} holds the weights of a model of blair_rec, but no config and no data set; make config, data, "
            f"model and trainer as before, then call trainer.evaluate(test_data, model_file={str(path)!r})"
        )
    if _written.get(path.resolve()) != _fingerprint(path):
        raise CheckpointError(
            f"{path} was not written by this process, and reading a RecBole checkpoint can run code from the file; "
            "if you trust it, load it yourself with torch.load(path, weights_only=False) and pass its 'state_dict' to "
            "model.load_state_dict, then evaluate with load_best_model=False"
        )
    return torch.load(path, map_location=device, weights_only=False)


def _fingerprint(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_size
