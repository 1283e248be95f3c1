"""Runs of other systems: ranked, shown, averaged and checked as our own runs are."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import Recorder, config_of

import blair_rec
from blair_rec.errors import ChangedRuns, CheckpointError, ConfigError, OutputError, SourceError
from blair_rec.evaluate.leaderboard import Leaderboard, Row
from blair_rec.evaluate.runs.results import load_run
from blair_rec.experiment.compare import compare
from blair_rec.experiment.elsewhere.cases import Cases, cases_of
from blair_rec.experiment.elsewhere.written.export import export_lists
from blair_rec.experiment.elsewhere.written.split import write_split
from blair_rec.experiment.loading import load_model
from blair_rec.experiment.run import Data, whole_data
from blair_rec.ranking.scoring import rank

METRICS = ["NDCG@10", "Recall@20", "MRR@20"]
BOTH = (("from", "unmasked"), ("from_masked", "masked"))
OWN: dict[str, dict[str, Any]] = {"id": {"items": "id"}, "rules": {"scorer": "sequential_rules"}}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/tiny and a finished comparison of `id`, trained, and of rules in out/; no test changes it."""
    folder = tmp_path_factory.mktemp("ours")
    shutil.copytree(Path(__file__).parents[2] / "datasets" / "tiny", folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["pytest"])
        compare(own_config(folder), folder / "out")
    return folder


def own_config(folder: Path, **variants: dict[str, Any]) -> Any:
    return config_of(
        folder / "tiny",
        "none",
        text={},
        baseline="id",
        variants={**OWN, **variants},
        train={"epochs": 1},
        evaluate={"metrics": METRICS, "protocol": "masked"},
    )


def row_of(board: Leaderboard | None, variant: str) -> Row:
    assert board is not None
    return next(row for row in board.rows if row.variant == variant)


def numbers(row: Row) -> dict[str, Any]:
    """Everything on the board that the recommendations decide, without the differences to the baseline."""
    found = {name: value for name, value in asdict(row).items() if name in ("metrics", "slices", "top_lists", "seeds")}
    for metrics in (found["metrics"], *(part["metrics"] for part in found["slices"].values())):
        for of_protocol in metrics.values():
            for summary in of_protocol.values():
                del summary["versus_baseline"]
    return found


def differences(row: Row) -> list[Any]:
    """The differences to the baseline; their intervals are sums whose order depends on the number of variants."""
    found: list[Any] = []
    for metrics in (row.metrics, *(part.metrics for part in row.slices.values())):
        for of_protocol in metrics.values():
            for summary in of_protocol.values():
                versus = asdict(summary.versus_baseline) if summary.versus_baseline else {}
                found += [
                    part for value in versus.values() for part in (value if isinstance(value, tuple) else [value])
                ]
    return found


@pytest.mark.parametrize("kind", ["parquet", "trec", "csv"])
def test_own_lists_exported_and_read_back_give_the_own_row_exactly(ours: Path, kind: str, tmp_path: Path) -> None:
    shutil.copytree(ours / "out", tmp_path / "out")
    assert set(export_lists(tmp_path / "out", kind).values()) == {0}  # no ties across the end of a list
    lists = tmp_path / "out" / "lists"
    files = {key: {seed: str(lists / f"id-{seed}.{protocol}.{kind}") for seed in (1, 2)} for key, protocol in BOTH}
    rules = {"from": str(lists / f"rules-1.unmasked.{kind}"), "from_masked": str(lists / f"rules-1.masked.{kind}")}
    config = own_config(ours, id_again={**files, "label": "Ours", "trials": 3}, rules_again=rules)
    board = compare(config, tmp_path / "out")
    assert numbers(row_of(board, "rules_again")) == numbers(row_of(board, "rules"))
    assert numbers(row_of(board, "id_again")) == numbers(row_of(board, "id"))
    expected = [
        pytest.approx(one, rel=1e-9) if isinstance(one, float) else one for one in differences(row_of(board, "rules"))
    ]
    assert differences(row_of(board, "rules_again")) == expected
    assert row_of(board, "id_again").trials == 3


def test_lists_that_cannot_be_written_have_a_cure_without_o(ours: Path, tmp_path: Path) -> None:
    shutil.copytree(ours / "out", tmp_path / "out")
    (tmp_path / "out" / "lists" / ".lock").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"lists can't be locked \(.*\); make the folder writable, or copy the"):
        export_lists(tmp_path / "out", "csv")


