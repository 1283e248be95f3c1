"""Which device is taken, and that its random state goes into checkpoints: with made-up GPUs, on any machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from devices import World, write_world
from fake_runs import fake_ranks, fake_run
from safetensors.torch import load_file

from blair_rec.cli import main
from blair_rec.config.comparison import read_config
from blair_rec.device import choose_device, device_name
from blair_rec.errors import ConfigError, TrainingError
from blair_rec.evaluate.leaderboard import build_leaderboard
from blair_rec.evaluate.runs.results import load_runs
from blair_rec.experiment.compare import compare
from blair_rec.experiment.planning.plan import run_setup
from blair_rec.training import checkpoint
from blair_rec.training.checkpoint import load_training, save_training
from blair_rec.training.loop import READ_TOGETHER, make_optimizer, run_epoch


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
        (
            "cuda:2",
            2,
            "device cuda:2 doesn't exist: torch finds 2 GPUs here, numbered from cuda:0; choose one of them$",
        ),
        ("gpu", 2, "device is 'gpu'; expected auto, cpu, cuda or cuda:1"),
        ("", 0, "device is ''; expected auto, cpu, cuda or cuda:1"),
    ],
)
def test_one_that_is_not_there_is_told(asked: str, gpus: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, gpus)
    with pytest.raises(ConfigError, match=message):
        choose_device(asked)


@pytest.mark.parametrize("asked", ["meta", "mps"])
def test_a_device_on_which_torch_computes_nothing_here_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{asked}', on which torch can't compute here; use device: cpu"):
        choose_device(asked)


def test_a_comparison_looks_for_its_device_before_it_reads_the_data(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 0)
    (tiny / "tiny.inter").write_text("no columns", "utf-8")
    config = read_config({"dataset": str(tiny), "variants": {"id": {}}, "device": "cuda:99"})
    with pytest.raises(ConfigError, match="device is cuda:99, but torch finds no GPU here"):
        compare(config, tmp_path / "out")


def test_each_process_of_torchrun_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_device("auto") == choose_device("cuda") == "cuda:1"
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="torchrun gives each process its own GPU; use device: cuda"):
        choose_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        ConfigError, match="cuda:2 doesn't exist: torch finds 2 GPUs here.* start only one process per GPU"
    ):
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
    save_training(tmp_path / "before.safetensors", world.model, optimizer, {}, {}, {})
    monkeypatch.setattr(checkpoint, "_gpus", lambda model: list(states))
    monkeypatch.setattr(checkpoint, "random_state", states.__getitem__)
    monkeypatch.setattr(checkpoint, "set_random_state", lambda gpu, state: set_to.update({gpu: state.tolist()}))
    save_training(tmp_path / "now.safetensors", world.model, optimizer, {}, {}, {})
    new = load_file(tmp_path / "now.safetensors").keys() - load_file(tmp_path / "before.safetensors").keys()
    assert new == {"generator/gpu0", "generator/gpu1"}
    load_training(tmp_path / "before.safetensors", world.model, optimizer, {}, {})
    assert set_to == {}
    load_training(tmp_path / "now.safetensors", world.model, optimizer, {}, {})
    assert set_to == {torch.device("cuda:0"): [1, 2], torch.device("cuda:1"): [3, 4]}


def test_a_config_names_the_device_and_recboles_key_may_leave_out_gpus() -> None:
    said = {"dataset": "tiny", "variants": {"id": {}}}
    assert [read_config({**said, "device": name}).computed_on for name in ("auto", "cpu", "cuda", "cuda:1")] == [
        "auto",
        "cpu",
        "cuda",
        "cuda:1",
    ]
    assert read_config({**said, "recbole": {"use_gpu": False}}).computed_on == "cpu"
    with pytest.raises(ConfigError, match="recbole.use_gpu is false, but device is 'cuda'; leave use_gpu out"):
        read_config({**said, "recbole": {"use_gpu": False}, "device": "cuda"})
    for wrong in ("gpu", ""):
        with pytest.raises(ConfigError, match=f"device is '{wrong}'; expected auto, cpu, cuda, or a GPU by its number"):
            read_config({**said, "device": wrong})
    with pytest.raises(ConfigError, match="recbole.device belongs to device"):
        read_config({**said, "recbole": {"device": "cuda"}})


def test_a_run_is_the_same_run_on_every_device() -> None:
    said = {"dataset": "tiny", "variants": {"id": {}, "rules": {"scorer": "markov"}}}
    for name in ("id", "rules"):
        assert run_setup(read_config({**said, "device": "cuda:1"}), name, 1) == run_setup(read_config(said), name, 1)


def test_a_board_of_runs_from_several_devices_says_so(tmp_path: Path) -> None:
    for seed, device in ((1, "cpu"), (2, "A GPU")):
        fake_run(tmp_path, "id", seed, fake_ranks(seed), provenance={"device": device})
    board = build_leaderboard(load_runs(tmp_path), "id", ["NDCG@10"], "unmasked")
    assert board.provenance["device"] == ["cpu", "A GPU"]
    assert "runs differ in device: cpu, A GPU" in board.notes


@pytest.mark.parametrize("device", ["gpu", "cuda:"])
@pytest.mark.parametrize("command", ["compare", "tune", "pretrain"])
def test_the_command_line_takes_the_place_of_the_configs_device(
    command: str, device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "my.yaml"
    pairs = "{pairs: pairs.csv, encoder: none, device: cpu}"
    config.write_text(pairs if command == "pretrain" else "{dataset: tiny, variants: {id: {}}, device: cpu}", "utf-8")
    assert main([command, str(config), "-o", str(tmp_path / "out"), "--device", device]) == 1
    assert f"device is {device!r}; expected auto, cpu, cuda, or a GPU by its number" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("together", [1, 4])
def test_losses_that_are_read_together_are_the_same_and_told_in_their_order(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READ_TOGETHER, "cpu", together)
    model, told, before = torch.nn.Linear(1, 1), list[tuple[int, float]](), list[int]()

    def losses(values: list[float]) -> Iterator[tuple[torch.Tensor, int]]:
        for number, value in enumerate(values, start=1):
            before.append(len(told))
            yield model.weight.sum() * 0 + value, number

    sgd = torch.optim.SGD(model.parameters(), 0.1)
    values = [float(value) for value in range(10)]
    mean = run_epoch(model, sgd, losses(values), lambda done, loss: told.append((done, loss)))
    assert mean == sum(number * value for number, value in enumerate(values, start=1)) / sum(range(11))
    assert told == list(enumerate(values, start=1))
    assert before == [step - step % together for step in range(10)]
    with pytest.raises(TrainingError, match="the loss is nan at step 2;"):
        run_epoch(model, sgd, losses([1.0, torch.nan, 3.0]))
