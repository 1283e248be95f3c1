"""Training on several processes, really started by torchrun: the same numbers as on one, and only one prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from blair_rec.errors import ScoringError, TrainingError

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "hidden_size": 8,
    "inner_size": 8,
    "n_layers": 1,
    "n_heads": 1,
    "MAX_ITEM_LIST_LENGTH": 6,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "dropout_prob": 0.0,
    "dropout_probs": [0.0, 0.0],
}
SETUPS: dict[str, dict[str, Any]] = {
    "full_softmax": {"batch_size": 100},
    "few_windows": {"batch_size": 5, "epochs": 1},  # the second process gets nothing of many batches
    "gru4rec": {"model": "GRU4Rec", "batch_size": 60, "temperature": 0.2},
    "rows": {"loss": "sampled_softmax", "negatives": 20, "log_q": True, "batch_size": 5, "epochs": 1},
    "bpr": {"loss": "bpr", "negatives": 20, "weight_decay": 0.001, "batch_size": 50},
    "recbole": {"loss": "recbole", "batch_size": 101},
    "narm": {"model": "NARM", "batch_size": 64},
}


def train(folder: Path, name: str, **more: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Two epochs of one of the set-ups: the losses, and the weights in the end."""
    import blair_rec.recbole  # noqa: F401
    from blair_rec.border.settings import recbole_config
    from blair_rec.config.sections import TrainConfig
    from blair_rec.data.dataset import TextSequentialDataset
    from blair_rec.data.sequences import training_sequences
    from blair_rec.models.text_models import model_class
    from blair_rec.training.epochs import build_training
    from blair_rec.training.loop import fit

    torch.set_num_threads(1)  # two would only wait for each other
    given = {**SETUPS[name], **more}
    cls, own = model_class(given.pop("model", "SASRec")), given.pop("recbole", {})
    config = TrainConfig(**{"epochs": 2, "learning_rate": 0.01, "warmup_steps": 5, **given})
    settings = {"train_batch_size": config.batch_size, "blair_temperature": config.temperature, "seed": 1}
    recbole = recbole_config(cls, str(folder), {**SMALL, **settings, **own})
    split, _, _ = TextSequentialDataset(recbole).build()
    model, steps = build_training(cls, recbole, split, training_sequences(split), config, seed=1)
    trained = fit(model, steps, iter([{"m": 1.0}, {"m": 2.0}]).__next__, "m", config)
    return [epoch.loss for epoch in trained.history], dict(model.state_dict())


def in_a_group(folder: Path, out: Path) -> None:
    """Run all set-ups, one after another; each process of the test does this."""
    from blair_rec.training import parallel

    with parallel.group():
        assert parallel.count() == 2
        received = parallel.from_first(lambda: {"only": "the first", "rank": parallel.rank()})
        assert received == {"only": "the first", "rank": 0}
        error = TrainingError if parallel.rank() else ScoringError
        with pytest.raises(error, match="the first process failed" if parallel.rank() else "no scores"):
            parallel.from_first(scoreless)
        assert parallel.in_all(parallel.rank) == parallel.rank()
        for failing in (0, 1):
            own = parallel.rank() == failing
            here = own and failing == 0
            with pytest.raises(ScoringError if here else TrainingError, match="no scores") as raised:
                parallel.in_all(scoreless if own else int)
            assert here or str(raised.value) == f"process {failing} of 2 failed: no scores"
        with pytest.raises(TrainingError, match="the loss is nan at step"):
            train(folder, "full_softmax", recbole={"initializer_range": 1e30})
        for name in SETUPS:
            losses, weights = train(folder, name)
            save_file(weights, out / f"{name}-{parallel.rank()}.safetensors", {"losses": json.dumps(losses)})
        number = parallel.rank()
    threads = [path.read_text(encoding="utf-8").strip() for path in Path("/proc/self/task").glob("*/comm")]
    (out / f"threads-{number}.json").write_text(json.dumps(threads), encoding="utf-8")


def scoreless() -> None:
    raise ScoringError("no scores")


def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run two processes on this machine, and return their output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "helpers")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights and losses of all set-ups, trained by two processes."""
    out = tmp_path_factory.mktemp("parallel")
    done = torchrun(str(Path(__file__)), str(REPOSITORY / "datasets" / "tiny"), str(out), cwd=out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("name", SETUPS)
def test_two_processes_train_to_the_losses_and_weights_of_one(trained_by_two: Path, name: str) -> None:
    losses, weights = train(REPOSITORY / "datasets" / "tiny", name)
    first, second = (trained_by_two / f"{name}-{rank}.safetensors" for rank in (0, 1))
    for path in (first, second):
        with safe_open(path, framework="pt") as file:
            assert json.loads(file.metadata()["losses"]) == pytest.approx(losses, abs=1e-5)
    one, other = load_file(first), load_file(second)
    for key in weights:
        assert torch.equal(one[key], other[key]), f"{key}: both processes hold the same model"
        if not key.endswith("key.bias"):  # attention doesn't depend on it: its gradient is rounding alone
            torch.testing.assert_close(one[key], weights[key], rtol=1e-3, atol=1e-4)


COMPARISON = """
dataset: {folder}
recbole: {{n_layers: 1, n_heads: 1, hidden_size: 8, inner_size: 8, MAX_ITEM_LIST_LENGTH: 6,
          hidden_dropout_prob: 0.0, attn_dropout_prob: 0.0}}
