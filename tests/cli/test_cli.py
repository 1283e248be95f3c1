"""The command line: what it prints and where, its exit status, and one plain message for each thing that goes wrong."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import tiny_at, write_config
from encoders import build_roberta
from fake_runs import without_hashes

import blair_rec
from blair_rec.cli import main, progress, terminal
from blair_rec.config.comparison import load_config
from blair_rec.evaluate.answer import answer
from blair_rec.evaluate.runs.results import load_run
from blair_rec.evaluate.runs.run_files import EpochRecord
from blair_rec.experiment.board import leaderboard
from blair_rec.experiment.planning.plan import Run
from blair_rec.text.store.embeddings import open_store


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """main() sets the package's logger up for the terminal; other tests want it as it was."""
    log = logging.getLogger("blair_rec")
    before = log.handlers, log.level, log.propagate
    yield
    log.handlers, log.level, log.propagate = before


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa in a folder that no test changes."""
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """A folder with cfg.yaml, its data set, and its results in out; no test changes it."""
    folder = tmp_path_factory.mktemp("done")
    tiny_at(folder)
    variants = {"id": {}, "text": {"items": "text", "transforms": ["whiten"]}}
    write_config(folder / "cfg.yaml", Path("tiny"), encoder, variants=variants, seeds=[1, 2], train={"epochs": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["compare", "cfg.yaml", "-o", "out"]) == 0
    return folder


@pytest.fixture
def here(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, to change: the working directory of the test."""
    shutil.copytree(done, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


class Said:
    """A command's exit status, standard output and standard error, without the breaks of a narrow screen."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        capsys.readouterr()
        self.status = main([str(argument) for argument in arguments])
        self.out, self.err = capsys.readouterr()
        assert "\x1b" not in self.out + self.err and "\r" not in self.out + self.err, "control codes without a terminal"


def refused(capsys: pytest.CaptureFixture[str], expected: str, *arguments: str | Path) -> None:
    """The command ends with status 1, one message, and nothing on standard output."""
    said = Said(capsys, *arguments)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("error: ") and "Traceback" not in said.err
    assert re.search(expected, said.err), said.err


def trained(out: Path) -> dict[str, int]:
    """The runs in a folder, and when their results were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in sorted((out / "runs").glob("*/result.json"))}


# compare


