"""A comparison from end to end: finished runs are never repeated, lost or mixed with other settings."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import VARIANTS, InterruptedIn, Recorder, config_of, raw_config, tiny_at, write_config
from encoders import build_roberta
from worlds import read_log, write_log

from blair_rec import cli
from blair_rec.config.comparison import CompareConfig, load_config, read_config
from blair_rec.errors import (
    BadRun,
    BlairRecError,
    CatalogueError,
    ChangedRuns,
    ConfigError,
    DatasetError,
    EncoderUnavailable,
    EncodingError,
    MissingField,
    NoRuns,
    OutputError,
    TextlessItems,
)
from blair_rec.evaluate.leaderboard import Leaderboard
from blair_rec.evaluate.page.cards import read_cards
from blair_rec.evaluate.runs.results import load_run
from blair_rec.experiment import item_vectors
from blair_rec.experiment.board import leaderboard
from blair_rec.experiment.compare import compare
from blair_rec.experiment.planning import locks
from blair_rec.experiment.provenance import code_files
from blair_rec.files.locks import alone_in
from blair_rec.files.writing import partial_of, put_in_place, tidy
from blair_rec.text.encoding.encode import encode_catalogue
from blair_rec.text.encoding.source import resolve_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa in a folder that no test changes."""
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished comparison."""

    config: CompareConfig
    out: Path
    board: Leaderboard
    listener: Recorder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Finished:
    """Four variants, two seeds; no test changes it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "cwd").mkdir()
        patch.chdir(folder / "cwd")
        config, listener = config_of(tiny_at(folder), encoder), Recorder()
        board = compare(config, folder / "out", listener=listener)
    assert board is not None
    return Finished(config, folder / "out", board, listener)


@pytest.fixture
def own(finished: Finished, tmp_path: Path) -> Finished:
    """A copy of it, and of its data set, that the test may change."""
    tiny = tiny_at(tmp_path)
    out = Path(shutil.copytree(finished.out, tmp_path / "out"))
    config = finished.config.changed(dataset=str(tiny))
    (out / "config.yaml").write_text(
        (out / "config.yaml").read_text("utf-8").replace(finished.config.dataset, str(tiny)), encoding="utf-8"
    )
    return Finished(config, out, finished.board, finished.listener)