train: {{epochs: 2, batch_size: 200, learning_rate: 0.01}}
variants:
  id: {{items: id}}
  popularity: {{scorer: popularity}}
seeds: [1]
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux lists the threads there")
def test_no_thread_of_the_group_is_left_to_abort_the_process_at_its_end(trained_by_two: Path) -> None:
    for number in (0, 1):
        threads = json.loads((trained_by_two / f"threads-{number}.json").read_text(encoding="utf-8"))
        assert threads and not [name for name in threads if "gloo" in name]


def test_a_comparison_on_two_processes_ends_in_the_leaderboard_of_one(tmp_path: Path) -> None:
    from blair_rec.cli import main

    config = tmp_path / "c.yaml"
    config.write_text(COMPARISON.format(folder=REPOSITORY / "datasets" / "tiny"), encoding="utf-8")
    assert main(["compare", str(config), "-o", str(tmp_path / "one")]) == 0
    done = torchrun("-m", "blair_rec.cli", "compare", str(config), "-o", str(tmp_path / "two"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("id-1: ") == 1, "one process speaks"
    one, two = (json.loads((tmp_path / name / "leaderboard.json").read_text()) for name in ("one", "two"))
    assert [row["variant"] for row in one["rows"]] == [row["variant"] for row in two["rows"]]
    for alone, together in zip(one["rows"], two["rows"], strict=True):
        assert alone.keys() == together.keys() and alone["parameters"] == together["parameters"]
        for name, value in alone["metrics"]["unmasked"].items():
            assert together["metrics"]["unmasked"][name]["mean"] == pytest.approx(value["mean"], abs=2e-3), name
    files = [sorted(path.name for path in (tmp_path / name).rglob("*")) for name in ("one", "two")]
    assert files[0] == files[1]


def test_the_message_of_a_damaged_teacher_is_reported_once(tmp_path: Path) -> None:
    from blair_rec.cli import main

    config = tmp_path / "c.yaml"
    text = COMPARISON.format(folder=REPOSITORY / "datasets" / "tiny")
    config.write_text(text.replace("seeds:", "  student: {items: id, distill: id}\nseeds:"), encoding="utf-8")
    assert main(["compare", str(config), "-o", str(tmp_path / "out"), "--variants", "id,popularity"]) == 0
    weights = tmp_path / "out" / "runs" / "id-1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = torchrun("-m", "blair_rec.cli", "compare", str(config), "-o", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1  # torchrun's own
    assert done.stderr.count("error: ") == 1 and f"{weights} can't be read as safetensors" in done.stderr
    assert f"delete the folder {weights.parent}" in done.stderr


def test_after_an_error_within_a_step_the_first_process_waits_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blair_rec.cli import main
    from blair_rec.cli.commands import compare
    from blair_rec.errors import DatasetError, RecBoleError
    from blair_rec.training import parallel

    config = tmp_path / "c.yaml"
    config.write_text(COMPARISON.format(folder=REPOSITORY / "datasets" / "tiny"), encoding="utf-8")
    told: list[Any] = []

    def failing(error: Exception) -> Any:
        def run(*_: Any) -> int:
            raise error

        return run

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(parallel, "group", lambda device: nullcontext())
    monkeypatch.setattr(parallel, "rank", lambda: 0)
    monkeypatch.setattr(parallel, "from_first", lambda make: told.append(make()))
    for error, farewells in (
        (DatasetError("no data"), [None]),  # the others wait for the next training
        (RecBoleError("train SASRec", RuntimeError("no memory"), "line 1", "try less"), []),  # or for this very step
    ):
        told.clear()
        monkeypatch.setattr(compare, "_compare_alone", failing(error))
        assert main(["compare", str(config), "-o", str(tmp_path / "out")]) == 1
        assert told == farewells


def test_a_variant_of_an_earlier_config_is_refused_by_the_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blair_rec.config.comparison import load_config
    from blair_rec.errors import ConfigError
    from blair_rec.experiment.run import follow
    from blair_rec.training import parallel

    config = tmp_path / "c.yaml"
    config.write_text(COMPARISON.format(folder=REPOSITORY / "datasets" / "tiny"), encoding="utf-8")
    calls = iter([{"variant": "gone", "seed": 1, "store": None, "teacher": None}, None])
    monkeypatch.setattr(parallel, "from_first", lambda make: next(calls))
    with pytest.raises(ConfigError, match="gone has to be made again, but only an earlier config of the folder has it"):
        follow(load_config(config), REPOSITORY / "datasets" / "tiny")


def test_other_commands_refuse_several_processes(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from blair_rec.cli import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["leaderboard", "."]) == 1
    assert "only `compare`, `encode` and `pretrain` can use several processes" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert main(["leaderboard", "."]) == 1
    assert capsys.readouterr().err == ""


if __name__ == "__main__":
    in_a_group(Path(sys.argv[1]), Path(sys.argv[2]))