def test_the_board_says_that_it_was_trained_elsewhere_and_keeps_its_label(ours: Path, tmp_path: Path) -> None:
    shutil.copytree(ours / "out", tmp_path / "out")
    export_lists(tmp_path / "out", "csv")
    lists = {key: str(tmp_path / "out" / "lists" / f"rules-1.{protocol}.csv") for key, protocol in BOTH}
    variants: dict[str, Any] = {"hstu": {**lists, "label": "HSTU (RecTools)"}}
    recorder = Recorder()
    compare(own_config(ours, **variants), tmp_path / "out", listener=recorder, variants=["hstu"])
    row = row_of(blair_rec.leaderboard(tmp_path / "out"), "hstu")
    assert (row.items, row.model, row.elsewhere, row.training_free) == (
        "trained elsewhere",
        "HSTU (RecTools)",
        True,
        False,
    )
    page = (tmp_path / "out" / "leaderboard.md").read_text("utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("| hstu: HSTU") and "unknown" in line][:1]
    assert "hstu: HSTU (RecTools), trained elsewhere | trained elsewhere" in line
    assert line.count("unknown") == 3  # parameters, seconds, memory
    html = (tmp_path / "out" / "leaderboard.html").read_text("utf-8")
    assert "HSTU (RecTools), trained elsewhere" in html
    with (tmp_path / "out" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        costs = {
            (line["trained_parameters"], line["train_seconds"])
            for line in csv.DictReader(file)
            if line["variant"] == "hstu"
        }
    assert costs == {("", "")}
    assert recorder.started_runs == ["hstu-1"]  # one file is valid for both seeds


def write(path: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("user_id", "item_id", "rank")) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def data(ours: Path) -> Data:
    return whole_data(own_config(ours), ours / "tiny")


def some_lists(data: Data, k: int) -> list[tuple[str, str, int]]:
    """Lists of k different items, the same for every user, with the target of every third user in front."""
    cases, rows = cases_of(data.test, "test"), []
    for place, user in enumerate(cases.names):
        items = list(range(1, k + 1))
        if place % 3 == 0:
            items = [cases.target[place], *(item for item in items if item != cases.target[place])][:k]
        rows += [(user, cases.item_tokens[item], n) for n, item in enumerate(items, start=1)]
    return rows


def test_a_changed_file_makes_its_run_invalid_and_a_moved_one_does_not(ours: Path, data: Data, tmp_path: Path) -> None:
    shutil.copytree(ours / "out", tmp_path / "out")
    file = write(tmp_path / "a.csv", some_lists(data, 60))
    config = own_config(ours, other={"from": file})
    compare(config, tmp_path / "out")
    result = json.loads((tmp_path / "out" / "runs" / "other-1" / "result.json").read_text("utf-8"))
    assert result["from"]["from"]["file"] == file and len(result["from"]["from"]["sha256"]) == 64
    moved = Path(file).rename(tmp_path / "b.csv")
    recorder = Recorder()
    compare(own_config(ours, other={"from": str(moved)}), tmp_path / "out", listener=recorder)
    assert recorder.started_runs == []
    write(moved, some_lists(data, 61))
    with pytest.raises(ChangedRuns, match="the files of the other system"):
        compare(own_config(ours, other={"from": str(moved)}), tmp_path / "out")
    moved.unlink()  # what is gone has not changed
    compare(own_config(ours, other={"from": str(moved)}), tmp_path / "out", listener=recorder)
    assert recorder.started_runs == []


def test_a_missing_or_wrong_file_stops_the_comparison_before_anything_is_trained(
    ours: Path, data: Data, tmp_path: Path
) -> None:
    recorder, rows = Recorder(), some_lists(data, 30)
    with pytest.raises(SourceError, match="gone.csv is not there"):
        compare(own_config(ours, other={"from": "gone.csv"}), tmp_path / "out", listener=recorder)
    file = write(tmp_path / "a.csv", [("nobody", rows[0][1], 1), *rows])
    with pytest.raises(SourceError, match="1 user that the data set doesn't have"):
        compare(own_config(ours, other={"from": file}), tmp_path / "out", listener=recorder)
    short = write(tmp_path / "b.csv", [row for row in rows if row[2] <= 10])
    with pytest.raises(SourceError, match="need lists of 20 items.*the longest has 10"):
        compare(own_config(ours, other={"from": short}), tmp_path / "out", listener=recorder)
    assert recorder.started_runs == []


def test_lists_beside_the_manifest_of_another_split_are_refused(ours: Path, data: Data, tmp_path: Path) -> None:
    config = own_config(ours)
    write_split(config, tmp_path / "same")
    rows = some_lists(data, 60)
    compare(
        own_config(ours, other={"from": write(tmp_path / "same" / "a.csv", rows)}),
        tmp_path / "out",
        variants=["other", "id"],
        seeds=[1],
    )
    header, *events = [line.split("\t") for line in (ours / "tiny" / "tiny.inter").read_text("utf-8").splitlines()]
    first, second = sorted((event for event in events if event[0] == events[0][0]), key=lambda event: float(event[2]))[
        :2
    ]
    first[2], second[2] = second[2], first[2]  # the same users and items, but another order of one history
    shutil.copytree(ours / "tiny", tmp_path / "tiny")
    content = "\n".join("\t".join(row) for row in (header, *events)) + "\n"
    (tmp_path / "tiny" / "tiny.inter").write_text(content, "utf-8")
    write_split(config.changed(dataset=str(tmp_path / "tiny")), tmp_path / "other")
    with pytest.raises(SourceError, match="manifest.json of another split"):
        compare(own_config(ours, other={"from": write(tmp_path / "other" / "a.csv", rows)}), tmp_path / "out2")


def test_metrics_beyond_the_lists_are_refused_on_a_finished_board(ours: Path, data: Data, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", some_lists(data, 40))
    config = own_config(ours, other={"from": file})
    compare(config, tmp_path / "out", variants=["id", "other"], seeds=[1])
    path = tmp_path / "out" / "config.yaml"
    path.write_text(path.read_text("utf-8").replace("NDCG@10", "NDCG@10\n  - NDCG@50"), "utf-8")
    with pytest.raises(ConfigError, match="NDCG@50 can't be measured for other-1: its longest list has (40|39) items"):
        blair_rec.leaderboard(tmp_path / "out")


@pytest.fixture
def matrices(ours: Path, data: Data, tmp_path: Path) -> dict[str, str]:
    """The scores of rules for test and validation cases, as .npz and as .npy with ids, in another order of items."""
    model = load_model(ours / "out" / "runs" / "rules-1").model
    found = {}
    for key, split, part in (("from", data.test, "test"), ("from_valid", data.valid, "valid")):
        scores = model.full_sort_predict(split[slice(0, len(split))])
        cases = cases_of(split, part)  # type: ignore[arg-type]
        order = np.random.default_rng(0).permutation(np.arange(1, cases.n_items))
        values, items = scores.numpy()[:, order], [cases.item_tokens[item] for item in order]
        if key == "from":
            path = tmp_path / "test.npz"
            np.savez(path, scores=values, user_id=np.array(cases.names), item_id=np.array(items))
        else:
            path = tmp_path / "valid.npy"
            np.save(path, values)
            (tmp_path / "valid.user_id.txt").write_text("\n".join(cases.names) + "\n", "utf-8")
            (tmp_path / "valid.item_id.txt").write_text("\n".join(items) + "\n", "utf-8")
        found[key] = str(path)
    return found


def test_a_score_matrix_gives_the_row_of_its_scorer_alone_and_in_an_average(
    ours: Path, matrices: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(ours / "out", tmp_path / "out")
    variants: dict[str, dict[str, Any]] = {
        "again": matrices,
        "both": {"average": ["id", "rules"]},
        "both_again": {"average": ["id", "again"]},
        "equal": {"average": ["id", "rules"], "weights": "equal"},
        "equal_again": {"average": ["id", "again"], "weights": "equal"},
    }
    board = compare(own_config(ours, **variants), tmp_path / "out")
    for own, again in (("rules", "again"), ("both", "both_again"), ("equal", "equal_again")):
        assert numbers(row_of(board, again)) == numbers(row_of(board, own)), again
    runs = tmp_path / "out" / "runs"
    valid = [json.loads((runs / name / "result.json").read_text("utf-8"))["valid"] for name in ("rules-1", "again-1")]
    assert valid[0] == valid[1]
    assert row_of(board, "both_again").elsewhere and not row_of(board, "both").elsewhere
    for name in ("again-1", "both_again-1"):
        with pytest.raises(CheckpointError, match="trained elsewhere"):
            blair_rec.load(runs / name)


def test_averages_need_full_matrices_and_validation_scores(
    ours: Path, matrices: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="whose from is a top list .*give score matrices"):
        own_config(ours, lists={"from": "a.csv"}, both={"average": ["id", "lists"]})
    only = {"from": matrices["from"]}
    with pytest.raises(ConfigError, match="no from_valid to choose weights with"):
        own_config(ours, again=only, both={"average": ["id", "again"]})
    config = own_config(ours, again=only, both={"average": ["id", "again"], "weights": "equal"})
    compare(config, tmp_path / "out", seeds=[1])
    assert load_run(tmp_path / "out" / "runs" / "both-1").valid == {"unmasked": {}, "masked": {}}


def test_notes_count_what_the_lists_lack(ours: Path, data: Data, tmp_path: Path) -> None:
    cases = cases_of(data.test, "test")
    listed = [set(cases.history_item[cases.history_case == place].tolist()) for place in range(len(cases))]
    rows: list[tuple[str, str, int]] = []
    for place, user in enumerate(cases.names[2:], start=2):
        new = [item for item in range(1, cases.n_items) if item not in listed[place]][: 15 if place == 2 else 30]
        rows += [(user, cases.item_tokens[item], n) for n, item in enumerate(new, start=1)]
    compare(
        own_config(ours, other={"from": write(tmp_path / "a.csv", rows)}),
        tmp_path / "out",
        variants=["id", "other"],
        seeds=[1],
    )
    notes = load_run(tmp_path / "out" / "runs" / "other-1").notes
    assert "other: a.csv has no list for 2 of 120 users: their targets count as misses" in notes
    assert any("a.csv: 1 of 118 lists is shorter than 20 items (unmasked)" in note for note in notes)
    assert any("lists no item of any history" in note for note in notes)


def test_the_best_variant_for_use_is_never_one_from_elsewhere(
    ours: Path, matrices: dict[str, str], tmp_path: Path
) -> None:
    config = own_config(ours, again=matrices)
    compare(config, tmp_path / "out", variants=["id", "again"], seeds=[1])
    from blair_rec.serve.winner import choose

    assert choose(tmp_path / "out").variant == "id"
    for place, variant in ((tmp_path / "out", "again"), (tmp_path / "out" / "runs" / "again-1", None)):
        with pytest.raises(ConfigError, match="again was trained elsewhere.*can't recommend here"):
            choose(place, variant)


def test_scores_of_the_matrix_are_looked_up_by_case(ours: Path, matrices: dict[str, str], data: Data) -> None:
    from blair_rec.experiment.elsewhere.run import fixed_scores, read_files

    config = own_config(ours, again=matrices)
    read = read_files(config.variants["again"], 1, data, data.test)
    found = rank(fixed_scores(config, read, data, data.test), data.test, 7, k=20)
    own = load_run(ours / "out" / "runs" / "rules-1")
    for protocol in ("unmasked", "masked"):
        assert np.array_equal(getattr(found, f"higher_{protocol}"), own.ranks.counts(protocol)[0])  # type: ignore[arg-type]
        assert np.array_equal(getattr(found, f"topk_{protocol}"), own.topk(protocol))  # type: ignore[arg-type]


def matrix_file(path: Path, cases: Cases, scores: Any) -> str:
    np.savez(path, scores=scores[:, 1:], **{cases.key: np.array(cases.names)}, item_id=np.array(cases.item_tokens[1:]))
    return str(path)


@pytest.mark.parametrize("kind", ["cut-off times", "benchmark files"])
def test_other_splits_take_lists_and_matrices_too(kind: str, ours: Path, tmp_path: Path) -> None:
    if kind == "cut-off times":
        with (ours / "tiny" / "tiny.inter").open(encoding="utf-8") as file:
            times = sorted(float(line.split("\t")[2]) for line in list(file)[1:])
        sections: dict[str, Any] = {"split": {"valid_from": times[len(times) // 2], "test_from": times[-200]}}
        dataset = ours / "tiny"
    else:
        write_split(own_config(ours), tmp_path / "split")
        dataset = tmp_path / "split" / "recbole" / "tiny"
        files = {"benchmark_filename": ["train", "valid", "test"], "alias_of_item_id": ["item_id_list"]}
        columns = {"load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "MAX_ITEM_LIST_LENGTH": 10}
        sections = {"recbole": {**files, **columns}}

    def of(**more: dict[str, Any]) -> Any:
        variants = {"rules": {"scorer": "sequential_rules"}, "pop": {"scorer": "popularity"}, **more}
        return config_of(
            dataset,
            "none",
            text={},
            baseline="pop",
            variants=variants,
            evaluate={"metrics": METRICS},
            seeds=[1],
            **sections,
        )

    out = tmp_path / "out"
    compare(of(), out)
    export_lists(out, "csv")
    lists = {key: str(out / "lists" / f"rules-1.{protocol}.csv") for key, protocol in BOTH}
    model, read = load_model(out / "runs" / "rules-1").model, whole_data(of(), dataset)
    test, valid = cases_of(read.test, "test"), cases_of(read.valid, "valid")
    assert (test.key == "case_id") == (kind == "cut-off times")
    matrices = {
        "from": matrix_file(tmp_path / "t.npz", test, model.full_sort_predict(read.test[slice(0, len(test))])),
        "from_valid": matrix_file(tmp_path / "v.npz", valid, model.full_sort_predict(read.valid[slice(0, len(valid))])),
    }
    more: dict[str, Any] = {"a": lists, "b": matrices}
    more |= {"both": {"average": ["pop", "rules"]}, "both_again": {"average": ["pop", "b"]}}
    board = compare(of(**more), out)
    assert numbers(row_of(board, "a")) == numbers(row_of(board, "rules"))
    assert numbers(row_of(board, "b")) == numbers(row_of(board, "rules"))
    assert numbers(row_of(board, "both_again")) == numbers(row_of(board, "both"))
