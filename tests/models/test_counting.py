"""`count` may only set buffers that were registered before. Other changes would be lost, or change the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.models.counting import count_events


def sequences() -> TrainingSequences:
    items = np.array([1, 2, 3, 2, 1], dtype=np.int64)
    return TrainingSequences(items, np.array([0, 3, 5]), np.array([False, True, True, False, True]))


class Side(nn.Module):
    """Counts the events of each item."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 2)
        self.register_buffer("events", torch.zeros(4))
        self.note: Any = None

    def count(self, log: TrainingSequences) -> None:
        """Set a buffer that is there."""
        self.events = torch.from_numpy(np.bincount(log.items, minlength=4)).float()
        with torch.no_grad():
            self.map.weight.fill_(1)


class Attribute(Side):
    def count(self, log: TrainingSequences) -> None:
        self.note = np.bincount(log.items)


class PartOfAPart(Side):
    def count(self, log: TrainingSequences) -> None:
        self.map.events = torch.ones(3)


class NewBuffer(Side):
    def count(self, log: TrainingSequences) -> None:
        self.register_buffer("more", torch.ones(3))


class NewParameter(Side):
    def count(self, log: TrainingSequences) -> None:
        self.more = nn.Parameter(torch.ones(3))


class OtherParameter(Side):
    def count(self, log: TrainingSequences) -> None:
        self.map.weight = nn.Parameter(torch.ones(2, 2))


class OtherLayer(Side):
    def count(self, log: TrainingSequences) -> None:
        self.map = nn.Linear(2, 2)


class Knows(NewBuffer):
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.register_buffer("more", torch.zeros(3))
        super()._load_from_state_dict(state_dict, prefix, *rest)


@pytest.mark.parametrize("kind", [Side, Knows])
def test_a_loaded_module_has_what_was_counted(kind: type[Side]) -> None:
    side, loaded = kind(), kind()
    count_events(side, sequences())
    loaded.load_state_dict(side.state_dict())
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in side.state_dict().items())
    assert kind is Knows or side.events.tolist() == [0, 2, 2, 1]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Attribute, "Attribute.count sets note, which is not saved with the model"),
        (PartOfAPart, r"PartOfAPart.count sets map.events, which is not saved .*register_buffer"),
        (NewBuffer, "NewBuffer.count adds or removes more, which a loaded model would not know"),
        (NewParameter, "NewParameter.count adds or removes more, which"),
        (OtherParameter, r"OtherParameter.count replaces the parameters map.weight, which the optimiser may hold"),
        (OtherLayer, r"OtherLayer.count replaces the parameters map.bias, map.weight, which the optimiser may hold"),
    ],
)
def test_what_a_loaded_model_would_lack_is_refused(kind: type[Side], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        count_events(kind(), sequences())


@pytest.mark.parametrize("name", ["items", "offsets", "is_target"])
def test_the_events_of_later_variants_cannot_be_changed(name: str) -> None:
    class Changes(Side):
        def count(self, log: TrainingSequences) -> None:
            getattr(log, name)[:] = 1

    log = sequences()
    with pytest.raises(ValueError, match="read-only"):
        count_events(Changes(), log)
    getattr(log, name)[:] = 1  # our own arrays stay writable
