"""Checkpoints of a pre-training: only a whole one of the same training is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from blair_rec.errors import OutputError, PretrainingError
from blair_rec.pretrain.resuming import last_checkpoint, room_for_checkpoints

SETTINGS = {"seed": 1, "chunk_size": None}
PARTS = ["model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with two whole checkpoints and one incomplete checkpoint."""
    assert last_checkpoint(tmp_path, SETTINGS, fresh=False) is None
    for step in (8, 16, 24):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"weight": torch.zeros(9)}, folder / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"value": torch.arange(9)}, folder / name)
        (folder / "trainer_state.json").write_text("{}", encoding="utf-8")
        if step < 24:
            (folder / "whole").touch()
    return tmp_path


def test_the_last_whole_checkpoint_is_resumed_and_incomplete_ones_are_removed(work: Path) -> None:
    assert last_checkpoint(work, SETTINGS, fresh=False) == work / "checkpoint-16"
    assert sorted(path.name for path in work.glob("checkpoint-*")) == ["checkpoint-16", "checkpoint-8"]
    assert last_checkpoint(work, SETTINGS, fresh=True) is None
    assert not list(work.glob("checkpoint-*"))


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("damage", ["is missing", "can't be read"])
def test_a_checkpoint_without_all_its_parts_is_an_error(work: Path, name: str, damage: str) -> None:
    path = work / "checkpoint-16" / name
    if damage == "is missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PretrainingError, match=f"checkpoint-16 is damaged: {name} {damage}.*delete this folder"):
        last_checkpoint(work, SETTINGS, fresh=False)


def test_wrong_bytes_in_the_optimizer_are_an_error(work: Path) -> None:
    path = work / "checkpoint-16" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(9).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(PretrainingError, match="damaged: optimizer.pt has wrong bytes"):
        last_checkpoint(work, SETTINGS, fresh=False)


@pytest.mark.parametrize("content", [None, "", "[]", '{"seed": 1'])
def test_checkpoints_of_unknown_settings_are_an_error(work: Path, content: str | None) -> None:
    (work / "identity.json").unlink()
    if content is not None:
        (work / "identity.json").write_text(content, encoding="utf-8")
    with pytest.raises(PretrainingError, match="identity.json is missing or damaged, .* train again with --fresh"):
        last_checkpoint(work, SETTINGS, fresh=False)


def test_another_number_of_processes_is_another_training(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(PretrainingError, match=r"used different settings \(processes\)"):
        last_checkpoint(work, SETTINGS, fresh=False)
    last_checkpoint(work, SETTINGS, fresh=True)
    (work / "checkpoint-8").mkdir()
    (work / "checkpoint-8" / "whole").touch()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(PretrainingError, match=r"used different settings \(processes\)"):
        last_checkpoint(work, SETTINGS, fresh=False)


def test_a_fresh_training_resumes_nothing_in_any_process(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")  # it may look before the first process has removed the checkpoints
    assert last_checkpoint(work, SETTINGS, fresh=True) is None
    assert len(list(work.glob("checkpoint-*"))) == 3


def test_only_an_error_of_writing_a_checkpoint_is_explained(tmp_path: Path) -> None:
    def _save_checkpoint() -> None:
        raise RuntimeError("unexpected pos 59200 vs 59092")

    with (
        pytest.raises(
            OutputError, match=r"checkpoint can't be written into .* \(unexpected pos 59200 vs 59092\); free"
        ),
        room_for_checkpoints(tmp_path),
    ):
        _save_checkpoint()
    with pytest.raises(RuntimeError, match="out of memory"), room_for_checkpoints(tmp_path):
        raise RuntimeError("out of memory")
