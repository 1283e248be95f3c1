"""Benchmarks that set ours beside a peer that is not installed here: what they give it, and their own half."""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from worlds import read_log

ROOT = Path(__file__).parent.parent


@pytest.fixture
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])


def test_every_benchmark_can_be_imported() -> None:
    folder = ROOT / "benchmarks"
    names = ", ".join(path.stem for path in folder.glob("*.py"))
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import {names}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("_benchmarks")
def test_the_peer_gets_all_events_in_our_order_and_our_half_runs(tmp_path: Path) -> None:
    import against_rectools

    tiny = ROOT / "datasets" / "tiny"
    against_rectools.write_events(str(tiny), tmp_path / "events.csv")
    with (tmp_path / "events.csv").open(encoding="utf-8", newline="") as file:
        events = [(int(row["user"]), int(row["item"]), int(row["order"])) for row in csv.DictReader(file)]
    log = read_log(tiny)
    users, items = (
        {name: number for number, name in enumerate(dict.fromkeys(event[at] for event in log), 1)} for at in (0, 1)
    )  # RecBole numbers names by where they first stand
    of_user = {user: [item for who, item, _ in sorted(log, key=lambda e: e[2]) if who == user] for user in users}
    assert events == [
        (users[user], items[item], order) for user, taken in of_user.items() for order, item in enumerate(taken)
    ]

    also = ["train.epochs=2", "train.stride=10"]
    record = against_rectools.train_ours(str(tiny), (1,), tmp_path / "ours", also)
    assert len(record) == 1 and len(record[0]["curve"]) == 2
    assert 0 < record[0]["best"]["test"]["unmasked"] <= record[0]["best"]["test"]["masked"] <= 1
    page = {"dataset": "tiny", "date": "today", "git_commit": None, "minutes": 1, "rectools": [], "ours": record}
    made = {"machine": "m", "threads": 1, "blair_rec": "0", "torch": "2", "numpy": "2", "python": "3"}
    assert "| blair_rec, id | 0.5 | 1 | 2 |" in against_rectools.to_markdown(
        {**page, "settings_of_ours": also, "provenance": made}
    )


@pytest.mark.usefixtures("_benchmarks")
def test_recboles_tests_are_run_and_what_fails_is_told_by_its_reason(tmp_path: Path) -> None:
    import recbole_tests

    tests = tmp_path / "checkout" / "tests"
    (tests / "model").mkdir(parents=True)
    (tests / "model" / "test_model.yaml").write_text("epochs: 1", "utf-8")
    lines = [
        "import sys, recbole, pytest, yaml",
        "def test_right(): assert 'blair_rec.recbole' in sys.modules and 'checkout' not in recbole.__file__",
        "settings = yaml.safe_load(open('tests/model/test_model.yaml'))",
        "def test_short(): assert settings == {'epochs': 1, 'pretrain_epochs': 1}",
        "def test_wrong(): import no_such_package",
        "def test_wrong_too(): import no_such_package",
        "def test_left_out(): pytest.skip('today')",
    ]
    (tests / "test_one.py").write_text("\n".join(lines), "utf-8")
    (tmp_path / "checkout" / "recbole").mkdir()
    found = recbole_tests.run_tests(tmp_path / "checkout", ["-p", "no:cacheprovider"])
    missing = "failure: ModuleNotFoundError: No module named 'no_such_package'"
    assert (found["tests"], found["passed"]) == (5, 2)
    assert {reason: [name.rpartition("::")[2] for name in names] for reason, names in found["others"].items()} == {
        missing: ["test_wrong", "test_wrong_too"],
        "skipped: today": ["test_left_out"],
    }
    page = "\n".join(recbole_tests.to_page(found))
    assert f"| {missing} | 2 | `test_wrong`, `test_wrong_too` |" in page and "2 of 5 pass" in page


@pytest.mark.usefixtures("_benchmarks")
def test_the_short_form_of_batch_recommendations_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import recommend

    monkeypatch.setattr(recommend, "CHECKED", 30)
    run = recommend.write_run(tmp_path / "run", 300)
    events = recommend.write_events(tmp_path / "events.parquet", 50, 300, 400)
    found = recommend.recommend(run, events, tmp_path / "best.parquet", 7)
    assert (found["users"], found["rows"]) == (50, 350)
    assert recommend.agreement(run, events, tmp_path / "best.parquet", 7) == 1
    table = pq.read_table(tmp_path / "best.parquet").to_pydict()
    table["item_id"][0] = next(f"i{n}" for n in range(300) if f"i{n}" not in table["item_id"][:7])
    pq.write_table(pa.table(table), tmp_path / "wrong.parquet")
    assert recommend.agreement(run, events, tmp_path / "wrong.parquet", 7) < 1
    options = argparse.Namespace(users=50, items=300, events=400, rounds=1, k=7)
    page = "\n".join(recommend.to_page({"recommend": [found]}, options, 1.0))
    assert "50 users, 300 items, the best 7" in page and "| 100.0% of 30 users |" in page


@pytest.mark.usefixtures("_benchmarks")
def test_both_ways_of_new_items_are_read_run_and_written_down(tmp_path: Path) -> None:
    import new_items

    from blair_rec.config.comparison import load_config

    read = {way: load_config(new_items.CONFIG, new_items.WAYS[way]) for way in new_items.WAYS}
    assert {way: config.evaluate.new_items for way, config in read.items()} == {
        "hidden": 0.05,
        "cutoff": "after_cutoff",
    }
    plain = [
        "variants={popularity: {scorer: popularity}, markov: {scorer: markov}}",
        "baseline=popularity",
        "seeds=[1]",
    ]
    board = new_items.compared("hidden", str(ROOT / "datasets" / "tiny"), tmp_path, plain)
    assert (board["new_items"]["items"], board["candidates"]) == (4, 76)
    page = new_items.to_page("tiny", {"hidden": board}, plain)
    row = next(line for line in page if line.startswith("| markov"))
    assert row.startswith("| markov | can't score new items |  |  |  | 0.")
    assert any(line.startswith("| popularity | 0.0000 | 0.0000 | 0.") for line in page)


