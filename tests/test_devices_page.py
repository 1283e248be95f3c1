"""docs/devices.md says what the code takes and what the record says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import yaml

from blair_rec.cli import _parser
from blair_rec.config.comparison import read_config

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "devices.md").read_text("utf-8")
SHAPES = "the encoder's shapes"
RECORD = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text("utf-8"))["parts"]


def blocks(language: str) -> list[str]:
    return [block for named, block in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.S) if named == language]


def test_its_comparison_is_one() -> None:
    (block,) = blocks("yaml")
    assert read_config(yaml.safe_load(block)).device == "cuda"


def test_its_commands_are_commands() -> None:
    lines = [line for block in blocks("") for line in block.splitlines()]
    commands = [shlex.split(line.partition("blair_rec.cli ")[2] or line.removeprefix("blair-rec ")) for line in lines]
    assert len(commands) == 4
    for command in commands:
        assert _parser().parse_args(command)


def test_its_figures_are_the_records() -> None:
    epoch, softmax, ranking = RECORD["epoch"]["seconds"], RECORD["softmax"]["rows"], RECORD["ranking"]
    ours, alone = softmax["ours, float32"], softmax["products alone, float32"]
    encoding, pretraining = RECORD["encoding"], RECORD["pretraining"]
    figures = [
        f"{epoch['ours, float32']:.3f} s, "
        f"{epoch['padded, scores at every slot'] / epoch['ours, float32']:.1f} times as fast",
        f"{ours['peak bytes'] / 2**30:.2f} GiB, {ours['seconds'] / alone['seconds']:.2f} times the time",
        f"{ranking['seconds']:.1f} s, "
        f"{ranking['seconds of the CPU for all users'] / ranking['seconds']:.0f} times as fast",
        share(encoding["operations"], encoding["seconds"]["texts to vectors"], encoding),
        share(pretraining["operations a step"], pretraining["seconds a step"]["as it is"], pretraining),
        f"{RECORD['ranks']['higher_masked']['differ']} of\n  {RECORD['ranks']['cases']:,} cases",
    ]
    assert [figure for figure in figures if figure not in PAGE] == []


def share(operations: float, seconds: float, part: dict[str, dict[str, float]]) -> str:
    return f"{operations / seconds / part['products'][SHAPES]:.0%} of the rate"
