"""The variables of torchrun: numbers that fit together, or one line that names the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from blair_rec.cli import main
from blair_rec.device import check_group, choose_device, process_count, process_rank
from blair_rec.errors import ConfigError
from blair_rec.pretrain.resuming import is_first
from blair_rec.text.store.shards import shard_from_environment

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def given(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Only these variables of torchrun are set."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"RANK": "3"}, {"WORLD_SIZE": ""}])
def test_a_single_process_is_the_first_one(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **variables)
    assert (process_count(), process_rank()) == (1, 0)
    assert is_first() and shard_from_environment() is None
    check_group()


def test_each_process_has_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, WORLD_SIZE="4", RANK="3")
    assert (process_count(), process_rank()) == (4, 3)
    assert not is_first() and shard_from_environment() == (3, 4)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "four", "RANK": "0"}, "WORLD_SIZE is 'four', which is not a whole number"),
        ({"WORLD_SIZE": "4", "RANK": "x"}, "RANK is 'x', which is not a whole number"),
        ({"WORLD_SIZE": "4", "RANK": "-1"}, "RANK is '-1', which is not a whole number"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4, but RANK is not set"),
        ({"WORLD_SIZE": "4", "RANK": "4"}, "WORLD_SIZE is 4, but RANK is 4"),
    ],
)
def test_variables_that_are_wrong_are_one_line(
    variables: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    given(monkeypatch, **variables)
    for read in (process_rank, is_first, shard_from_environment):
        with pytest.raises(ConfigError, match=said):
            read()
    for command in (["doctor"], ["compare", "my.yaml"], ["encode", "--items", "i.csv", "--fields", "a", "-o", "s"]):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert out == "" and said in err and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("name", ["LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_a_gpu_of_torchrun_that_is_no_number_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **{"LOCAL_RANK": "0", name: "gpu"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match=f"{name} is 'gpu', which is not a whole number"):
        choose_device("cuda:0")


@pytest.mark.parametrize("variables", [{}, {"MASTER_ADDR": "localhost"}, {"MASTER_PORT": "29500"}])
def test_processes_that_cant_find_each_other_are_an_error(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from blair_rec.training import parallel

    given(monkeypatch, WORLD_SIZE="2", RANK="0", **variables)
    with pytest.raises(ConfigError, match="MASTER_ADDR or MASTER_PORT is not set"), parallel.group("cpu"):
        pass


def test_a_rank_without_other_processes_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, RANK="1")
    assert main(["leaderboard", "nowhere"]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