@pytest.mark.usefixtures("_benchmarks")
def test_backbones_get_the_same_trials_and_the_best_on_validation_is_compared(tmp_path: Path) -> None:
    import backbones

    from blair_rec.config.comparison import load_config
    from blair_rec.experiment.compare import compare

    tiny = str(ROOT / "datasets" / "tiny")
    small = ["train.epochs=1", "recbole.hidden_size=8", "recbole.inner_size=8", "recbole.n_layers=1"]
    backbones.write(tmp_path / "text.yaml", backbones.plan(tiny, str(tmp_path / "store"), 8))
    planned = backbones.read(tmp_path / "text.yaml")["variants"].values()
    tried = [
        [(v["train"], v["recbole"]) for v in planned if (v["model"], v["items"]) == (model, items)]
        for items in ("id", "text_delta")
        for model in ("SASRec", "eSASRec")
    ]
    assert len(tried[0]) == 8 and tried[0] == tried[1] and tried[2] == tried[3] and tried[0] != tried[2]
    backbones.write(tmp_path / "trials.yaml", backbones.plan(tiny, None, 2), small)
    trials = load_config(tmp_path / "trials.yaml")
    assert trials.train.epochs == 1 and set(trials.variants) == {
        "sasrec_id_1",
        "sasrec_id_2",
        "esasrec_id_1",
        "esasrec_id_2",
    }
    compare(trials.only(["sasrec_id_1", "sasrec_id_2", "esasrec_id_1"]), tmp_path / "trials")
    with pytest.raises(SystemExit, match="trials lacks 1 trial: esasrec_id_2; finish it first"):
        backbones.choose(tmp_path)
    compare(trials, tmp_path / "trials")
    values = backbones.trial_values(backbones.read(tmp_path / "trials.yaml"), tmp_path)
    final = backbones.choose(tmp_path)
    for group in ("sasrec_id", "esasrec_id"):
        best = max((f"{group}_1", f"{group}_2"), key=values.__getitem__)
        assert final["variants"][group] == {**backbones.read(tmp_path / "trials.yaml")["variants"][best], "trials": 2}
    backbones.write(tmp_path / "final.yaml", final | {"seeds": [1, 2]}, ["train.epochs=2"])
    compare(load_config(tmp_path / "final.yaml"), tmp_path / "final")
    read = backbones.read(tmp_path / "final.yaml")
    boards = backbones.results(read, tmp_path)
    page = "\n".join(backbones.to_page("tiny", read, boards, 1))
    assert "SASRec and eSASRec, 2 trials each" in page and "at most 1 epoch each" in page and "2 epochs. Sizes" in page
    assert "| sasrec_id | SASRec | 0." in page and "| esasrec_id | eSASRec | 0." in page and "texts by" not in page
    boards["id"]["rows"][0] |= {"encoder": {"name": "mine", "revision": "r1"}, "store_sha256": "0123456789abcdef"}
    assert backbones.to_page("tiny", read, boards, 1)[-1].endswith("; texts by mine (r1), vectors 0123456789ab.")


@pytest.mark.usefixtures("_benchmarks")
def test_the_page_of_a_small_gpu_run_says_that_it_is_no_measurement_and_names_its_sizes() -> None:
    import gpu_page

    seconds = {"padded, scores at every slot": 0.4, "ours, float32": 0.1}
    alone = {"products alone, bfloat16": {"seconds": 0.002}, "ours, bfloat16": {"seconds": 0.003}}
    parts: dict[str, dict[str, object]] = {
        "epoch": {"seconds": seconds, "data": "random, tiny"},
        "softmax": {"rows": alone, "targets": 64, "items": 200},
        "ranking": {"users": 300, "items": 200, "seconds": 1.0, "threads": 2, "seconds of the CPU for all users": 3.0},
    }
    for part in parts.values():
        part |= {"date": "2026-11-27", "git_commit": "abc"}
    record = {"device": "cpu", "cores": 2, "versions": {"torch": "2"}, "small": True, "parts": parts}
    page = gpu_page.to_markdown(record)
    assert page.startswith("# Tiny sizes, to try the script: no measurement\n")
    assert "an epoch of `id` (random, tiny): ours, float32 | 0.100 s, 4.0x" in page
    assert "softmax of 64 targets over 200 items: ours, bfloat16 | 3 ms, 1.50x" in page
    assert "| 300 users, 200 items, top-20 | 1.0 s, 3x the CPU with 2 threads |" in page
    assert gpu_page.to_markdown({**record, "small": False}).startswith("# On a GPU\n")


@pytest.mark.usefixtures("_benchmarks")
@pytest.mark.parametrize("gpu", ["NVIDIA H100 80GB HBM3", None])
def test_a_record_names_the_gpu_if_there_is_one(
    gpu: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import side_by_side

    monkeypatch.setattr(side_by_side, "RESULTS", tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu is not None)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *device: gpu)
    side_by_side.write_record("tried", {}, {}, ["# Title"])
    made = json.loads((tmp_path / "tried.json").read_text("utf-8"))["provenance"]
    assert made["gpu"] == gpu
    page, machine = (tmp_path / "tried.md").read_text("utf-8"), made["machine"]
    assert (f"{machine}, {gpu}, " in page) if gpu else (f"{machine}, {made['threads']} threads" in page)
