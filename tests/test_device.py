"""Which device is taken, and that its random state goes into checkpoints: with made-up GPUs, on any machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from devices import World, write_world
from safetensors.torch import load_file

from blair_rec.device import choose_device, device_name
from blair_rec.errors import ConfigError
from blair_rec.training import checkpoint
from blair_rec.training.checkpoint import load_training, save_training
from blair_rec.training.loop import make_optimizer


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A machine with so many GPUs, as far as torch is asked for them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.parametrize(
    ("asked", "gpus", "taken"),
    [
        ("auto", 0, "cpu"),
        (None, 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("cuda", 2, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_the_device_that_is_asked_for_is_taken(
    asked: str | None, gpus: int, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, gpus)
    assert choose_device(asked) == taken


@pytest.mark.parametrize(
    ("asked", "gpus", "message"),
    [
        ("cuda", 0, "device is cuda, but torch finds no GPU here; use device: cpu, or auto"),
        ("cuda:2", 2, "device cuda:2 is not there: torch finds 2 here, from cuda:0 on; name one of these$"),
        ("gpu", 2, "device is 'gpu'; expected auto, cpu, cuda or cuda:1"),
    ],
)
def test_one_that_is_not_there_is_told(asked: str, gpus: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, gpus)
    with pytest.raises(ConfigError, match=message):
        choose_device(asked)


def test_each_process_of_torchrun_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_device("auto") == choose_device("cuda") == "cuda:1"
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="each process of torchrun takes a GPU of its own; use device: cuda"):
        choose_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="cuda:2 is not there: torch finds 2 here.* start one process for each"):
        choose_device("cuda")


def test_a_result_names_the_cpu_or_the_gpus_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Maker's GPU {device}")
    assert device_name("cpu") == device_name(torch.device("cpu")) == "cpu"
    assert device_name("cuda:1") == "Maker's GPU cuda:1"


def test_a_checkpoint_holds_the_state_of_each_gpu_and_one_without_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(write_world(tmp_path / "world"), "cpu")
    optimizer = make_optimizer(world.model, world.train)
    states = {torch.device("cuda:0"): torch.tensor([1, 2]).byte(), torch.device("cuda:1"): torch.tensor([3, 4]).byte()}
    set_to: dict[torch.device, list[int]] = {}
    save_training(tmp_path / "before.safetensors", world.model, optimizer, {}, {})
    monkeypatch.setattr(checkpoint, "_gpus", lambda model: list(states))
    monkeypatch.setattr(checkpoint, "random_state", states.__getitem__)
    monkeypatch.setattr(checkpoint, "set_random_state", lambda gpu, state: set_to.update({gpu: state.tolist()}))
    save_training(tmp_path / "now.safetensors", world.model, optimizer, {}, {})
    new = load_file(tmp_path / "now.safetensors").keys() - load_file(tmp_path / "before.safetensors").keys()
    assert new == {"generator/gpu0", "generator/gpu1"}
    load_training(tmp_path / "before.safetensors", world.model, optimizer, {})
    assert set_to == {}
    load_training(tmp_path / "now.safetensors", world.model, optimizer, {})
    assert set_to == {torch.device("cuda:0"): [1, 2], torch.device("cuda:1"): [3, 4]}