def test_the_table_goes_to_standard_output_and_progress_to_standard_error(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Said(capsys, "compare", "cfg.yaml", "-o", "again")
    assert said.status == 0
    assert re.fullmatch(
        r"data: training contains events later than some test cases \(.*, 117 of 120 test cases\); set the "
        r"config key `split` .*\n"
        r"encoding 80 texts with tiny-roberta\n"
        r"(?:(?:id|text)-[12]: 0\.\d{4} on validation, \d+ s\n){4}"
        r"leaderboard\.html, \.md, \.csv, \.json and the runs are in again\n",
        said.err,
    ), said.err
    for word in ("variant", "NDCG@10", "unmasked", "masked", "baseline", "80 items", "120 users", "tiny-roberta"):
        assert word in said.out
    assert (trained(here / "again").keys(), len(said.err.splitlines())) == (trained(here / "out").keys(), 7)
    board = leaderboard(Path("again"))
    assert board is not None and said.out.splitlines()[-1] == answer(board), "the answer comes last"


def test_a_second_time_it_says_that_all_is_done(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = trained(here / "out")
    said = Said(capsys, "compare", "cfg.yaml", "-o", "out")
    assert said.err == "already finished: 4 of 4 runs\nleaderboard.html, .md, .csv, .json and the runs are in out\n"
    assert trained(here / "out") == before


def test_the_output_folder_is_called_after_the_config(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Said(capsys, "compare", "cfg.yaml", "--seeds", "1", "--variants", "id").status == 0
    assert list(trained(here / "runs" / "cfg")) == ["id-1"]


def test_seeds_variants_and_single_keys_can_be_said_on_the_command_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--seeds", "7,8", "--variants", "id", "--set", "train.epochs=3", "--set", "train.learning_rate=2e-3"]
    assert Said(capsys, "compare", "cfg.yaml", "-o", "o", *arguments).status == 0
    assert list(trained(here / "o")) == ["id-7", "id-8"]
    config = load_config("o/config.yaml")
    assert (config.train.epochs, config.train.learning_rate, config.seeds) == (3, 0.002, (7, 8))
    assert len((here / "o" / "runs" / "id-7" / "history.jsonl").read_text("utf-8").splitlines()) == 3


def test_another_encoder_can_be_said_on_the_command_line(
    here: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that YAML would take apart, and an encoder that says by itself how it pools."""
    other = here / "a: b #1"
    shutil.copytree(encoder, other)
    (other / "1_Pooling").mkdir()
    (other / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    Said(capsys, "compare", "cfg.yaml", "-o", "o", "--encoder", other, "--seeds", "1")
    used = json.loads((here / "o" / "runs" / "text-1" / "result.json").read_text("utf-8"))["encoder"]
    assert (used["asked_for"], used["pooling"]) == (str(other), "mean")
    Said(capsys, "compare", "cfg.yaml", "-o", "p", "--encoder", other, "--seeds", "1", "--set", "text.pooling=cls")
    used = json.loads((here / "p" / "runs" / "text-1" / "result.json").read_text("utf-8"))["encoder"]
    assert used["pooling"] == "cls"


def test_an_interruption_ends_with_status_130_and_keeps_what_is_finished(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Any, run: Any, epoch: Any) -> None:
        if run.folder.name == "id-2":
            raise KeyboardInterrupt  # as Ctrl-C does; a test run in the background is started with SIGINT ignored

    with monkeypatch.context() as patch:
        patch.setattr(progress.Live, "epoch", interrupt)
        said = Said(capsys, "compare", "cfg.yaml", "-o", "o")
    assert (said.status, said.out) == (130, "")
    assert said.err.splitlines()[-1] == ("interrupted; finished work is kept: run the same command again to resume")
    assert sorted(path.name for path in (here / "o" / "runs").iterdir()) == ["id-1", "text-1"]
    with monkeypatch.context() as patch:
        patch.setattr(progress.Live, "epoch", interrupt)
        said = Said(capsys, "compare", "cfg.yaml", "-o", "o", "--fresh")
    assert said.err.splitlines()[-1].endswith("run the same command again without --fresh to resume")
    said = Said(capsys, "compare", "cfg.yaml", "-o", "o")
    assert said.status == 0 and "\nalready finished: 2 of 4 runs\nid-2: " in said.err


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place in ("blair_rec.experiment.run.write_lists", "blair_rec.cli.progress.Live.epoch"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            said = Said(capsys, "compare", "cfg.yaml", "-o", "o")
        assert (said.status, said.out) == (1, "")
        assert "can't be written (No space left on device); free some space, then run the same" in said.err
        assert not any(path.name.endswith("partial") for path in (here / "o" / "runs").iterdir())
    assert Said(capsys, "compare", "cfg.yaml", "-o", "o").status == 0


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_file_that_may_not_be_used_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def denied(*arguments: Any, **named: Any) -> None:
        raise OSError(code, os.strerror(code), "encoder/model.safetensors")

    monkeypatch.setattr("blair_rec.experiment.item_vectors.find_encoder", denied)
    monkeypatch.setattr("blair_rec.text.encoding.encoder.TextEncoder.__init__", denied)
    said = Said(capsys, "compare", "cfg.yaml", "-o", "denied")
    assert (said.status, said.out) == (1, "")
    assert f"encoder/model.safetensors can't be used ({os.strerror(code)}); change its permissions" in said.err


@pytest.mark.parametrize(
    "error, expected",
    [
        (FileExistsError(errno.EEXIST, "File exists", "o/checkpoints"), "o/checkpoints can't be used (File exists)"),
        (OSError(errno.EIO, "Input/output error", "tiny.inter"), "tiny.inter can't be used (Input/output error)"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", ".o.1.partial", None, "o"), "o can't be used (Is a direc"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['tmp']"),
            "a temporary file can't be used (No usable temporary directory found in ['tmp']); set TMPDIR to a folder",
        ),
    ],
)
def test_any_error_of_the_system_about_a_file_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: OSError, expected: str
) -> None:
    def broken(*arguments: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr("blair_rec.experiment.item_vectors.find_encoder", broken)
    said = Said(capsys, "compare", "cfg.yaml", "-o", "o")
    assert (said.status, said.out) == (1, "") and f"error: {expected}" in said.err


@pytest.mark.parametrize(
    "setting, expected",
    [
        (
            "variants.text.items=txt",
            r"^error: --set variants.text.items=txt: variants.text.items is 'txt'; did you mean 'text'\? known: ",
        ),
        ("trian.epochs=3", r"^error: --set trian.epochs=3: trian: unknown key; did you mean train\?"),
        ("text.fields=[titel]", r"tiny.item: no item has a field 'titel'; did you mean 'title'\?"),
        ("evaluate.metrics=[NDGC@10]", r"'NDGC@10': unknown metric 'NDGC'; known: NDCG@k"),
        ("evaluate.metrics=[NDCG@100]", r"NDCG@100 needs at least 100 items to rank, but there are only 80"),
        ("recbole.hiden_size=8", r"recbole: unknown key 'hiden_size'; did you mean 'hidden_size'\?"),
        ("recbole.eval_args={order: RO}", r"recbole: eval_args.order is 'RO', but a sequential model .* set it to TO"),
        (
            "recbole.eval_args={mode: uni100}",
            r"recbole: eval_args.mode is 'uni100', which has no effect in a comparison",
        ),
        ("recbole.epochs=3", r"recbole.epochs belongs to train.epochs; set it only there"),
        ("dataset=nowhere", r"data set 'nowhere': there is no such folder; give a folder of atomic files"),
        ("model=SASRce", r"model is 'SASRce', which is not a sequential model of RecBole; did you mean 'SASRec'\?"),
        (
            "baseline=base",
            r"^error: --set baseline=base: baseline is 'base', which is not a variant; set it to one of: id, text",
        ),
        ("text.items=x.csv", r"x.csv is not there, or not a file; name a RecBole .item file, JSON"),
        ("text.encoder=./nowhere", r"the encoder folder ./nowhere is not there; name a folder with a config.json"),
        ("seeds=x", r"seeds is 'x'; expected a list of whole numbers"),
    ],
)
def test_what_is_wrong_is_told_in_one_message(
    here: Path, capsys: pytest.CaptureFixture[str], setting: str, expected: str
) -> None:
    refused(capsys, expected, "compare", "cfg.yaml", "-o", "new", "--set", setting)
    assert not (here / "new" / "runs").exists()


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["absent.yaml"], r"absent.yaml: can't be read \(No such file or directory\); give the path of a YAML file"),
        (["cfg.yaml", "--variants", "txt"], r"--variants is 'txt'; did you mean 'text'\? known: id, text"),
        (["cfg.yaml", "--variants", ","], r"--variants is ''; known: id, text"),
        (["cfg.yaml", "--seeds", "1,1"], r"^error: --seeds 1,1: seeds are \[1, 1\]; give at least one, each once"),
        (["cfg.yaml", "--device", "gpu"], r"^error: --device gpu: device is 'gpu'; expected auto"),
        (["cfg.yaml", "--seeds", ","], r"seeds are \[\]; give at least one, each once"),
        (
            ["cfg.yaml", "--seeds", "1,x"],
            r"--seeds: 'x' is no whole number; give one such as 10, with commas between several: --seeds 1,2",
        ),
        (["cfg.yaml", "--seeds", "1 2"], r"--seeds is '1 2'; put commas and no spaces between the values: --seeds 1,2"),
        (["cfg.yaml", "--variants", "id text"], r"--variants is 'id text'; put commas .*: --variants id,text"),
        (["cfg.yaml", "--set", "train.epochs=["], r"--set train.epochs=\[: not YAML"),
        (["cfg.yaml", "-o", "cfg.yaml/out"], r"cfg.yaml/out can't be written \(Not a directory\); choose another"),
        (
            ["cfg.yaml", "-o", "out", "--set", "train.epochs=2"],
            r"4 finished .* \(id-1, text-1, id-2\) used different settings, .*: train.epochs: 1 -> 2\. .* \(--fresh\)",
        ),
    ],
)
def test_what_is_wrong_in_the_arguments_is_told_in_one_message(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    refused(capsys, expected, "compare", *arguments)


def test_a_damaged_run_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out" / "runs" / "text-1" / "ranks.npz").write_bytes(b"")
    expected = r"out/runs/text-1/ranks.npz: can't be read: .*; delete the folder out/runs/text-1, and make it again"
    refused(capsys, expected, "compare", "cfg.yaml", "-o", "out")
    refused(capsys, expected, "leaderboard", "out")


def test_brackets_in_a_message_are_no_markup(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, r"data set '\[red\]nowhere\[/\]'", "compare", "cfg.yaml", "--set", "dataset='[red]nowhere[/]'")


@pytest.mark.parametrize("arguments", [[], ["compare"], ["compare", "cfg.yaml", "--epoch=3"], ["leaderboard"], ["fly"]])
def test_a_command_that_is_none_ends_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: blair-rec" in capsys.readouterr().err


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"blair-rec {blair_rec.__version__}\n"


# --quiet, --json, --check, --tensorboard


def test_quiet_leaves_the_results(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loud = Said(capsys, "compare", "cfg.yaml", "-o", "out")
    quiet = Said(capsys, "compare", "cfg.yaml", "-o", "out", "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, loud.out, "")
    assert Said(capsys, "compare", "cfg.yaml", "-o", "new", "--quiet").err == ""


def test_json_is_the_leaderboard_and_nothing_else(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "compare", "cfg.yaml", "-o", "new", "--json")
    assert (said.status, said.err) == (0, "")
    assert said.out == (here / "new" / "leaderboard.json").read_text("utf-8")
    assert {row["variant"] for row in json.loads(said.out)["rows"]} == {"id", "text"}


def test_the_same_comparison_again_agrees_to_the_last_digit(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "compare", "cfg.yaml", "-o", "new", "--quiet", "--check", "out")
    assert said.status == 0
    lines = said.err.splitlines()
    assert len(lines) == 2 * 2 * 2 + 1 and lines[-1] == "agrees with out"
    assert all(line.endswith(", identical") for line in lines[:-1])


def test_results_that_moved_beyond_noise_are_named_and_end_with_status_1(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The older runs found every true item first."""
    for path in (here / "out" / "runs").glob("text-*/ranks.npz"):
        with np.load(path) as file:
            arrays = dict(file)
        for name in ("higher_unmasked", "equal_unmasked", "higher_masked", "equal_masked"):
            arrays[name][:] = 0
        np.savez_compressed(path, **arrays)
        without_hashes(path.parent)
    said = Said(capsys, "compare", "cfg.yaml", "-o", "new", "--json", "--check", "out")
    assert said.status == 1
    assert json.loads(said.out)["baseline"] == "id"
    assert re.search(r"^id: NDCG@10 \(unmasked\) .*, identical$", said.err, re.M)
    assert re.search(r"^text: NDCG@10 \(unmasked\) 1\.0000 -> 0\.\d+, p = .*, worse$", said.err, re.M)
    assert said.err.endswith("4 of 8 metrics moved\n")


def test_an_older_comparison_that_is_none_is_told_before_anything_is_trained(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, r"nowhere holds no finished run", "compare", "cfg.yaml", "-o", "new", "--check", "nowhere")
    assert not (here / "new").exists()


def test_event_files_hold_the_learning_curve(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = ["--seeds", "5", "--set", "train.epochs=3", "--tensorboard"]
    assert Said(capsys, "compare", "cfg.yaml", "-o", "new", *arguments).status == 0
    assert sorted(path.name for path in (here / "new" / "tensorboard").iterdir()) == ["id-5", "text-5"]
    for run in ("id-5", "text-5"):
        events = EventAccumulator(str(here / "new" / "tensorboard" / run))
        events.Reload()
        curve = load_run(here / "new" / "runs" / run).curve
        assert [(event.step, event.value) for event in events.Scalars("loss")] == [
            (epoch.epoch, pytest.approx(epoch.loss, rel=1e-6)) for epoch in curve
        ]
        assert [event.value for event in events.Scalars("NDCG@10")] == pytest.approx(
            [epoch.valid["NDCG@10"] for epoch in curve if epoch.valid], rel=1e-6
        )
    (here / "new" / "tensorboard" / "id-5" / "thesis.tex").touch()
    assert Said(capsys, "compare", "cfg.yaml", "-o", "new", *arguments, "--fresh").status == 0
    assert sorted(path.name.split(".")[0] for path in (here / "new" / "tensorboard" / "id-5").iterdir()) == [
        "events",
        "thesis",
    ]


def test_on_a_terminal_runs_and_epochs_are_seen_and_the_time_that_is_left() -> None:
    file = io.StringIO()
    console = terminal.Console(file=file, force_terminal=True, width=100)
    runs = [
        Run("id", seed, {"train": {"epochs": 4}}, {}, None, Path(f"runs/id-{seed}"), done=seed == 1)
        for seed in (1, 2, 3)
    ]
    with progress.Live(console) as live:
        live.planned(runs)
        live.started(runs[1])
        for number in (1, 2):
            live.epoch(runs[1], EpochRecord(number, 5.0 - number, 1.0, 0.1, {"NDCG@10": 0.04 * number}))
        overall, running = live.progress.tasks
        assert (overall.completed, overall.total) == (1.5, 3), "half a run counts as half a run"
        assert (running.description, running.completed, running.total) == ("id-2", 2, 4)
        assert running.fields["note"] == "loss 3.000, best 0.0800"
        live.step(runs[1], 30, 40, 2.5)
        assert (overall.completed, running.completed) == (1 + 2.75 / 4, 2.75), "and a part of an epoch as that part"
        assert running.fields["note"] == "loss 2.500, best 0.0800"
        live.finished(runs[1], 0.08, 4.4)
        assert [(task.description, task.completed) for task in live.progress.tasks] == [("runs", 2)]
    assert "id-2: 0.0800 on validation, 4 s" in file.getvalue()


# --dry-run


def states(table: str) -> dict[str, str]:
    """The rows of the plan: run -> state."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]
    return {row[0]: row[2] for row in rows}


def test_a_dry_run_tells_what_is_to_be_done_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(str(path) for path in here.rglob("*"))
    said = Said(capsys, "compare", "cfg.yaml", "-o", "new", "--dry-run")
    assert states(said.out) == dict.fromkeys(["id-1", "text-1", "id-2", "text-2"], "to do")
    assert said.err == "encoding 80 texts with tiny-roberta: to do\n"

    shutil.rmtree(here / "out" / "runs" / "id-2")
    said = Said(capsys, "compare", "cfg.yaml", "-o", "out", "--dry-run")
    assert states(said.out) == {"id-1": "done", "text-1": "done", "id-2": "to do", "text-2": "done"}
    assert said.err == "encoding 80 texts with tiny-roberta: done\n"

    said = Said(capsys, "compare", "cfg.yaml", "-o", "out", "--dry-run", "--set", "recbole.hidden_size=16")
    assert states(said.out)["text-2"] == "done, but changed since: recbole.hidden_size: 8 -> 16"
    said = Said(capsys, "compare", "cfg.yaml", "-o", "out", "--dry-run", "--fresh")
    assert states(said.out)["text-2"] == "done, will run again (--fresh)"
    gone = {name for name in before if "/out/runs/id-2" in name}
    assert sorted(str(path) for path in here.rglob("*")) == sorted(set(before) - gone)


def test_a_dry_run_counts_the_texts_that_the_run_encodes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / "tiny" / "tiny.item"
    head, first, second, *rest = path.read_text("utf-8").splitlines()
    same = "\t".join([second.split("\t")[0], *first.split("\t")[1:]])
    path.write_text("\n".join([head, first, same, *rest]) + "\n", "utf-8")
    said = Said(capsys, "compare", "cfg.yaml", "-o", "new", "--dry-run")
    assert said.err == "encoding 79 texts with tiny-roberta: to do\n"
    said = Said(capsys, "compare", "cfg.yaml", "-o", "new", "--encode-only")
    assert "encoding 79 texts with tiny-roberta\n" in said.err


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--check", "nowhere"], "nowhere holds no finished run"),
        (["--variants", "id,id"], "--variants names id more than once; name each variant once"),
        (["--tensorboard"], "new/tensorboard is a file, but a folder is needed there"),
        (["-o", "tiny/tiny.item"], "tiny/tiny.item is a file, but a folder is needed there"),
        (["-o", "other"], "other holds config.yaml, which this command did not write"),
        (["-o", "/proc/x"], r"/proc/x can't be written \(.*\); choose another folder"),
    ],
)
def test_a_dry_run_finds_what_the_run_finds_at_its_start(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    for file in (here / "new" / "tensorboard", here / "other" / "config.yaml"):
        file.parent.mkdir()
        file.touch()
    for dry in ([], ["--dry-run"]):
        refused(capsys, f"^error: {expected}", "compare", "cfg.yaml", "-o", "new", *arguments, *dry)


def test_a_dry_run_may_plan_for_a_machine_with_a_gpu(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "compare", "cfg.yaml", "-o", "new", "--dry-run", "--device", "cuda:99")
    assert said.status == 0 and "to do" in said.out
    assert "this comparison can't run on this machine: device" in said.err


def test_a_dry_run_notices_changed_text_without_encoding(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / "tiny" / "tiny.item"
    path.write_text(path.read_text("utf-8").replace("lamp", "torch"), encoding="utf-8")
    said = Said(capsys, "compare", "cfg.yaml", "-o", "out", "--dry-run", "--seeds", "1")
    assert states(said.out) == {
        "id-1": "done",
        "text-1": "done, but changed since: the items' text, or the encoder's weights or settings",
    }
    assert said.err == "encoding 80 texts with tiny-roberta: to do\n"


def test_a_dry_run_loads_neither_torch_nor_recbole_and_asks_the_hub_once(here: Path) -> None:
    script = (
        "import sys, blair_rec.text.encoding.source as encoder_source\n"
        "from blair_rec.errors import EncoderUnavailable\n"
        "def unreachable(name, revision):\n"
        "    print('asked for', name)\n"
        "    raise EncoderUnavailable(name, 'the hub can\\'t be reached (no route)')\n"
        "encoder_source._hub = unreachable\n"
        "from blair_rec.cli import main\n"
        "status = main(['compare', 'cfg.yaml', '--dry-run', '-o', 'new', '--encoder', 'hyp1231/blair-roberta-base',\n"
        "               '--set', f'text.fallback={{encoder: {sys.argv[1]}}}', '--set', 'variants.b={items: text}'])\n"
        "print('loaded', sorted({'torch', 'recbole', 'transformers', 'pandas'} & set(sys.modules)), status)\n"
    )
    fallback = Path(shutil.copytree(load_config("cfg.yaml").text.encoder, "stand-in"))
    (fallback / "1_Pooling").mkdir()
    (fallback / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    done = subprocess.run([sys.executable, "-c", script, str(fallback)], capture_output=True, text=True, check=True)
    assert done.stdout.count("asked for hyp1231/blair-roberta-base\n") == 1
    assert done.stdout.endswith("loaded [] 0\n")
    assert done.stderr == (
        "warning: the hub can't be reached (no route); asked for hyp1231/blair-roberta-base, using stand-in, "
        "as `fallback` says\nencoding 80 texts with stand-in: to do\n"
    )
    assert not (here / "new").exists()


# Noise


def test_no_noise_of_others_reaches_the_terminal(here: Path, encoder: Path) -> None:
    """Weights without a pooler and with a head, which transformers reports; gaps, which make RecBole's pandas warn."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    own = shutil.copytree(encoder, here / "with-a-head")
    RobertaForMaskedLM(RobertaConfig.from_pretrained(own)).save_pretrained(own)
    command = [sys.executable, "-m", "blair_rec.cli", "compare", "cfg.yaml", "-o", "o", "--seeds", "1"]
    command += ["--encoder", str(own), "--set", "text.pooling=cls"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(
        r"data: .*\n"
        r"encoding 80 texts with with-a-head\n"
        r"id-1: 0\.\d{4} on validation, \d+ s\n"
        r"text-1: 0\.\d{4} on validation, \d+ s\n"
        r"leaderboard\.html, \.md, \.csv, \.json and the runs are in o\n",
        said.stderr,
    ), said.stderr
    assert "\x1b" not in said.stdout and said.stdout.count("\n") < 40
    assert sorted(path.name for path in here.iterdir()) == ["cfg.yaml", "o", "out", "tiny", "with-a-head"]


def test_warnings_of_others_are_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        terminal.set_up_logging(terminal.Console(stderr=True))
        for module in ("recbole_of_mine", "mine"):
            warnings.warn_explicit(module, FutureWarning, "file.py", 1, module=module)
        warnings.warn_explicit("user", UserWarning, "file.py", 2, module="recbole.data")
    assert [str(warning.message) for warning in seen] == ["recbole_of_mine", "mine", "user"]


# leaderboard


def test_the_leaderboard_is_rendered_again_as_compare_showed_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Said(capsys, "compare", "cfg.yaml", "-o", "out").out
    shutil.copytree("out", "copy")
    again = Said(capsys, "leaderboard", "out", "copy")
    assert (again.status, again.err) == (0, "")
    assert again.out.startswith(shown * 2)
    side_by_side = again.out.removeprefix(shown * 2)
    assert "2 leaderboards, NDCG@10" in side_by_side and re.search(r"\n +\w+ +1\.00 +2 ", side_by_side)
    board = leaderboard(Path("out"))
    assert board is not None and all(f"{row.metrics['masked']['NDCG@10'].mean:.4f}" in shown for row in board.rows)


@pytest.mark.parametrize("command", [["leaderboard", "out"], ["compare", "cfg.yaml", "-o", "out"]])
def test_five_notes_are_shown_and_all_of_them_with_notes(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    for path in (here / "out" / "runs").glob("*/result.json"):
        result = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**result, "notes": [f"note {place}" for place in range(8)]}), "utf-8")
    short, whole = Said(capsys, *command).out, Said(capsys, *command, "--notes").out
    assert (short.count("Note: "), whole.count("Note: ")) == (5, 8)
    assert "3 more notes: `blair-rec leaderboard DIR --notes` shows all" in short and "more notes" not in whole


def test_the_table_is_a_hundred_columns_wide_unless_told_otherwise(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer after it is one line, however long: nobody has to put it together again."""

    def width() -> int:
        return max(len(line.rstrip()) for line in Said(capsys, "leaderboard", "out").out.splitlines()[:-1])

    monkeypatch.delenv("COLUMNS", raising=False)
    assert width() <= 100
    monkeypatch.setenv("COLUMNS", "70")
    assert width() <= 70


def test_a_folder_without_a_comparison_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, r"tiny is not the folder of a comparison: it has no config.yaml", "leaderboard", "tiny")
    (here / "out" / "config.yaml").write_text("dataset: [")
    refused(capsys, r"out/config.yaml: not YAML", "leaderboard", "out")


def test_a_comparison_whose_baseline_is_not_done_yet_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("id-1", "id-2"):
        shutil.rmtree(here / "out" / "runs" / run)
    said = Said(capsys, "leaderboard", "out")
    told = f"Note: the baseline id has no finished run, so {leaderboard(Path('out')).baseline} is the baseline"
    assert (said.status, said.err) == (0, "") and told in " ".join(said.out.split())


def test_a_folder_that_is_given_twice_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, r"DIR: .*out is given more than once; name each folder once", "leaderboard", "out", "tiny/../out")


# encode


def test_encode_makes_a_store_and_then_reads_it(here: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["encode", "--items", "tiny/tiny.item", "--fields", "title, category", "--encoder", encoder]
    said = Said(capsys, *arguments, "--pooling", "cls", "-o", "store")
    assert (said.status, said.out) == (0, "80 vectors of width 32 by tiny-roberta in store\n")
    assert said.err == "encoding 80 texts with tiny-roberta\n"
    store = open_store("store")
    assert store.template["fields"] == ["title", "category"] and np.isfinite(store.vectors).all()
    again = Said(capsys, *arguments, "--pooling", "cls", "-o", "store")
    assert (again.out, again.err) == (said.out, "")


@pytest.mark.parametrize(
    "changed, expected",
    [
        (["--fields", "titel"], r"no item has a field 'titel'; did you mean 'title'\?"),
        (["--pooling", "min"], r"pooling is 'min'; known: auto, cls, max, mean"),
        (["--max-length", "0"], r"max_length is 0; it has to be at least 1"),
        (["--items", "nowhere.item"], r"nowhere.item is not there"),
        (["--out", "cfg.yaml"], r"cfg.yaml is a file, but a folder is needed there; choose another place"),
        (["--pooling", "auto"], r"does not say how it pools"),
    ],
)
def test_what_encode_cannot_do_is_told(
    here: Path, encoder: Path, capsys: pytest.CaptureFixture[str], changed: list[str], expected: str
) -> None:
    arguments = ["--items", "tiny/tiny.item", "--fields", "title", "--encoder", encoder, "--pooling", "cls", "-o", "s"]
    refused(capsys, expected, "encode", *arguments, *changed)


# run


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`blair-rec run` in a process of its own, where nothing repaired RecBole before."""
    command = [sys.executable, "-m", "blair_rec.cli", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


SMALL = ["--epochs=1", "--hidden_size=8", "--inner_size=8", "--n_layers=1", "--n_heads=1"]


def metric(table: str, name: str) -> float:
    """The last number of a metric's row."""
    [row] = [line for line in table.splitlines() if f"│ {name} " in line]
    return float(row.split("│")[-2])


def test_run_is_recboles_quick_start_with_text_in_it(here: Path, encoder: Path) -> None:
    Path("more.yaml").write_text("topk: [20]\nmetrics: [NDCG]\nvalid_metric: NDCG@20\n")
    said = run(
        "--model", "BLaIRSASRec", "--dataset", "tiny", "--config-files", "more.yaml", f"--data_path={here}", *SMALL,
        "--blair_items=text", "--blair_text_fields=[title]", f"--blair_encoder={encoder}", "--blair_pooling=cls",
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert 0 < metric(said.stdout, "ndcg@20") < 1
    [store] = (here / "saved" / "stores").iterdir()
    assert len(open_store(store)) == 80


def test_run_takes_recboles_own_data_set_and_any_of_our_models(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--MAX_ITEM_LIST_LENGTH=10", "--user_inter_num_interval=[100,inf)", "--topk=[100]", "--valid_metric=MRR@100"]
    assert main(["run", "--model", "BLaIRGRU4Rec", "--dataset", "ml-100k", *SMALL, *few]) == 0
    assert 0 < metric(capsys.readouterr().out, "recall@100") < 1


def test_models_tells_of_each_model_of_recbole_whether_it_can_take_item_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["models"]) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    told = {row[0]: row[1:] for row in rows if row}
    assert told["SASRec"] == ["yes", "every position, packed", "yes"]
    assert told["NARM"] == ["yes", "RecBole's way", "yes"]
    assert told["BERT4Rec"] == ["yes", "RecBole's way", "no"]
    assert told["DIN"][0].startswith("no: it scores one item at a time")
    # RecBole 1.2.0 has 29 of them, 1.2.1 one more.
    assert len(told) >= 29 and all(row[0] == "yes" or row[0].startswith("no: it ") for row in told.values())


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--model", "BLaIRSASRce", "--dataset", "tiny"], r"model is 'SASRce', .*did you mean 'SASRec'\?"),
        (
            ["--model", "SASRec", "--dataset", "tiny", "--epochs", "3"],
            r"'--epochs' is not written as --key=value, such as",
        ),
        (["--model", "SASRec", "--dataset", "tiny", "--epochs=["], r"--epochs=\[: not YAML"),
        (["--model", "BLaIRSASRec", "--dataset", "tiny", "--blair_item=id"], r"unknown key 'blair_item'; did you mean"),
        (["--model", "BLaIRHGN", "--dataset", "tiny"], r"HGN can't take item text: it has 2 item embeddings"),
    ],
)
def test_what_run_cannot_do_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    refused(capsys, expected, "run", *arguments)


def test_a_name_that_no_file_can_have_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "h.csv").write_text("user_id,item_id\nu1,i01\n")
    run, long = str(Path("out") / "runs" / "id-1"), "x" * 300 + ".csv"
    for options in (["--histories", long], ["--histories", "h.csv", "--only", "y" * 300]):
        said = Said(capsys, "recommend", run, *options, "-o", "best.csv")
        assert said.status == 1 and said.out == ""
        assert said.err.endswith("can't be used (File name too long); choose another file or folder\n")
        assert options[-1] in said.err
    said = Said(capsys, "recommend", run, "--histories", "h.csv", "-o", long)
    assert said.status == 1 and f"{long} can't be used (File name too long)" in said.err


def test_a_file_in_the_place_of_a_run_is_never_to_be_deleted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "export", "cfg.yaml", "-o", "x")
    assert said.err == "error: cfg.yaml is not a folder; give the folder of a finished run\n"
