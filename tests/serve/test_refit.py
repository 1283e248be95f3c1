"""blair_rec.refit: the winner of a comparison, trained on the whole log, and never ranked."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import config_of, tiny_at
from encoders import build_roberta
from safetensors.torch import load_file
from worlds import read_log, write_log

import blair_rec
from blair_rec.cli import main
from blair_rec.errors import BadItemCards, ChangedRuns, ConfigError, OutputError, RefitRun
from blair_rec.evaluate.runs.results import load_runs
from blair_rec.experiment.compare import compare
from blair_rec.experiment.fit import fit_variant
from blair_rec.experiment.loading import load_model
from blair_rec.experiment.planning.plan import run_setup
from blair_rec.experiment.splits.reading import read_splits
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.serve import refit as refitting
from blair_rec.serve import retraining
from blair_rec.serve.winner import choose

VARIANTS: dict[str, Any] = {
    "id": {"items": "id"},
    "text": {"items": "text", "transforms": ["center"], "train": {"loss": "recbole", "batch_size": 256}},
    "rules": {"scorer": "sequential_rules"},
    "popular": {"scorer": "popularity"},
    "all": {"average": ["text", "rules", "id"]},
    "shuffled": {"items": "text_init", "control": "shuffle"},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with two seeds; no test changes it."""
    folder = tmp_path_factory.mktemp("done")
    config = config_of(tiny_at(folder), build_roberta(folder / "tiny-roberta"), variants=VARIANTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        compare(config, folder / "out")
    return folder


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_the_newest_events_are_learnt(tmp_path: Path) -> None:
    """Every user of the tiny data set ends with i80 and i01, which never follow each other before: a refit sees it."""
    tiny = tiny_at(tmp_path)
    log = read_log(tiny)
    latest = max(time for _, _, time in log)
    users = sorted({user for user, _, _ in log})
    write_log(tiny, [*log, *((user, item, latest + at) for user in users for at, item in ((1, "i80"), (2, "i01")))])
    config = config_of(
        tiny,
        "none",
        variants={"id": {"items": "id"}, "markov": {"scorer": "markov"}},
        seeds=[1],
        train={"epochs": 12, "learning_rate": 0.03, "batch_size": 128},
    )
    compare(config, tmp_path / "out")
    for variant in ("id", "markov"):
        run = tmp_path / "out" / "runs" / f"{variant}-1"
        before = blair_rec.load(run)
        after = blair_rec.load(blair_rec.refit(run, tmp_path / variant))
        assert before.recommend([["i05", "i80"]], 1)[0][0].item_token != "i01"
        assert after.recommend([["i05", "i80"]], 1)[0][0].item_token == "i01", variant


def test_counts_are_those_of_the_whole_log(done: Path, tmp_path: Path) -> None:
    blair_rec.refit(done / "out", tmp_path / "refit", variant="popular")
    with (done / "tiny" / "tiny.inter").open(encoding="utf-8", newline="") as file:
        events = Counter(row["item_id:token"] for row in csv.DictReader(file, delimiter="\t"))
    tokens = json.loads((tmp_path / "refit" / "items.json").read_text())
    counts = dict(zip(tokens[1:], np.load(tmp_path / "refit" / "item_counts.npy")[1:].tolist(), strict=True))
    assert counts == events
    [found] = blair_rec.load(tmp_path / "refit").recommend([["i01"]], 79)
    assert dict(found) == {t: n for t, n in counts.items() if t != "i01"}


@pytest.mark.parametrize("variant", ["id", "text"])
def test_training_is_that_of_the_run_up_to_the_epoch_that_validation_chose(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    """On the training split alone a refit gives the very weights of the run, bit for bit."""
    monkeypatch.setattr(retraining, "whole_log", lambda splits: splits[0])
    run = done / "out" / "runs" / f"{variant}-2"
    blair_rec.refit(run, tmp_path / "refit")
    ours, theirs = load_file(tmp_path / "refit" / "model.safetensors"), load_file(run / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert result_of(tmp_path / "refit")["epochs"] == result_of(run)["selection"]["epoch"]


def test_the_learning_rate_takes_the_course_that_it_had(tmp_path: Path) -> None:
    """One epoch of a training of four along a cosine, by our loop that stops after it, is what a refit of one gives."""
    variants = {"id": {"items": "id", "train": {"schedule": "cosine", "epochs": 4, "batch_size": 128}}}
    config = config_of(tiny_at(tmp_path), "none", variants=variants, seeds=[1])
    data, _ = read_splits(config, tmp_path / "tiny")
    expected: Any = fit_variant(config, "id", 1, data, None, until=1).model
    setup = run_setup(config, "id", 1)
    result = {"variant": "id", "store_sha256": None, "setup": setup, "selection": {"epoch": 1}}
    again = retraining.fit_again(
        config, tmp_path / "id-1", result, data, None, tmp_path / "id-1.safetensors", lambda name, done, total: None
    )
    ours = again.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.state_dict().items())


def test_an_average_keeps_its_weights_and_all_seeds_are_averaged(done: Path, tmp_path: Path) -> None:
    blair_rec.refit(done / "out", tmp_path / "refit", variant="all")
    expected: dict[str, float] = {}
    for seed in (1, 2):
        for name, weight in result_of(done / "out" / "runs" / f"all-{seed}")["weights"].items():
            member = "rules-1" if name == "rules" else f"{name}-{seed}"  # nothing in it is drawn by lot
            expected[member] = expected.get(member, 0) + weight / 2
    expected = {name: weight for name, weight in expected.items() if weight}
    result = result_of(tmp_path / "refit")
    assert result["weights"] == pytest.approx(expected) and sum(result["weights"].values()) == pytest.approx(1)
    assert sorted(path.name for path in (tmp_path / "refit" / "members").iterdir()) == sorted(expected)
    shutil.move(tmp_path / "refit", tmp_path / "moved")
    loaded = load_model(tmp_path / "moved", store=next((done / "out" / "stores").iterdir()))
    assert isinstance(loaded.model, Ensemble)
    assert loaded.model.weights.tolist() == pytest.approx([expected[name] for name in result["setup"]["runs"]])


def test_seeds_can_be_named(done: Path, tmp_path: Path) -> None:
    blair_rec.refit(done / "out", tmp_path / "refit", variant="id", seeds=[2])
    result = result_of(tmp_path / "refit")
    assert (result["seed"], [source["name"] for source in result["source"]]) == (2, ["id-2"])
    with pytest.raises(ConfigError, match="id has no finished run with seed 3; finished: 1, 2"):
        blair_rec.refit(done / "out", tmp_path / "other", variant="id", seeds=[3])


def test_the_winner_is_that_of_validation_and_no_control(done: Path, tmp_path: Path) -> None:
    """By hand: the best mean of result.json's own validation values, whatever the test split says."""
    values = {
        variant: np.mean(
            [
                result_of(path)["valid"]["unmasked"]["NDCG@10"]
                for path in (done / "out" / "runs").glob(f"{variant}-[12]")
            ]
        )
        for variant in VARIANTS
        if variant != "shuffled"
    }
    assert choose(done / "out").variant == max(values, key=lambda variant: values[variant])
    shutil.copytree(done / "out", tmp_path / "out")
    for folder in (tmp_path / "out" / "runs").iterdir():
        result = result_of(folder)
        result["valid"]["unmasked"]["NDCG@10"] = {"shuffled": 0.9, "popular": 0.8}.get(result["variant"], 0.1)
        (folder / "result.json").write_text(json.dumps(result))
    assert choose(tmp_path / "out").variant == "popular"
    assert choose(tmp_path / "out", "shuffled").variant == "shuffled"


def test_the_result_says_what_it_is(done: Path, tmp_path: Path) -> None:
    run = done / "out" / "runs" / "id-1"
    blair_rec.refit(run, tmp_path / "refit")
    result, source = result_of(tmp_path / "refit"), result_of(run)
    assert result["refit"] is True and result["trained_on"] == "training, validation and test events"
    assert result["source"][0]["hashes"] == source["hashes"] and result["source"][0]["name"] == "id-1"
    assert (tmp_path / "refit" / result["source"][0]["run"]).resolve() == run.resolve()
    assert result["events"] == len(read_log(done / "tiny")) and "valid" not in result


def test_a_refit_is_never_ranked(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "out", tmp_path / "out")
    refit = blair_rec.refit(done / "out" / "runs" / "id-1", tmp_path / "refit")
    shutil.rmtree(tmp_path / "out" / "runs" / "id-1")
    shutil.copytree(refit, tmp_path / "out" / "runs" / "id-1")
    message = "id-1 is a refit: it was also trained on the test events, so it can't be ranked"
    with pytest.raises(RefitRun, match=message):
        load_runs(tmp_path / "out")
    with pytest.raises(RefitRun, match=message):
        blair_rec.leaderboard(tmp_path / "out")
    with pytest.raises(RefitRun, match="refit is a refit"):
        blair_rec.refit(refit, tmp_path / "again")
    with pytest.raises(OutputError, match="lies among the runs of a comparison"):
        blair_rec.refit(done / "out", tmp_path / "out" / "runs" / "best")


def test_nothing_but_a_refit_is_replaced(done: Path, tmp_path: Path) -> None:
    run = done / "out" / "runs" / "popular-1"
    shutil.copytree(run, tmp_path / "run")
    with pytest.raises(OutputError, match="that this command did not write"):
        blair_rec.refit(run, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="notes.txt"):
        blair_rec.refit(run, tmp_path / "mine")
    first = blair_rec.refit(run, tmp_path / "refit")
    assert blair_rec.refit(done / "out" / "runs" / "id-1", first) == first
    assert result_of(first)["variant"] == "id"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_an_interrupted_refit_goes_on_with_the_epoch_that_it_was_in(done: Path, tmp_path: Path) -> None:
    run = done / "out" / "runs" / "id-1"
    whole = blair_rec.refit(run, tmp_path / "whole")
    epochs = result_of(whole)["epochs"]
    assert epochs >= 1
    calls: list[int] = []

    def interrupt(name: str, done: int, total: int) -> None:
        calls.append(done)
        if done > total * (epochs - 1) // epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blair_rec.refit(run, tmp_path / "cut", progress=interrupt)
    assert not (tmp_path / "cut").exists()
    begun: list[int] = []
    blair_rec.refit(run, tmp_path / "cut", progress=lambda name, done, total: begun.append(done))
    assert begun[0] == max(calls), "the last epoch begins anew, and none before it"
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_changed_data_are_told(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "out", tmp_path / "out")
    shutil.copytree(done / "tiny", tmp_path / "tiny")
    config = (tmp_path / "out" / "config.yaml").read_text()
    config = config.replace(f"dataset: {done / 'tiny'}\n", f"dataset: {tmp_path / 'tiny'}\n")
    (tmp_path / "out" / "config.yaml").write_text(config)
    with (tmp_path / "tiny" / "tiny.inter").open("a") as file:
        file.write("u001\ti01\t99999999999\n")
    with pytest.raises(ChangedRuns, match="different settings, data or code: the data set's files"):
        blair_rec.refit(tmp_path / "out", tmp_path / "refit", variant="popular")


def test_the_command_refits_and_says_what_can_not_be(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["refit", str(done / "out"), "-o", "refit", "--variant", "popular"]) == 0
    assert "the refit is in refit" in capsys.readouterr().err and refitting.is_refit(tmp_path / "refit")
    for arguments, message in (
        ([str(done / "out"), "--seeds", "one"], "--seeds: 'one' is no whole number"),
        ([str(done / "out"), "--variant", "no"], "no finished run of a variant 'no'; finished: all, id"),
        ([str(done / "out" / "runs" / "id-1"), "--seeds", "1"], "id-1 is one run; give the folder of its comparison"),
        ([str(done)], "give the folder of a comparison"),
    ):
        assert main(["refit", *arguments, "-o", "other"]) == 1
        assert message in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([1, 1], r"seeds are \[1, 1\]; give at least one, and each once"),
        ([], r"seeds are \[\]; give at least one"),
        (["1"], "a seed is '1'; give a whole number"),
        ("1", "a seed is '1'; give a whole number"),
        ([None], "a seed is None; give a whole number"),
    ],
)
def test_seeds_that_can_not_be_meant_are_refused(done: Path, tmp_path: Path, seeds: Any, message: str) -> None:
    for variant in ("id", "rules"):
        with pytest.raises(ConfigError, match=message):
            blair_rec.refit(done / "out", tmp_path / "refit", variant=variant, seeds=seeds)
    assert not (tmp_path / "refit").exists()


def test_damaged_titles_are_not_passed_on(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "out", tmp_path / "out")
    (tmp_path / "out" / "item_cards.json").write_bytes(b"\xff\x00")
    with pytest.raises(BadItemCards, match="item_cards.json"):
        blair_rec.refit(tmp_path / "out", tmp_path / "refit", variant="rules")
    assert not (tmp_path / "refit").exists()
