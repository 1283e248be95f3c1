"""Let an item side or a scorer read the training split, so that a loaded model has what it counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from torch import nn

from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError

KEPT_APART = frozenset(("_parameters", "_buffers", "_modules"))
"""Attributes of a module in which torch keeps what it saves."""
ARRAYS = ("items", "offsets", "is_target")


class Counts(Protocol):
    """A module with a method `count`."""

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of a training split."""


def count_events(counts: Counts, sequences: TrainingSequences) -> None:
    """Call `count`, with events that can't be changed.

    Raises:
        ConfigError: what was counted would not be in a loaded model, or parameters were replaced, which an optimiser
            may hold already.
    """
    assert isinstance(counts, nn.Module)
    name, before = type(counts).__name__, _Before(counts)
    counts.count(replace(sequences, **{part: _read_only(getattr(sequences, part)) for part in ARRAYS}))
    if replaced := before.replaced(counts):
        raise ConfigError(
            f"{name}.count replaces the parameters {', '.join(replaced)}, which the optimiser may hold already; change "
            "their values (under torch.no_grad())"
        )
    if unsaved := before.unsaved(counts):
        raise ConfigError(
            f"{name}.count sets {', '.join(unsaved)}, which is not saved with the model, so a loaded model would score "
            "differently; register a buffer in __init__ (register_buffer), and set that"
        )
    if (names := sorted(before.saved ^ _saved(counts))) and not _loads_in_its_own_way(counts):
        raise ConfigError(
            f"{name}.count adds or removes {', '.join(names)}, which a loaded model would not know; register the same "
            "buffers and parameters in __init__"
        )


class _Before:
    """The state of a module before it counts."""

    def __init__(self, module: nn.Module) -> None:
        self.attributes, self.saved = _attributes(module), _saved(module)
        self.parameters = dict(module.named_parameters())

    def unsaved(self, module: nn.Module) -> list[str]:
        """The plain attributes that were set since."""
        absent = object()
        after = _attributes(module)
        return sorted(name for name, value in after.items() if self.attributes.get(name, absent) is not value)

    def replaced(self, module: nn.Module) -> list[str]:
        """The parameters that are other objects since."""
        after = dict(module.named_parameters())
        return sorted(name for name, one in self.parameters.items() if name in after and after[name] is not one)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module and of its parts that torch doesn't save, by name."""
    return {
        f"{part}.{name}" if part else name: value
        for part, one in module.named_modules()
        for name, value in vars(one).items()
        if name not in KEPT_APART
    }


def _saved(module: nn.Module) -> frozenset[str]:
    """The names of all saved tensors."""
    return frozenset(module.state_dict())


def _loads_in_its_own_way(module: nn.Module) -> bool:
    return type(module)._load_from_state_dict is not nn.Module._load_from_state_dict


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
