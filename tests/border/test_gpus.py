"""RecBole's own device keys: their effect, and which of them contradict each other."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from blair_rec.border.gpus import VISIBLE, check_found, check_there, gpu_id_of
from blair_rec.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "visible", "gpu_id"),
    [
        ({}, None, None),
        ({"gpu_id": "1"}, None, None),
        ({"gpu_id": "1"}, "2,3", None),
        ({}, "2,3", "2,3"),
        ({"use_gpu": False}, None, ""),
        ({"use_gpu": False, "gpu_id": 1}, None, ""),
        ({"device": "cpu"}, "2,3", ""),
        ({"device": "cuda"}, None, None),
        ({"device": "cuda"}, "2,3", "2,3"),
        ({"device": "cuda:1"}, None, "1"),
        ({"device": "cuda:1"}, "2,3", "3"),
        ({"device": "auto", "gpu_id": 1}, None, None),
    ],
)
def test_recbole_gets_the_gpu_that_the_keys_mean(
    given: dict[str, Any], visible: str | None, gpu_id: str | None
) -> None:
    assert gpu_id_of(given, visible) == gpu_id


@pytest.mark.parametrize(
    ("given", "visible", "message"),
    [
        ({"device": ""}, None, "device is ''; expected auto, cpu, cuda, or a GPU number"),
        ({"device": "gpu"}, None, "device is 'gpu'; expected auto, cpu, cuda, or a GPU number"),
        ({"device": "cpu:1"}, None, "device is 'cpu:1'; expected"),
        ({"device": 0}, None, "device is '0'; expected"),
        ({"device": "cuda", "use_gpu": False}, None, "use_gpu is false, but device is cuda"),
        ({"device": "cuda:1", "gpu_id": 0}, None, "gpu_id is 0, but device is cuda:1; leave one of them out"),
        ({"device": "cuda:2"}, "0,1", r"device is cuda:2, but CUDA_VISIBLE_DEVICES lists 2 GPUs \(0,1\)"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(given: dict[str, Any], visible: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gpu_id_of(given, visible)


def test_a_missing_gpu_of_a_stock_model_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def count() -> int:
        seen.append(os.environ[VISIBLE])
        return int(os.environ[VISIBLE] in ("0", "3"))

    monkeypatch.setattr(torch.cuda, "device_count", count)
    monkeypatch.setenv(VISIBLE, "")  # an earlier run of this process used the CPU
    check_there({"device": "cuda:1"}, "3")
    check_there({"device": "cuda"}, None)
    check_there({"device": "cuda", "gpu_id": 3}, None)
    with pytest.raises(ConfigError, match="device is cuda:7, but torch finds no such GPU; use device: cpu, or auto"):
        check_there({"device": "cuda:7"}, "7")
    assert seen == ["3", "0", "3", "7"] and os.environ[VISIBLE] == ""
    for given in ({}, {"device": "cpu"}, {"device": "auto"}):
        check_there(given, None)
    assert len(seen) == 4


def test_a_missing_gpu_is_an_error_and_the_cpu_is_not_used_instead() -> None:
    with pytest.raises(ConfigError, match="device is cuda:1, but torch finds no such GPU"):
        check_found({"device": "cuda:1"}, torch.device("cpu"))
    for given in ({}, {"device": "cpu"}, {"device": "auto"}):
        check_found(given, torch.device("cpu"))


@pytest.mark.parametrize(
    ("given", "warns"),
    [
        ({"use_gpu": True}, True),
        ({"use_gpu": True, "device": "auto"}, True),
        ({"use_gpu": True, "device": "cpu"}, False),
        ({"use_gpu": False}, False),
        ({}, False),
    ],
)
def test_the_cpu_instead_of_use_gpu_is_a_warning(
    given: dict[str, Any], warns: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    expected = ["use_gpu is true, but torch finds no GPU, so the CPU computes"] * warns
    for check in (lambda: check_found(given, torch.device("cpu")), lambda: check_there(given, None)):
        caplog.clear()
        check()
        assert [record.getMessage() for record in caplog.records] == expected
    caplog.clear()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_found(given, torch.device("cuda:0"))
    check_there(given, None)
    assert not caplog.records
