"""blair-rec doctor says what is broken or slow, what it could not check, and never waits for a dead network."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from blair_rec.cli import main
from blair_rec.cli.commands import doctor
from blair_rec.cli.commands.doctor import SIMILARITIES, Finding


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A port that nobody listens at, and an empty cache."""
    from huggingface_hub import constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor, "SIZE", 32)


def test_what_could_not_be_checked_is_said_and_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if not line.startswith(" ")] == [
        "installation:", "devices:", "threads and speed:", "encoders:"
    ]  # fmt: skip
    assert "note   hyp1231/blair-roberta-base was not checked: the hub can't be reached" in said
    assert "blair-rec doctor --encoder FOLDER" in said


def test_a_network_that_never_answers_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from blair_rec.text.encoding import source

    never = threading.Event()
    monkeypatch.setattr(source, "why_unreachable", lambda name: str(never.wait()))
    monkeypatch.setattr(doctor, "PATIENCE", 0.05)
    assert main(["doctor"]) == 0
    assert "was not checked: the hub did not answer within 0.05 s" in capsys.readouterr().out
    never.set()


def test_other_weights_than_blairs_are_found_out(roberta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--encoder", str(roberta)]) == 1
    said = capsys.readouterr().out
    assert "broken tiny-roberta (revision " in said and "but BLaIR's model card says 0.8564, 0.5741" in said


def test_weights_that_give_the_similarities_of_the_card_are_fine(
    roberta: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from blair_rec.text.encoding.encoder import TextEncoder

    wanted = [[1.0, 0.0], *([value, (1 - value**2) ** 0.5] for value in SIMILARITIES)]
    monkeypatch.setattr(TextEncoder, "encode", lambda self, texts: np.array(wanted, np.float32) * 7)
    assert main(["doctor", "--encoder", str(roberta)]) == 0
    assert "ok     tiny-roberta gives the similarities of BLaIR's model card: 0.8564, 0.5741" in capsys.readouterr().out


def test_a_folder_that_is_no_encoder_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["doctor", "--encoder", str(tmp_path / "empty")]) == 1
    assert "holds no config.json" in capsys.readouterr().out


def test_what_is_required_and_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        "numpy>=1.0", "scipy>=999", "no-such-library>=1", "no-such-extra; extra == 'more'", "nor-this; extra == 'test'",
        "old-thing; python_version < '3'", "torch>=999; extra == 'more'",
    ]  # fmt: skip
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: wanted)
    found = list(doctor.installation())
    states = {(finding.state, finding.cure) for finding in found}
    assert ("broken", "pip install 'scipy>=999'") in states
    assert ("broken", "pip install no-such-library") in states
    assert ("note", "pip install 'blair-rec[more]'") in states
    assert ("note", "pip install 'torch>=999'") in states
    assert not any("nor-this" in finding.what or "old-thing" in finding.what for finding in found)


def test_an_old_ray_is_said_to_matter_only_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["ray[data]>=2.40; extra == 'ray'"])
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.6.3")
    said = "ray 2.6.3 is too old for --ray-workers, which is its only use here"
    assert Finding("note", said, "pip install 'ray>=2.40'") in list(doctor.installation())


@pytest.mark.parametrize(
    "threads, cure",
    [(2, "set OMP_NUM_THREADS=1 while it lasts"), (1, "wait for it, or stop some of it")],
)
def test_too_many_threads_and_other_work_are_slow(monkeypatch: pytest.MonkeyPatch, threads: int, cure: str) -> None:
    monkeypatch.setattr(doctor, "usable_processors", lambda: 0)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    found = list(doctor.speed())
    states = [(finding.state, finding.cure.partition(":")[0]) for finding in found]
    assert found[-1].what == "float32 and bfloat16 were not timed, because of this load"
    assert ("slow", "set OMP_NUM_THREADS=0") in states
    assert ("slow", cure) in states


@pytest.mark.parametrize("times, state", [(2.0, "ok"), (0.5, "note")])
def test_bfloat16_is_advised_where_it_is_faster(monkeypatch: pytest.MonkeyPatch, times: float, state: str) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(doctor, "product_rates", lambda: {"float32": 10.0, "bfloat16": 10 * times})
    *_, last = doctor.speed()
    assert last.state == state and ("`dtype: bfloat16` encodes faster" in last.what) == (times > 1)


def test_a_driver_without_the_right_pytorch_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert [finding.state for finding in doctor.devices()] == ["slow"]
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert list(doctor.devices()) == [Finding("ok", "no GPU: everything runs on the CPU")]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    [finding] = doctor.devices()
    assert (finding.state, finding.cure) == ("slow", "install or update the driver")
