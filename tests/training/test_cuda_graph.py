"""A batch that is padded to one shape keeps its loss and its gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import WITHOUT_DROPOUT, World, write_world
from torch import Tensor

from blair_rec.data.packing import Packed
from blair_rec.models.packed import can_record, hidden_states
from blair_rec.training.cuda_graph import RecordedStep, Room
from blair_rec.training.losses import full_softmax

WIDTH = 6
ITEM_SIDES: dict[str, dict[str, Any]] = {"id": {}, "text": {"items": "text"}, "text_delta": {"items": "text_delta"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("data") / "world")


def recorded(world: World, room: Room | None = None) -> RecordedStep:
    steps = world.steps

    def loss(packed: Packed, learnt: Tensor, counts: Tensor) -> Tensor:
        hidden = hidden_states(world.model, packed, lambda x, probability: x, learnt)
        return steps._loss(hidden, packed.targets[learnt], None, counts)

    batches = world.sequences, WIDTH, steps.stride, world.train.batch_size, 0
    return RecordedStep(world.model, loss, room or Room.for_batches(*batches))


@pytest.mark.parametrize("items", ITEM_SIDES)
@pytest.mark.parametrize("stride", [None, 2])
@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize("model", ["SASRec", "eSASRec"])
def test_its_loss_and_gradients_are_those_of_the_batch_alone(
    folder: Path, items: str, stride: int | None, temperature: float | None, model: str
) -> None:
    train = {"stride": stride, "temperature": temperature}
    world = World(folder, "cpu", ITEM_SIDES[items], train, model, MAX_ITEM_LIST_LENGTH=WIDTH, **WITHOUT_DROPOUT)
    world.model.train()
    expected = []
    for loss, n_targets in steps_alone(world):
        world.model.zero_grad()
        loss.backward()
        gradients = {name: parameter.grad.clone() for name, parameter in world.model.named_parameters()}
        expected.append((loss.detach(), n_targets, gradients))
    assert len(expected) > 2
    step = recorded(world)
    batches = world.sequences.batches(WIDTH, world.steps.stride, world.train.batch_size, seed=1)
    for packed, (loss, n_targets, gradients) in zip(batches, expected, strict=True):
        learnt = torch.nonzero(packed.targets).squeeze(1)
        assert len(learnt) == n_targets
        numbers = step.shaped(packed, learnt)
        assert numbers is not None
        step.fill(numbers)
        torch.testing.assert_close(step.step(), loss)
        for name, parameter in world.model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)


def steps_alone(world: World) -> Any:
    """The training steps of an epoch whose batches are drawn with seed 1."""
    world.steps.sequences = _SeedOne(world.sequences)
    yield from world.steps(1)


class _SeedOne:
    def __init__(self, sequences: Any) -> None:
        self._sequences = sequences

    def batches(self, width: int, stride: int, targets: int, seed: int, *more: Any) -> Any:
        return self._sequences.batches(width, stride, targets, 1, *more)


def test_a_batch_that_has_no_room_does_not_fit(folder: Path) -> None:
    world = World(folder, "cpu", MAX_ITEM_LIST_LENGTH=WIDTH)
    packed = next(world.sequences.batches(WIDTH, WIDTH, world.train.batch_size, seed=1))
    learnt = torch.nonzero(packed.targets).squeeze(1)
    tokens, n, lengths = len(packed.items), len(learnt), packed.lengths
    short, long = int((lengths <= 2).sum()), int((lengths > 2).sum())
    assert min(short, long) > 0
    blocks = (short, 2), (long + 1, WIDTH)
    assert recorded(world, Room(tokens + 1, n, blocks)).shaped(packed, learnt) is not None
    assert recorded(world, Room(tokens + 1, n, ((0, 2), (len(lengths) + 1, WIDTH)))).shaped(packed, learnt) is not None
    for room in (
        Room(tokens, n, blocks),  # no token to spare
        Room(tokens + 1, n - 1, blocks),
        Room(tokens + 1, n, ((short, 2), (long, WIDTH))),  # no window for the token of padding
        Room(tokens + 1, n, ((short - 1, 2), (long + 1, WIDTH))),
        Room(tokens + 1 + WIDTH, n, blocks),
    ):
        assert recorded(world, room).shaped(packed, learnt) is None


def test_the_room_is_the_same_for_every_epoch_and_enough_for_nearly_all(folder: Path) -> None:
    world = World(folder, "cpu", MAX_ITEM_LIST_LENGTH=WIDTH)
    step = recorded(world)
    fit = [
        step.shaped(packed, torch.nonzero(packed.targets).squeeze(1)) is not None
        for epoch in range(20)
        for packed in world.sequences.batches(WIDTH, WIDTH, world.train.batch_size, seed=epoch)
    ]
    assert np.mean(fit) > 0.9


def test_a_gru_is_not_recorded(folder: Path) -> None:
    assert can_record(World(folder, "cpu").model)
    assert not can_record(World(folder, "cpu", model="GRU4Rec", embedding_size=8, num_layers=1).model)


def test_a_mean_over_some_targets_is_the_mean_over_these() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 4, dtype=torch.float64), torch.randn(12, 4, dtype=torch.float64)
    targets, counts = torch.randint(1, 12, (9,)), torch.tensor([True, False, True] * 3)
    targets[1] = 0  # no item at all
    found = []
    for rows, some in ((slice(None), counts), (counts, None)):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = full_softmax(h[rows], targets[rows], w, 2, counts=some)
        loss.backward()
        found.append((loss.detach(), h.grad, w.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
