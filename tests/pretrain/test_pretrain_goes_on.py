"""A training that was stopped says what is kept; one that is finished isn't done again."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_pretrain import build_encoder, small, write_world

from blair_rec.cli import main
from blair_rec.errors import OutputError, PretrainingError
from blair_rec.pretrain import trainer
from blair_rec.pretrain.train import pretrain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_encoder(tmp_path / "encoder", dropout=0.1)


def stop_after(step: int) -> trainer.OnPairStep:
    def progress(done: int, total: int, loss: float) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    ("save_steps", "said"),
    [
        (2, "stopped after step 3; the same command goes on after step 2, whose checkpoint is kept"),
        (9, "stopped after step 3, before the first checkpoint; the same command starts again (see save_steps)"),
    ],
)
def test_ctrl_c_says_what_is_kept_and_that_is_true(
    save_steps: int, said: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small(write_world(tmp_path / "pairs.tsv", 60, 2), save_steps=save_steps, max_steps=6)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, folder, "cls", tmp_path / "out", progress=stop_after(3))
    assert said in caplog.messages
    caplog.clear()
    steps: list[int] = []
    with caplog.at_level(logging.INFO, "blair_rec"):
        pretrain(config, folder, "cls", tmp_path / "out", progress=lambda done, total, loss: steps.append(done))
    assert steps == ([3, 4, 5, 6] if save_steps == 2 else [1, 2, 3, 4, 5, 6])
    assert ("training goes on after step 2, from its checkpoint" in caplog.messages) == (save_steps == 2)
    pretrain(config, folder, "cls", tmp_path / "whole")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_resumed_training_records_the_losses_of_an_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    config = small(write_world(tmp_path / "pairs.tsv", 60, 2), save_steps=4, max_steps=12)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, folder, "cls", tmp_path / "out", progress=stop_after(6))
    resumed = pretrain(config, folder, "cls", tmp_path / "out")["losses"]
    assert resumed == pretrain(config, folder, "cls", tmp_path / "whole")["losses"]
    assert [line["step"] for line in resumed] == [4, 8, 10, 12]


def test_where_steps_are_slow_a_checkpoint_is_saved_by_the_clock(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(write_world(tmp_path / "pairs.tsv", 60, 2), save_steps=100, max_steps=6)
    now = [0.0]
    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])

    def progress(done: int, total: int, loss: float) -> None:
        now[0] += 250.0
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(config, folder, "cls", tmp_path / "out", progress=progress)
    saved = [path.name for path in (tmp_path / ".out.training").glob("checkpoint-*")]
    assert saved == ["checkpoint-4"], "1,000 seconds after the start: 750 were more than 600"


def test_the_same_training_is_not_done_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, out = write_world(tmp_path / "pairs.tsv", 60, 2), tmp_path / "out"
    settings = {"pairs": str(pairs), "encoder": str(folder), "pooling": "cls", "batch_size": 16, "max_steps": 2}
    path = tmp_path / "pretrain.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert main(["pretrain", str(path), "-o", str(out)]) == 0
    table = capsys.readouterr().out
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    assert main(["pretrain", str(path), "-o", str(out), "--set", "compile=true"]) == 0, "the same one, compiled or not"
    again = capsys.readouterr()
    assert again.out == table and "was trained with these settings on these pairs already" in again.err
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before
    assert main(["pretrain", str(path), "-o", str(out), "--set", "seed=2"]) == 1
    refused = capsys.readouterr().err.replace("\n", " ")
    assert "is there already, trained with different settings or pairs (seed); choose another folder" in refused
    with pairs.open("a", encoding="utf-8") as file:
        file.write("one more\titem0x0\n")
    with pytest.raises(OutputError, match=r"different settings or pairs \(.*the pairs\)"):
        pretrain(small(pairs, **{key: value for key, value in settings.items() if key != "pairs"}), folder, "cls", out)
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before


def test_an_encoder_that_has_changed_in_its_folder_makes_another_training(folder: Path, tmp_path: Path) -> None:
    config = small(write_world(tmp_path / "pairs.tsv", 60, 2), save_steps=2, max_steps=4)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, folder, "cls", tmp_path / "out", progress=stop_after(3))
    pretrain(config, folder, "cls", tmp_path / "finished")
    build_encoder(folder, dropout=0.1, seed=1)
    with pytest.raises(PretrainingError, match=r"a training that used different settings \(the encoder's files\)"):
        pretrain(config, folder, "cls", tmp_path / "out")
    with pytest.raises(OutputError, match=r"trained with different settings or pairs \(the encoder's files\)"):
        pretrain(config, folder, "cls", tmp_path / "finished")
