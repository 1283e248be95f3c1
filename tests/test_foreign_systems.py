"""benchmarks/foreign: what other systems read and write, with a stand-in for them, and the board with their lists."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import math
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import read_log

import blair_rec
from blair_rec.cli import main
from blair_rec.config.comparison import load_config
from blair_rec.evaluate.runs.results import load_run

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "foreign"
BOARD = FOLDER / "board.yaml"
PLAIN = {"variants": {"popularity": {"scorer": "popularity"}}, "baseline": "popularity", "seeds": [1]}


@pytest.fixture(autouse=True)
def _foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(FOLDER)])


def module(name: str) -> Any:
    return importlib.import_module(name)


def write_config(**sections: Any) -> Path:
    path = Path("foreign.yaml")
    path.write_text(json.dumps({**PLAIN, **sections}), "utf-8")  # which is YAML, too
    return path


def split_of(**sections: Any) -> Any:
    main(["split", str(write_config(**sections)), "-o", "split"])
    return module("split_files").read_split(Path("split"))


def test_every_script_can_be_imported_without_the_systems() -> None:
    for path in FOLDER.glob("*.py"):
        module(path.stem)


def test_training_events_histories_and_targets_are_those_of_the_log(tiny: Path) -> None:
    split = split_of(dataset=str(tiny))
    of_user: dict[str, list[str]] = {}
    for user, item, _ in sorted(read_log(tiny), key=lambda event: event[2]):
        of_user.setdefault(user, []).append(item)
    named = [[split.items[item] for item in sequence] for sequence in split.train]
    assert sorted(named) == sorted(items[:-2] for items in of_user.values())
    for cases, end in ((split.valid, -2), (split.test, -1)):
        assert cases.key == "user_id" and sorted(cases.names) == sorted(of_user)
        for user, history, target in zip(cases.names, cases.histories, cases.targets, strict=True):
            assert [split.items[item] for item in history] == of_user[user][:end]
            assert split.items[target] == of_user[user][end]


def test_a_case_of_cut_off_times_has_a_name_and_a_target_of_its_own(tiny: Path) -> None:
    times = sorted(time for _, _, time in read_log(tiny))
    split = split_of(dataset=str(tiny), split={"valid_from": times[-300], "test_from": times[-150]})
    with Path("split/test.csv").open(encoding="utf-8", newline="") as file:
        expected = {row["case_id"]: row["item_id"] for row in csv.DictReader(file)}
    found = zip(split.test.names, split.test.targets, strict=True)
    assert split.test.key == "case_id" and {name: split.items[target] for name, target in found} == expected


def test_a_folder_without_a_manifest_is_refused_with_the_command() -> None:
    with pytest.raises(SystemExit, match=r"nothing has no manifest.json; write a split with `blair-rec split CONFIG"):
        module("split_files").read_split(Path("nothing"))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.booleans())
@settings(max_examples=20)
def test_best_items_and_ndcg_are_those_of_a_full_sort(seed: int, k: int, masked: bool) -> None:
    files = module("split_files")
    random = np.random.default_rng(seed)
    scores = random.permuted(np.tile(np.arange(10.0), (4, 1)), axis=1)
    scores[0, :3] = -np.inf
    histories = [random.choice(10, 4, replace=False).tolist() for _ in range(4)] if masked else None
    ids, values = files.best_of(scores, histories, k)
    targets, expected = random.integers(0, 10, 4), 0.0
    for row in range(4):
        candidates = [item for item in range(10) if scores[row, item] > -np.inf]
        candidates = [item for item in candidates if not (histories and item in histories[row])]
        best = sorted(candidates, key=lambda item: -scores[row, item])[:k]
        filled = ids[row] != files.ABSENT
        assert ids[row][filled].tolist() == best and values[row][filled].tolist() == scores[row, best].tolist()
        if targets[row] in best:
            expected += 1 / math.log2(best.index(targets[row]) + 2)
    assert files.ndcg(ids, targets) == pytest.approx(expected / 4)


def test_lists_of_a_stand_in_that_counts_give_the_figures_of_our_popularity(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = module("split_files")
    monkeypatch.setattr(files, "LENGTH", 80)  # all items, so that no tie is cut
    split = split_of(dataset=str(tiny))
    counts = Counter(item for sequence in split.train for item in sequence)
    scores = np.array([counts[item] for item in range(len(split.items))])

    def rank(cases: Any, masked: bool, k: int) -> Any:
        return files.best_of(np.tile(scores, (len(cases.names), 1)), cases.histories if masked else None, k)

    files.write_lists(rank, split, Path("lists"), "counted")
    keys = {"from": "", "from_masked": ".masked", "from_valid": ".valid", "from_valid_masked": ".valid.masked"}
    counted = {**{key: f"lists/counted{name}.csv" for key, name in keys.items()}, "label": "Counted"}
    config = write_config(dataset=str(tiny), variants={**PLAIN["variants"], "counted": counted})  # type: ignore[dict-item]
    board = blair_rec.compare(config, "runs")
    assert board is not None
    by_name = {row.variant: row for row in board.rows}
    for protocol in ("masked", "unmasked"):
        for metric in ("NDCG@10", "Recall@10"):
            ours, theirs = (by_name[name].metrics[protocol][metric].mean for name in ("popularity", "counted"))
            assert 0 < ours == theirs, (protocol, metric)
    of_validation = [load_run(Path("runs/runs") / name).valid for name in ("popularity-1", "counted-1")]
    assert of_validation[0] == of_validation[1]
    assert not list(Path("lists").glob("*.partial"))
    assert 0 < files.validate(rank, split) < 1


def test_an_item_by_item_matrix_ranks_the_summed_rows_of_a_history() -> None:
    linear, files = module("linear"), module("split_files")
    weights = np.array([[0, 3, 1, 0], [3, 0, 2, 0], [1, 2, 0, 0], [0, 0, 0, 0]], dtype=np.float64)
    cases = files.Cases("user_id", ["a", "b"], [[0, 1], [2]], np.array([2, 0]))
    sparse = linear.csr_matrix(weights)
    for matrix in (weights, sparse):
        ids, _ = linear.ranking(matrix, cases, False, 3)
        assert ids[0].tolist() in ([0, 1, 2], [1, 0, 2], [2, 0, 1], [2, 1, 0]) and ids[1].tolist() == [
            1,
            0,
            files.ABSENT,
        ]
        ids, values = linear.ranking(matrix, cases, True, 3)
        assert ids.tolist() == [[2, files.ABSENT, files.ABSENT], [1, 0, files.ABSENT]] and values[0, 0] == 3


@pytest.mark.parametrize(
    "figures, minutes, patience, ended_by, rising",
    [
        ([0.1, 0.2, 0.3], 0, None, "minutes", True),
        ([0.3, 0.2, 0.1, 0.1], 0, None, "minutes", False),
        ([0.3, 0.2, 0.1], 60, 2, "patience", False),
        ([0.1, 0.2, 0.3], 60, 2, "epochs", False),
    ],
)
def test_a_course_says_what_ended_it_and_whether_validation_rose(
    figures: list[float], minutes: float, patience: int | None, ended_by: str, rising: bool
) -> None:
    course = module("course").Course(minutes, patience)
    best = [course.add(epoch, figure) for epoch, figure in enumerate(figures, start=1)]
    assert best == [
        figure == max(figures[: place + 1]) and figure not in figures[:place] for place, figure in enumerate(figures)
    ]
    record = course.record()
    assert (record["ended_by"], record["still_rising"]) == (ended_by, rising)
    assert course.is_over() == (ended_by != "epochs")
    assert record["best"]["valid"] == max(figures) and [point["valid"] for point in record["curve"]] == figures


def test_the_board_names_every_system_its_lists_and_what_was_tried() -> None:
    config, systems = load_config(BOARD), module("run_systems").SYSTEMS
    foreign = {name: variant for name, variant in config.variants.items() if variant.is_elsewhere}
    assert foreign.keys() == systems.keys()
    for name, variant in foreign.items():
        assert variant.elsewhere_of(1) == {"from": f"lists/{name}.csv", "from_masked": f"lists/{name}.masked.csv"}
    linear = module("linear")
    tried = {"rectools_ease": len(linear.REGULARISATION)}
    tried["implicit_knn"] = len(linear.NEIGHBOURS) * len(linear.WEIGHTINGS)
    assert {name: variant.trials for name, variant in foreign.items()} == {name: tried.get(name, 1) for name in systems}


def test_our_variants_on_the_board_have_the_settings_of_beauty() -> None:
    board, beauty = load_config(BOARD), load_config(ROOT / "configs" / "beauty.yaml")
    assert (board.text, board.train, board.recbole, board.evaluate) == (
        beauty.text,
        beauty.train,
        beauty.recbole,
        beauty.evaluate,
    )
    for name in ("id", "sequential_rules", "recent_history"):
        assert board.variants[name] == beauty.variants[name]


def test_every_system_has_a_script_and_an_environment_with_pinned_packages() -> None:
    kinds = module("make_environments").KINDS
    for environment, script in module("run_systems").SYSTEMS.values():
        assert environment in kinds and (FOLDER / script).is_file()
    for kind in kinds:
        lines = (FOLDER / "requirements" / f"{kind}.txt").read_text("utf-8").splitlines()
        packages = [line for line in lines if not line.startswith("#")]
        assert all("==" in line or line == "setuptools<81" for line in packages), kind


def test_an_environment_sees_the_linked_pytorch_and_nothing_else(tmp_path: Path) -> None:
    packages, site = tmp_path / "packages", tmp_path / "environment" / "lib" / "python3.11" / "site-packages"
    for name in ("torch", "torch-2.13.0.dist-info", "torchgen", "pandas"):
        (packages / name).mkdir(parents=True)
    site.mkdir(parents=True)
    make = module("make_environments")
    for _ in range(2):  # again, which changes nothing
        make.link_torch(packages, tmp_path / "links", tmp_path / "environment")
    assert sorted(path.name for path in (tmp_path / "links").iterdir()) == [
        "torch",
        "torch-2.13.0.dist-info",
        "torchgen",
    ]
    assert (site / "torch.pth").read_text("utf-8") == f"{tmp_path / 'links'}\n"
    with pytest.raises(SystemExit, match="has no torch; give the site-packages folder"):
        make.link_torch(tmp_path, tmp_path / "links", tmp_path / "environment")


def test_systems_run_once_and_one_that_fails_is_named(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    split_of(dataset=str(tiny))
    for kind, script in {"implicit": 'touch lists/implicit_knn.json; echo "$@"', "recbole": "exit 3"}.items():
        python = Path("environments") / kind / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        python.chmod(0o755)
    run = module("run_systems")
    command = ["run_systems", "split", "-o", "lists", "--environments", "environments", "--minutes", "2"]
    command += ["--systems", "implicit_knn,recbole_sasrec"]
    monkeypatch.setattr(sys, "argv", command)
    for first in (True, False):
        with pytest.raises(SystemExit, match=r"1 of 2 systems failed \(recbole_sasrec\); see their logs"):
            run.main()
        assert ("implicit_knn: is there already" in capsys.readouterr().out) != first
    assert "linear.py split -o lists --system implicit_knn" in Path("lists/implicit_knn.log").read_text("utf-8")
    assert Path("lists/manifest.json").read_bytes() == Path("split/manifest.json").read_bytes()


def test_the_page_says_minutes_epochs_and_which_trainings_still_rose(tiny: Path) -> None:
    sections = {"variants": {"id": {}, "other": {"from": "lists/other.csv", "label": "Other"}}, "baseline": "id"}
    split = split_of(dataset=str(tiny))
    files, page = module("split_files"), module("record_page")
    files.write_lists(
        lambda cases, masked, k: files.best_of(np.ones((len(cases.names), 80)).cumsum(1), None, k),
        split,
        Path("lists"),
        "other",
    )
    course = module("course").Course(0)
    course.add(0.5, 0.01)
    record = {"seed": 1, "device": "cpu", "trials": 1, **course.record()}
    record["difference_from_stock"] = {"loss": 0.0, "gradients": 3.7e-7}
    module("course").write_record(Path("lists"), "other", (), record)
    config = write_config(dataset=str(tiny), train={"epochs": 3, "patience": 0, "learning_rate": 0.5}, **sections)
    blair_rec.compare(config, "board")
    board = json.loads(Path("board/leaderboard.json").read_text("utf-8"))
    records = page.read_records(Path(), board)
    assert records.keys() == {"id", "other"} and records["id"]["epochs"] <= 3
    assert records["id"]["ended_by"] == {3: "epochs"}.get(records["id"]["epochs"], "patience")
    board["notes"].append("weights of second: id 0.6, other 0.4 (chosen on validation)")
    text = "\n".join(page.to_page("tiny", board, records))
    assert "\n- second: id 0.6, other 0.4 (chosen on validation)\n" in text
    assert "differs from that of unchanged RecTools by 0e+00 of it, the gradients by 4e-07 of the largest one" in text
    assert "| Other | 0." in text and "limited to 0 minutes (cpu)" in text
    row = next(line for line in text.splitlines() if line.startswith("| other |"))
    assert row.startswith("| other | 0.0 | ") and row.endswith("| 0.5 | 0.5 | 0.0100 | the limit | yes | 1 |")
    assert "trainings ended while validation still rose: " in text and "other" in text.split("still rose: ")[1]


def test_text_vectors_go_to_items_by_their_ids_and_missing_ones_are_zeros(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.array([[1, 2], [3, 4]], dtype=np.float16))
    (tmp_path / "text.ids.json").write_text('["b", "a"]', "utf-8")
    found = module("recbole_sequential").text_of(tmp_path / "text.npy", ["[PAD]", "a", "b", "c"])
    assert found.dtype == np.float32 and found.tolist() == [[0, 0], [3, 4], [1, 2], [0, 0]]


def test_logits_without_padding_are_those_of_every_position_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    base = types.ModuleType("similarity")
    base.DistanceSimilarityModule = torch.nn.Module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rectools", types.ModuleType("rectools"))
    monkeypatch.setitem(sys.modules, "rectools.models.nn.transformers.similarity", base)
    generator = torch.Generator().manual_seed(1)
    sessions, items = (torch.randn(size, generator=generator) for size in ((3, 4, 5), (7, 5)))
    candidates = torch.randint(1, 7, (3, 4, 6), generator=generator)
    candidates[0, :3, 0] = candidates[1, 0, 0] = 0
    logits = module("rectools_sequential").without_padding()()._get_pos_neg_logits(sessions, items, candidates)
    for row, place in itertools.product(range(3), range(4)):
        expected = items[candidates[row, place]] @ sessions[row, place] * (candidates[row, place, 0] != 0)
        torch.testing.assert_close(logits[row, place], expected)