def ranks(out: Path) -> dict[str, dict[str, np.ndarray]]:
    """Every array of every run's ranks.npz and topk.npz."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted((out / "runs").glob("*/*.npz")):
        with np.load(path) as arrays:
            found[f"{path.parent.name}/{path.name}"] = {name: arrays[name] for name in arrays.files}
    return found


def assert_same_ranks(ours: Path, theirs: Path) -> None:
    first, second = ranks(ours), ranks(theirs)
    assert first.keys() == second.keys() and first
    for name, arrays in first.items():
        assert arrays.keys() == second[name].keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, second[name][key], err_msg=f"{name} {key}")


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


ALL = ["id-1", "text-1", "text_init-1", "shuffled-1", "id-2", "text-2", "text_init-2", "shuffled-2"]


def test_a_folder_with_files_of_ones_own_by_our_names_is_left_as_it_is(
    encoder: Path, tmp_path: Path, tiny: Path
) -> None:
    out = tmp_path / "project"
    (out / "runs").mkdir(parents=True)
    (out / "runs" / "mine.pt").write_text("mine")
    (out / "config.yaml").write_text("# mine")
    before = contents(out)
    with pytest.raises(OutputError, match="holds config.yaml, runs, which this command did not write"):
        compare(config_of(tiny, encoder), out)
    assert contents(out) == before


@pytest.mark.parametrize("name", ["config.yaml", "leaderboard.md", "leaderboard.html", "item_cards.json"])
def test_a_folder_in_the_place_of_a_file_is_found_before_anything_is_encoded(
    name: str, encoder: Path, tmp_path: Path, tiny: Path
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / ".lock").touch()
    with pytest.raises(OutputError, match=f"{name} is a folder, but a file is needed there; remove it, or choose"):
        compare(config_of(tiny, encoder), tmp_path / "out")
    assert contents(tmp_path / "out") == {".lock": b""}


# What a comparison leaves


def test_every_variant_is_trained_with_every_seed_and_the_texts_are_encoded_once(finished: Finished) -> None:
    assert finished.listener.finished_runs == finished.listener.started_runs == ALL
    assert finished.listener.encoded == ["tiny-roberta"]
    assert {row.variant: row.seeds for row in finished.board.rows} == dict.fromkeys(finished.config.variants, (1, 2))


def test_nothing_is_written_outside_the_output_folder(finished: Finished) -> None:
    assert list((finished.out.parent / "cwd").iterdir()) == []
    assert {path.name for path in finished.out.iterdir()} == {
        ".lock", "config.yaml", "runs", "stores", "results.jsonl",
        "leaderboard.md", "leaderboard.csv", "leaderboard.json", "leaderboard.html", "leaderboard.tex",
        "item_cards.json",
    }  # fmt: skip
    assert {path.name for path in (finished.out / "runs").iterdir()} == set(ALL)
    for run in ALL:
        hashed = {"ranks.npz", "topk.npz", "histories.npz", "history.jsonl", "items.json"}
        names = {path.name for path in (finished.out / "runs" / run).iterdir()}
        assert names == hashed | {"result.json", "model.safetensors"}
        assert load_run(finished.out / "runs" / run).files.keys() == hashed
        modes = {path.stat().st_mode for path in (finished.out / "runs" / run).iterdir()}
        assert len(modes) == 1, "whoever can read one file of a run can read all"


def test_the_written_config_is_the_one_that_ran(finished: Finished) -> None:
    assert load_config(finished.out / "config.yaml") == finished.config


def gain(metric: str, position: int, k: int) -> float:
    """The gain of a target at a rank (from 1), by the definitions."""
    if position > k:
        return 0.0
    return {"NDCG": 1 / math.log2(position + 1), "Recall": 1.0}[metric]


def test_the_leaderboard_is_the_mean_over_users_of_what_the_ranks_say(finished: Finished) -> None:
    """Brute force: every rank that a tied target can have, one by one."""
    for row in finished.board.rows:
        for protocol in ("unmasked", "masked"):
            for name in ("NDCG@10", "Recall@10"):
                metric, k = name.split("@")
                means = []
                for seed in row.seeds:
                    arrays = ranks(finished.out)[f"{row.variant}-{seed}/ranks.npz"]
                    values = []
                    for user in range(len(arrays["user"])):
                        higher, equal = (int(arrays[f"{part}_{protocol}"][user]) for part in ("higher", "equal"))
                        places = [gain(metric, higher + tie + 1, int(k)) for tie in range(equal + 1)]
                        missed = protocol == "masked" and arrays["target_in_history"][user]
                        values.append(0.0 if missed else sum(places) / len(places))
                    means.append(sum(values) / len(values))
                summary = row.metrics[protocol][name]  # type: ignore[index]
                assert summary.per_seed == pytest.approx(means, abs=1e-12)
                assert summary.mean == pytest.approx(sum(means) / 2, abs=1e-12)
                assert summary.std == pytest.approx(abs(means[0] - means[1]) / math.sqrt(2), abs=1e-12)


def test_rows_are_ordered_by_the_first_metric(finished: Finished) -> None:
    means = [row.metrics["unmasked"]["NDCG@10"].mean for row in finished.board.rows]
    assert means == sorted(means, reverse=True)


def test_ranks_and_top_k_agree(finished: Finished) -> None:
    """A target without ties is in the top 20 exactly at its rank."""
    for run in ALL:
        arrays, top = (ranks(finished.out)[f"{run}/{name}.npz"] for name in ("ranks", "topk"))
        for protocol in ("unmasked", "masked"):
            hit = top[protocol] == arrays["item"][:, None]
            candidate = ~arrays["target_in_history"] if protocol == "masked" else np.ones(len(hit), bool)
            alone = (arrays[f"equal_{protocol}"] == 0) & candidate
            expected = np.where(arrays[f"higher_{protocol}"] < 20, arrays[f"higher_{protocol}"], -1)
            found = np.where(hit.any(axis=1), hit.argmax(axis=1), -1)
            assert alone.sum() > 50
            np.testing.assert_array_equal(found[alone], expected[alone])


def test_histories_and_counts_are_those_of_the_log(finished: Finished) -> None:
    """Leave-one-out by hand: the last event is the test target, the one before the validation target."""
    events: dict[str, list[tuple[int, str]]] = {}
    for user, item, time in read_log(Path(finished.config.dataset)):
        events.setdefault(user, []).append((time, item))
    logs = [[item for _, item in sorted(log, key=lambda event: event[0])] for log in events.values()]
    counts = Counter(item for log in logs for item in log[:-2])
    for run in ALL[:2]:
        result = load_run(finished.out / "runs" / run)
        tokens = result.item_tokens
        assert {tokens[item]: count for item, count in enumerate(result.item_counts) if count} == dict(counts)
        found = [
            ([tokens[item] for item in result.histories.of(case)], tokens[true])
            for case, true in enumerate(result.ranks.item)
        ]
        assert sorted(found) == sorted((log[-21:-1], log[-1]) for log in logs if len(log) > 2)
        assert len(result.curve) == result.epochs and max(e.valid["NDCG@10"] for e in result.curve if e.valid) > 0


def test_rendering_again_writes_the_same_files(own: Finished) -> None:
    before = {path.name: path.read_bytes() for path in own.out.glob("leaderboard.*")}
    assert len(before) == 5
    for name in before:
        (own.out / name).unlink()
    board = leaderboard(own.out)
    assert board is not None
    assert [row.metrics for row in board.rows] == [row.metrics for row in own.board.rows]
    again = {path.name: path.read_bytes() for path in own.out.glob("leaderboard.*")}
    assert again == before
    assert not any(str(own.out.parent).encode() in text for text in again.values()), "no path of this machine"


def test_the_board_of_a_folder_that_can_not_be_written_is_shown_and_its_files_stay(
    own: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(*arguments: Any, **named: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    before = contents(own.out)
    for method in ("touch", "write_text", "mkdir"):
        monkeypatch.setattr(Path, method, denied)
    assert cli.main(["leaderboard", str(own.out)]) == 0
    said = capsys.readouterr()
    assert own.board.rows[0].variant in said.out and "NDCG@10" in said.out
    assert (
        f"{own.out} can't be written (Permission denied), so the files of the leaderboard are not written" in said.err
    )
    assert contents(own.out) == before


# Again


def test_a_second_time_nothing_is_encoded_or_trained(finished: Finished) -> None:
    before, listener = contents(finished.out / "runs"), Recorder()
    board = compare(finished.config, finished.out, listener=listener)
    assert (listener.encoded, listener.started_runs, listener.epochs) == ([], [], 0)
    assert contents(finished.out / "runs") == before
    assert board == finished.board


def test_an_interrupted_comparison_keeps_finished_runs_and_resumes(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, listener = tmp_path / "out", InterruptedIn(epoch=6)  # the second epoch of the third run
    with pytest.raises(KeyboardInterrupt):
        compare(finished.config, out, listener=listener)
    assert listener.finished_runs == ALL[:2] and listener.started_runs == ALL[:3]
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted([*ALL[:2], f".{ALL[2]}.training"])
    rest = Recorder()
    with caplog.at_level(logging.INFO, "blair_rec"):
        compare(finished.config, out, listener=rest)
    assert "training goes on after epoch 1, from its checkpoint" in caplog.messages
    assert rest.started_runs == ALL[2:] and rest.encoded == []
    assert rest.epochs == finished.listener.epochs - 5, "the epochs before the interrupted one are trained again"
    assert_same_ranks(out, finished.out)
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted(ALL)


def test_an_interrupted_training_is_not_resumed_with_another_config(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = finished.config.only(["id"])
    with pytest.raises(KeyboardInterrupt):
        compare(config, tmp_path / "out", listener=InterruptedIn(epoch=2))
    assert len([*(tmp_path / "out" / "runs" / ".id-1.training").glob("*.safetensors")]) == 1
    assert "begins again" not in caplog.text
    rate = config.train.learning_rate
    slower = config.train.changed(learning_rate=rate / 2)
    listener = Recorder()
    compare(config.changed(train=slower), tmp_path / "out", listener=listener)
    assert listener.epochs == 2 * 2, "two seeds of two epochs"
    assert [line for line in caplog.messages if "begins again" in line] == [
        "id-1 begins again: its checkpoint used different settings "
        f"(train.learning_rate: {rate} -> {rate / 2}); restore these to resume it"
    ]


def test_a_training_that_begins_again_with_the_same_settings_says_what_else_it_may_be(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(finished.config, tmp_path / "out", listener=InterruptedIn(epoch=2))
    (checkpoint,) = (tmp_path / "out" / "runs" / ".id-1.training").glob("*.safetensors")
    checkpoint.rename(checkpoint.with_name("of_other_code.safetensors"))
    checkpoint.with_name("damaged.safetensors").write_text("no tensors", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        compare(finished.config, tmp_path / "out", listener=InterruptedIn(epoch=1))
    assert [line for line in caplog.messages if "begins again" in line] == [
        "id-1 begins again: its checkpoint used other data, text vectors or code; restore these to resume it"
    ]


def test_a_process_that_is_killed_loses_only_the_run_at_work(finished: Finished, encoder: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "cfg.yaml", Path(finished.config.dataset), encoder)
    script = (
        "import os, signal\n"
        "import blair_rec.cli.commands.compare as commands\n"
        "import blair_rec.cli as cli\n"
        "class Live(commands.Live):\n"
        "    def epoch(self, run, epoch):\n"
        "        if run.folder.name == 'text-1' and epoch.epoch == 2:\n"
        "            run.folder.with_name('.text-1.1-00000000.partial').mkdir()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "commands.Live = Live\n"
        "cli.main(['compare', 'cfg.yaml', '-o', 'out'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    runs = tmp_path / "out" / "runs"
    assert {path.name for path in runs.iterdir()} == {"id-1", ".text-1.training", ".text-1.1-00000000.partial"}

    listener = Recorder()
    compare(load_config(path), tmp_path / "out", listener=listener)  # the lock died with its process
    assert listener.started_runs == ALL[1:] and listener.encoded == []
    assert {path.name for path in runs.iterdir()} == set(ALL)
    assert_same_ranks(tmp_path / "out", finished.out)


def test_more_seeds_and_variants_train_only_what_is_new(own: Finished) -> None:
    variants = {**own.config.variants, "more": own.config.variants["text_init"]}
    config, listener = own.config.changed(seeds=(1, 2, 3), variants=variants), Recorder()
    board = compare(config.only(["id", "more"]), own.out, listener=listener)
    assert listener.started_runs == ["more-1", "more-2", "id-3", "more-3"]
    assert board is not None and {row.variant: row.seeds for row in board.rows} == {
        "id": (1, 2, 3), "more": (1, 2, 3), "text": (1, 2), "text_init": (1, 2), "shuffled": (1, 2),
    }  # fmt: skip


def test_metrics_and_the_size_of_a_batch_of_users_may_change_without_training(own: Finished) -> None:
    evaluate = own.config.evaluate.changed(metrics=("NDCG@10", "hr@3", "MRR@80"), batch_size=7)
    listener = Recorder()
    board = compare(own.config.changed(evaluate=evaluate), own.out, listener=listener)
    assert listener.started_runs == []
    assert board is not None and board.metrics == ("NDCG@10", "hr@3", "MRR@80")


# Changed conditions


def refused(config: CompareConfig, out: Path, match: str) -> None:
    """The comparison is refused before anything is encoded, and nothing below `out` changes."""
    before, listener = contents(out), Recorder()
    with pytest.raises(ChangedRuns, match=match):
        compare(config, out, listener=listener)
    assert contents(out) == before
    assert (listener.encoded, listener.started_runs) == ([], [])


def test_a_changed_config_is_refused_and_the_change_named(own: Finished) -> None:
    train = own.config.train.changed(epochs=1, loss="recbole")
    refused(
        own.config.changed(train=train),
        own.out,
        r"^8 finished runs in .*out \(id-1, text-1, text_init-1\) used different settings, data or code: "
        r"train.loss: 'full_softmax' -> 'recbole'; train.epochs: 2 -> 1\. .*another folder, .*`fresh` \(--fresh\)$",
    )


def test_only_the_variants_that_changed_are_named(own: Finished) -> None:
    variants = {**own.config.variants, "text": own.config.variants["text"].changed(transforms=("l2",))}
    refused(
        own.config.changed(variants=variants),
        own.out,
        r"^2 finished runs in .* \(text-1, text-2\) used different .*: transforms: \['whiten'\] -> \['l2'\]\.",
    )


def test_changed_text_fields_are_named(own: Finished) -> None:
    text = own.config.text.changed(fields=("category", "title"))
    expected = r"^6 finished runs .*: text.fields: \['title'\] -> \['category', 'title'\]; the items' text, or"
    refused(own.config.changed(text=text), own.out, expected)


def test_a_changed_data_file_is_named(own: Finished) -> None:
    with (Path(own.config.dataset) / "tiny.inter").open("a") as file:
        file.write("u000\ti01\t1900000000\n")
    refused(own.config, own.out, r"^8 finished runs .* used different settings, data or code: the data set's files\.")


def test_changed_text_is_named_before_anything_is_encoded(own: Finished) -> None:
    path = Path(own.config.dataset) / "tiny.item"
    path.write_text(path.read_text("utf-8").replace("lamp", "torch"), encoding="utf-8")
    refused(
        own.config,
        own.out,
        r"^6 finished runs in .* \(text-1, .* used different settings, .*: the items' text, or the",
    )


def test_another_encoder_of_the_same_name_is_named(own: Finished, encoder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(encoder, tmp_path / "other" / encoder.name))
    settings = json.loads((other / "config.json").read_text("utf-8"))
    (other / "config.json").write_text(json.dumps({**settings, "layer_norm_eps": 0.1}), encoding="utf-8")
    config = own.config.changed(text=own.config.text.changed(encoder=str(other)))
    refused(config, own.out, r"text.encoder: '.*' -> '.*'; the items' text, or the encoder's weights or settings")


def test_another_version_is_named(own: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blair_rec.experiment.planning.plan.code_hash", lambda text: "0123456789ab")
    monkeypatch.setattr(
        "blair_rec.experiment.planning.still_valid.code_files",
        lambda text: {**code_files(text), "experiment/fit.py": "0123456789ab"},
    )
    refused(
        own.config,
        own.out,
        r"^8 finished runs .* used different settings, data or code: the code of blair_rec \(experiment/fit.py\)\.",
    )


def test_fresh_trains_all_again_and_each_old_run_stays_until_its_successor_is_whole(own: Finished) -> None:
    config = own.config.changed(train=own.config.train.changed(epochs=1))
    before = contents(own.out / "runs")
    with pytest.raises(KeyboardInterrupt):
        compare(config, own.out, fresh=True, listener=InterruptedIn(epoch=3))
    after = {name: held for name, held in contents(own.out / "runs").items() if not name.startswith(".")}
    assert after.keys() == before.keys()
    assert {name.split("/")[0] for name in after if after[name] != before[name]} == {"id-1", "text-1"}

    with pytest.raises(ChangedRuns, match=r"^6 finished runs .*train.epochs: 2 -> 1"):
        leaderboard(own.out)  # two runs of one epoch and six of two: no table

    with pytest.raises(ChangedRuns, match="used different settings, data or code: train.epochs: 1 -> 2"):
        compare(own.config, own.out)  # neither of the two configs may mix them
    other = own.config.changed(train=own.config.train.changed(epochs=3))
    with pytest.raises(ChangedRuns, match=r"^8 finished runs"):
        compare(other, own.out)  # nobody asked for a third one
    listener = Recorder()
    compare(config, own.out, listener=listener)
    assert listener.started_runs == ALL[2:], "without --fresh it resumes"
    assert {path.name for path in (own.out / "runs").iterdir()} == set(ALL)

    listener = Recorder()
    board = compare(config, own.out, fresh=True, listener=listener)
    assert listener.started_runs == ALL and listener.encoded == []
    assert board is not None and {row.epochs for row in board.rows} == {1}
    assert {path.name for path in (own.out / "runs").iterdir()} == set(ALL)


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_a_run_that_was_being_replaced_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    """If put_in_place is killed after some of its steps, `tidy` finds the old run or the new one."""
    for path, text in ((tmp_path / "run", "old"), (partial_of(tmp_path / "run"), "new")):
        path.mkdir()
        (path / "result.json").write_text(text)
    steps = 0

    def or_killed(step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            if steps == killed_after:
                raise KeyboardInterrupt
            steps += 1
            return step(*arguments, **options)

        return take

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", or_killed(Path.rename))
        patch.setattr(shutil, "rmtree", or_killed(shutil.rmtree))
        with pytest.raises(KeyboardInterrupt):
            put_in_place(tmp_path / "run")
    tidy(tmp_path)
    assert contents(tmp_path) == {"run/result.json": b"new" if killed_after == 2 else b"old"}


def test_what_a_killed_replacement_left_is_put_right(own: Finished) -> None:
    runs = own.out / "runs"
    before = contents(runs)
    (runs / "id-1").rename(runs / ".id-1.1-00000000.old")
    shutil.copytree(runs / "id-2", runs / ".id-1.1-00000000.partial")
    shutil.copytree(runs / "id-2", runs / ".id-2.1-00000000.old")
    listener = Recorder()
    compare(own.config, own.out, listener=listener)
    assert listener.started_runs == [] and contents(runs) == before


# Damage


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda run: (run / "ranks.npz").unlink(), r"text-2/ranks.npz: is missing; delete .*text-2, and make it again"),
        (lambda run: (run / "ranks.npz").write_bytes(b"PK"), r"text-2/ranks.npz: can't be read"),
        (
            lambda run: shutil.copy(run.with_name("text-1") / "ranks.npz", run),
            r"text-2/ranks.npz: is not the file that this run wrote: .*; delete .*text-2, and make it again",
        ),
        (lambda run: (run / "result.json").write_text("{"), r"text-2/result.json: can't be read"),
        (lambda run: (run / "result.json").write_text("{}"), r"text-2/result.json: has schema None"),
        (lambda run: shutil.rmtree(run) or run.touch(), r"text-2/result.json: can't be read: Not a directory; delete"),
        (
            lambda run: (run / "result.json").unlink() or (run / "result.json").mkdir(),
            r"text-2/result.json: can't be read: Is a directory; delete",
        ),
    ],
)
def test_a_damaged_run_is_named_before_anything_is_trained(
    own: Finished, damage: Callable[[Path], Any], expected: str
) -> None:
    shutil.rmtree(own.out / "runs" / "id-1")
    damage(own.out / "runs" / "text-2")
    listener = Recorder()
    with pytest.raises(BadRun, match=expected):
        compare(own.config, own.out, listener=listener)
    assert listener.started_runs == []


def test_a_run_without_its_result_is_made_again(own: Finished, finished: Finished) -> None:
    (own.out / "runs" / "text-2" / "result.json").unlink()
    listener = Recorder()
    compare(own.config, own.out, listener=listener)
    assert listener.started_runs == ["text-2"]
    assert_same_ranks(own.out, finished.out)


def test_fresh_replaces_damaged_runs(own: Finished, finished: Finished) -> None:
    (own.out / "runs" / "text-2" / "result.json").write_text("{")
    compare(own.config, own.out, fresh=True, variants=["text"])
    assert_same_ranks(own.out, finished.out)


def test_a_damaged_store_is_made_again_as_it_was(
    own: Finished, finished: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    [store] = (own.out / "stores").iterdir()
    vectors = np.load(store / "vectors.npy")
    vectors[3, 0] = np.nan
    np.save(store / "vectors.npy", vectors)
    shutil.rmtree(own.out / "runs" / "text-2")
    listener = Recorder()
    compare(own.config, own.out, listener=listener)
    assert listener.encoded == ["tiny-roberta"] and listener.started_runs == ["text-2"]
    assert "vectors.npy was changed or damaged since it was written" in caplog.text
    assert_same_ranks(own.out, finished.out)


def test_runs_of_something_else_in_the_same_folder_do_no_harm(own: Finished) -> None:
    old = own.out / "runs" / "old-1"
    shutil.copytree(own.out / "runs" / "id-1", old)
    (old / "ranks.npz").write_bytes(b"damaged, too")
    board = compare(own.config, own.out)
    assert board is not None and {row.variant for row in board.rows} == set(own.config.variants)


def test_a_copied_run_does_not_count_as_another_seed(own: Finished) -> None:
    shutil.rmtree(own.out / "runs" / "id-2")
    shutil.copytree(own.out / "runs" / "id-1", own.out / "runs" / "id-2")
    with pytest.raises(ChangedRuns, match=r"\(id-2\) used different settings, data or code: seed: 1 -> 2\."):
        compare(own.config, own.out)


def test_a_folder_that_is_not_a_comparison_is_refused(tmp_path: Path, own: Finished) -> None:
    with pytest.raises(
        ConfigError,
        match=r"is not the folder of a comparison: it has no config.yaml; give the output folder of `compare`",
    ):
        leaderboard(tmp_path)
    shutil.rmtree(own.out / "runs")
    with pytest.raises(NoRuns, match="holds no finished run"):
        leaderboard(own.out)


def test_without_the_baseline_the_board_has_what_is_there_and_says_so(own: Finished) -> None:
    for run in ("id-1", "id-2"):
        shutil.rmtree(own.out / "runs" / run)
    board = leaderboard(own.out)
    assert (board.baseline, {row.variant for row in board.rows}) == ("text", {"text", "text_init", "shuffled"})
    assert board.notes[0] == "the baseline id has no finished run, so text is the baseline of this table"
    assert compare(own.config, own.out, variants=["shuffled"]) == board, "compare and leaderboard say the same"


# One process at a time


def test_a_folder_whose_files_another_process_keeps_is_busy(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    with alone_in(tmp_path / "out"):
        with pytest.raises(OutputError, match=r"^another process is using .*out; wait until it has"):
            compare(finished.config, tmp_path / "out")
        with alone_in(tmp_path / "other"):
            pass
    assert not (tmp_path / "out" / "runs").exists()
    with alone_in(tmp_path / "out"):
        pass


def test_the_lock_is_of_the_system_and_ends_with_the_process(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\nfrom blair_rec.files.locks import alone_in\n"
        "with alone_in(pathlib.Path('out')):\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    with pytest.raises(OutputError, match="another process is using"), alone_in(tmp_path / "out"):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with alone_in(tmp_path / "out"):
        pass


@pytest.mark.parametrize("below", ["file", "file/deeper/out"])
def test_an_output_folder_that_cannot_be_written_is_refused(finished: Finished, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    expected = r"file.* (can't be written \(Not a directory\); choose another|is a file, but a) folder"
    with pytest.raises(OutputError, match=expected):
        compare(finished.config, tmp_path / below)


# Encoders and stores


def test_each_encoder_is_looked_for_once_and_each_store_made_once(
    finished: Finished, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def resolve(name: str, **settings: Any) -> Any:
        asked.append(name)
        return resolve_encoder(name, **settings)

    opened: list[Path] = []

    def encode(catalogue: Any, fields: Any, source: Any, path: Path, **settings: Any) -> Any:
        opened.append(path)
        return encode_catalogue(catalogue, fields, source, path, **settings)

    monkeypatch.setattr(item_vectors, "resolve_encoder", resolve)
    monkeypatch.setattr(item_vectors, "encode_catalogue", encode)
    again = {"encoder": str(encoder), "pooling": "cls"}  # the same, in the variant's own words
    mean = {"encoder": str(encoder), "pooling": "mean"}
    config = config_of(
        Path(finished.config.dataset), encoder, seeds=[1, 2], train={"epochs": 1}, variants={
            "id": {}, "a": {"items": "text"}, "b": {"items": "text_init"}, "c": {"items": "text", "text": again},
            "d": {"items": "text", "text": mean}, "e": {"items": "text", "text": {"fields": ["category"]}},
        },
    )  # fmt: skip
    listener = Recorder()
    compare(config, tmp_path / "out", listener=listener)
    assert asked == [str(encoder)] * 2
    assert listener.encoded == ["tiny-roberta"] * 3
    assert sorted(opened) == sorted((tmp_path / "out" / "stores").iterdir()) and len(opened) == 3


def test_variants_with_items_files_of_their_own_keep_their_stores_apart(own: Finished, tmp_path: Path) -> None:
    other = tmp_path / "other.item"
    other.write_text((Path(own.config.dataset) / "tiny.item").read_text("utf-8").replace("lamp", "torch"), "utf-8")
    variants = dict(own.config.variants)
    variants["other"] = variants["text"].changed(text={"items": str(other)})
    config, listener = own.config.changed(variants=variants), Recorder()
    compare(config, own.out, listener=listener)
    assert listener.encoded == ["tiny-roberta"] and listener.started_runs == ["other-1", "other-2"]
    again = Recorder()
    compare(config, own.out, listener=again)
    assert (again.encoded, again.started_runs) == ([], [])
    stores = {
        json.loads((own.out / "runs" / run / "result.json").read_text("utf-8"))["store_sha256"]
        for run in ("text-1", "other-1")
    }
    assert len(stores) == 2


def test_the_fallback_is_reported_once(
    finished: Finished, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub is asked once, and the message is short."""
    (tmp_path / "enc").symlink_to(encoder)
    own = Path(shutil.copytree(encoder, tmp_path / "stand-in"))
    (own / "1_Pooling").mkdir()
    (own / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    asked: list[str] = []

    def unreachable(name: str, revision: str | None) -> Any:
        asked.append(name)
        raise EncoderUnavailable(name, "the hub can't be reached (no route)")

    monkeypatch.setattr("blair_rec.text.encoding.source._hub", unreachable)
    text = {"fields": ["title"], "encoder": "hyp1231/blair-roberta-base", "fallback": {"encoder": str(own)}}
    config = config_of(Path(finished.config.dataset), encoder, text=text, seeds=[1], train={"epochs": 1})
    with caplog.at_level(logging.WARNING, logger="blair_rec"):
        board = compare(config, tmp_path / "out")
    assert asked == ["hyp1231/blair-roberta-base"]
    assert caplog.messages == [
        "the hub can't be reached (no route); asked for hyp1231/blair-roberta-base, using stand-in, as `fallback` says"
    ]
    assert board is not None
    [used] = {str(row.encoder) for row in board.rows if row.encoder}
    assert used == "stand-in (asked for: hyp1231/blair-roberta-base)"

    # The same vectors under the name of their encoder: with the other name one row would have two encoders.
    direct = config_of(
        Path(finished.config.dataset), encoder, text={**text, "encoder": str(own)}, train={"epochs": 1}, seeds=[1, 2]
    )
    with pytest.raises(ChangedRuns, match=r"\(text-1, .*: text.encoder: 'hyp1231/blair-roberta-base' -> '"):
        compare(direct, tmp_path / "out")


# Errors are found before anything is encoded


def not_begun(config: CompareConfig, error: type[BlairRecError], match: str) -> None:
    listener, out = Recorder(), Path("not_begun")
    with pytest.raises(error, match=match):
        compare(config, out, listener=listener)
    assert (listener.encoded, listener.started_runs) == ([], [])
    assert not (out / "config.yaml").exists() and not (out / "runs").exists()


def bad(tiny: Path, encoder: Path, **sections: Any) -> CompareConfig:
    return read_config(raw_config(tiny, encoder, **sections))


def test_an_unknown_metric(tiny: Path, encoder: Path) -> None:
    config = bad(tiny, encoder, evaluate={"metrics": ["NDCG@10", "NDGC@5"]})
    not_begun(config, ConfigError, r"'NDGC@5': unknown metric 'NDGC'; known: NDCG@k, Recall@k")


def test_a_k_beyond_the_items(tiny: Path, encoder: Path) -> None:
    config = bad(tiny, encoder, evaluate={"metrics": ["NDCG@10", "Recall@81"]})
    not_begun(config, ConfigError, r"Recall@81 needs at least 81 items to rank, but there are only 80")


def test_an_unknown_model(tiny: Path, encoder: Path) -> None:
    not_begun(bad(tiny, encoder, model="SASRce"), ConfigError, r"model is 'SASRce', .*did you mean 'SASRec'\?")


def test_an_unknown_data_set(encoder: Path, tmp_path: Path) -> None:
    not_begun(bad(tmp_path / "nowhere", encoder), DatasetError, r"nowhere': there is no such folder; give a folder of")
    (tmp_path / "empty").mkdir()
    not_begun(bad(tmp_path / "empty", encoder), DatasetError, r"empty has no file empty.inter; give the files")


def test_an_unknown_text_field(tiny: Path, encoder: Path) -> None:
    text = {"fields": ["titel"], "encoder": str(encoder), "pooling": "cls"}
    not_begun(
        bad(tiny, encoder, text=text), MissingField, r"tiny.item: no item has a field 'titel'; did you mean 'title'"
    )


def items(tiny: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = tiny / "tiny.item"
    path.write_text("\n".join(change(path.read_text("utf-8").splitlines())) + "\n", encoding="utf-8")


def test_an_empty_catalogue(tiny: Path, encoder: Path) -> None:
    items(tiny, lambda lines: lines[:1])
    not_begun(bad(tiny, encoder), CatalogueError, r"tiny.item holds no item; a catalogue needs at least one")


def test_items_that_are_repeated_without_text_and_cut_are_noted_on_the_terminal_and_on_the_board(
    tiny: Path, encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def messy(lines: list[str]) -> list[str]:
        first, second, third = (line.split("\t") for line in lines[1:4])
        long = "\t".join([first[0], "a red lamp for reading in bed " * 60, *first[2:]])
        empty = ["\t".join([cells[0], "", *cells[2:]]) for cells in (second, third)]
        return [lines[0], long, *empty, *lines[4:], "\t".join([third[0], "found", *third[2:]])]

    items(tiny, messy)
    text = {"fields": ["title"], "encoder": str(encoder), "pooling": "cls", "missing_text": "mean"}
    config = bad(tiny, encoder, text=text, variants={"id": {}, "t": {"items": "text"}}, seeds=[1])
    with caplog.at_level(logging.INFO, logger="blair_rec"):
        board = compare(config, tmp_path / "out")
    assert board is not None
    for start in (
        "1 row of tiny.item repeats an item of an earlier row",
        "1 of 80 items has no text in title",
        "1 of 79 texts has more than the 128 tokens that tiny-roberta reads, so its end is cut off",
    ):
        assert sum(f"data: {start}" in message for message in caplog.messages) == 1, start
        assert sum(note.startswith(start) for note in board.notes) == 1
        assert start in (tmp_path / "out" / "leaderboard.md").read_text("utf-8")


def test_no_catalogue(tiny: Path, encoder: Path) -> None:
    (tiny / "tiny.item").unlink()
    not_begun(bad(tiny, encoder), CatalogueError, r"tiny.item is not there, or not a file; name a RecBole .item file")


@pytest.mark.parametrize(
    "name, error, expected",
    [
        ("tiny.item", CatalogueError, r"tiny.item, line 1: byte 2 \(0xe9\) is not UTF-8; save it as UTF-8"),
        ("tiny.inter", DatasetError, r"tiny.inter, line \d+: byte \d+ \(0xe9\) is not UTF-8"),
    ],
)
def test_a_file_that_is_not_utf_8(
    tiny: Path, encoder: Path, name: str, error: type[BlairRecError], expected: str
) -> None:
    path = tiny / name
    text = path.read_bytes()
    path.write_bytes(text[:2] + b"\xe9" + text[2:] if name == "tiny.item" else text + b"u\xe9\ti01\t1\n")
    not_begun(bad(tiny, encoder), error, expected)


SCORERS: dict[str, Any] = {"variants": {"pop": {"scorer": "popularity"}}, "baseline": "pop", "seeds": [1]}


def test_rejected_lines_are_on_the_board_and_in_a_file(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    path = tiny / "tiny.inter"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines[:5], "u001\ti01\t", "\ti01\t3", *lines[5:]]) + "\n", encoding="utf-8")
    board = compare(bad(tiny, encoder, **SCORERS), tmp_path / "out")
    assert board is not None
    assert (
        f"2 of {len(lines) + 1:,} lines of events can't be used and were skipped "
        "(tiny.inter, line 6: timestamp is empty; tiny.inter, line 7: user_id is empty); they are in rejected.jsonl"
    ) in board.notes
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [(one["line"], one["why"]) for one in rejected] == [(6, "timestamp is empty"), (7, "user_id is empty")]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    board = compare(bad(tiny, encoder, **SCORERS), tmp_path / "out", fresh=True)
    assert board is not None and not [note for note in board.notes if "rejected" in note]
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


def test_columns_may_have_other_names(finished: Finished, encoder: Path, tmp_path: Path) -> None:
    tiny = tiny_at(tmp_path)
    names = {"user_id": "uid", "item_id": "product_id", "timestamp": "at"}
    for path in (tiny / "tiny.inter", tiny / "tiny.item"):
        header, _, rest = path.read_text("utf-8").partition("\n")
        for name, other in names.items():
            header = header.replace(name, other)
        path.write_text(f"{header}\n{rest}", encoding="utf-8")
    fields = {"USER_ID_FIELD": "uid", "ITEM_ID_FIELD": "product_id", "TIME_FIELD": "at"}
    config = raw_config(tiny, encoder, seeds=[1], variants={name: VARIANTS[name] for name in ("id", "text")})
    board = compare(read_config({**config, "recbole": {**config["recbole"], **fields}}), tmp_path / "out")
    assert board is not None
    for name in ("id-1", "text-1"):
        ranks = [np.load(out / "runs" / name / "ranks.npz") for out in (finished.out, tmp_path / "out")]
        for array in ranks[0]:
            np.testing.assert_array_equal(ranks[1][array], ranks[0][array])
    assert read_cards(tmp_path / "out").titles == read_cards(finished.out).titles


def test_a_file_without_column_types(tiny: Path, encoder: Path) -> None:
    path = tiny / "tiny.inter"
    path.write_text(path.read_text("utf-8").replace(":token", "").replace(":float", ""), encoding="utf-8")
    not_begun(
        bad(tiny, encoder), DatasetError, "the column 'user_id' is not in RecBole's format; write the kind after it"
    )


@pytest.mark.parametrize("events", [1, 2])
def test_users_with_too_few_events(encoder: Path, tmp_path: Path, events: int) -> None:
    log = [(f"u{user}", f"i{user + event}", event) for user in range(5) for event in range(events)]
    config = bad(write_log(tmp_path / "short", log), encoder, variants={"id": {}}, evaluate={"metrics": ["NDCG@2"]})
    not_begun(config, DatasetError, r"short': (no user has two events|the split leaves no validation and no)")


def test_nan_vectors(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    broken = Path(shutil.copytree(encoder, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][:] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncodingError, match=r"broken gave NaN or infinity for 80 of 80 texts"):
        compare(bad(tiny, broken), tmp_path / "out")
    assert not (tmp_path / "out" / "runs").exists() and not any((tmp_path / "out").glob("stores/*"))


def test_items_of_another_data_set(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.item").write_text("item_id:token\ttitle:token_seq\nx1\tred lamp\nx2\tblue lamp\n", "utf-8")
    text = {"fields": ["title"], "encoder": str(encoder), "pooling": "cls", "items": str(tmp_path / "other.item")}
    with pytest.raises(
        CatalogueError,
        match=r"other.item is the catalogue of other items: it has 0 of the 80 .*\(missing: i",
    ):
        compare(bad(tiny, encoder, text=text, variants={"t": {"items": "text"}}, baseline="t"), tmp_path / "out")
    assert not (tmp_path / "out" / "stores").exists(), "found before anything is encoded"


def test_items_without_text(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    items(tiny, lambda lines: [*lines[:-2], *("\t".join([line.split("\t")[0], "", "x"]) for line in lines[-2:])])
    config = bad(tiny, encoder, variants={"id": {}, "t": {"items": "text"}}, seeds=[1])
    with pytest.raises(TextlessItems, match=r"2 of 80 items have no text .*set `missing_text: mean`"):
        compare(config, tmp_path / "out")
    assert not any((tmp_path / "out").rglob("*.npy")), "found before anything is encoded"
    text = config.text.changed(missing_text="zeros")
    listener = Recorder()
    compare(config.changed(text=text), tmp_path / "out", listener=listener)
    assert (listener.encoded, listener.started_runs) == (["tiny-roberta"], ["id-1", "t-1"])


def test_the_working_directory_is_left_alone(finished: Finished, tmp_path: Path) -> None:
    compare(finished.config.only(["id"]), tmp_path / "out", listener=Recorder())
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("model", ["GRU4Rec", "BERT4Rec", "NARM"])
def test_other_sequential_models_are_compared_in_the_same_way(tiny: Path, tmp_path: Path, model: str) -> None:
    sizes = {"embedding_size": 8, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1}
    raw = {
        "dataset": str(tiny),
        "model": model,
        "recbole": sizes,
        "train": {"epochs": 1},
        "variants": {"id": {"items": "id"}},
        "seeds": [1],
    }
    board = compare(read_config(raw), tmp_path / "out")
    assert board is not None and board.rows[0].model == model and board.dataset == "tiny"
