"""Second stages with members of other systems: what they find in top lists, what they don't read, what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import Recorder, config_of, tiny_at
from list_files import as_others_read
from mutations import mutated
from safetensors.torch import load_file
from two_halves import ONLY, SECOND, N, two_halves_at

import blair_rec
from blair_rec.cli import main
from blair_rec.errors import BlairRecError, CheckpointError, ConfigError, SourceError
from blair_rec.evaluate.runs.results import RunResult, load_run
from blair_rec.experiment.compare import compare
from blair_rec.experiment.elsewhere.run import listed_scores, read_files
from blair_rec.experiment.elsewhere.written.split import write_split
from blair_rec.experiment.loading import load_model
from blair_rec.experiment.run import Data, whole_data
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.rerank.features import ItemTable
from blair_rec.ranking.rerank.second_stage import Reranker

pytest.importorskip("lightgbm", reason="the extra rerank is not installed")
OWN: dict[str, dict[str, Any]] = {"popularity": {"scorer": "popularity"}, "rules": {"scorer": "sequential_rules"}}
METRICS = ["NDCG@5"]
WIDTH = 10
"""Events of a history that members read."""


def config_for(dataset: Path, **variants: dict[str, Any]) -> Any:
    found = {**OWN, **variants}
    sections: dict[str, Any] = {"variants": found, "baseline": "popularity", "seeds": [1], "text": {}}
    return config_of(dataset, "none", **sections, evaluate={"protocol": "masked", "metrics": METRICS})


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cases_in(split: Path, part: str) -> list[tuple[str, list[str]]]:
    """User and history of each case, as another system reads them."""
    lines = (split / f"histories_{part}.jsonl").read_text("utf-8").splitlines()
    return [(case["user_id"], case["history"]) for case in map(json.loads, lines)]


def write(path: Path, rows: Iterable[tuple[str, str, float]], key: str = "user_id") -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([(key, "item_id", "score"), *rows])
    return str(path)


def metric_of(board: Any) -> dict[str, float]:
    return {row.variant: row.metrics["masked"]["NDCG@5"].mean for row in board.rows}


def weights_of(run: RunResult) -> dict[str, float]:
    found: dict[str, float] = json.loads((run.folder / "result.json").read_text("utf-8"))["weights"]
    return found


# What it finds


def second_half(split: Path, part: str) -> list[tuple[str, str, float]]:
    """Lists of the items that the world's second scorer puts first, all tied: only absences say anything."""
    steps = [(user, int(history[-1][1:]), step) for user, history in cases_in(split, part) for step in SECOND]
    return [(user, f"i{1 + (last - 1 + step) % N}", 1.0) for user, last, step in steps]


def test_it_finds_an_answer_that_only_the_lists_of_another_system_complete(tmp_path: Path) -> None:
    """The next item is listed or first in the own member, but not both: which one, only absences from the list say."""
    dataset = two_halves_at(tmp_path)
    own = {"first": {"scorer": "two_halves:FirstHalf"}}
    split = tmp_path / "split"
    write_split(config_for(dataset, **own), split)
    files = {
        "from": write(tmp_path / "test.csv", second_half(split, "test")),
        "from_valid": write(tmp_path / "valid.csv", second_half(split, "valid")),
    }
    second = {"rerank": ["first", "other"], "candidates": 10}
    board = compare(config_for(dataset, **own, other=files, second=second), tmp_path / "out")
    found = metric_of(board)
    gains = 1 / np.log2(np.arange(2, 2 + len(ONLY)))
    assert found["second"] > 0.9 * gains.mean()
    assert max(value for name, value in found.items() if name != "second") < 0.75 * gains.mean()
    result = load_run(tmp_path / "out" / "runs" / "second-1")
    assert weights_of(result) == {"first": 1.0} and result.elsewhere
    assert any("other gave top lists, so it has no part in the average" in note for note in result.notes)
    with pytest.raises(
        CheckpointError, match=r"orders the best items of other-1, trained elsewhere: .* test cases alone"
    ):
        blair_rec.load(tmp_path / "out" / "runs" / "second-1")
    with pytest.raises(ConfigError, match="second was trained elsewhere, or has a member that was: it can't recommend"):
        blair_rec.refit(tmp_path / "out", tmp_path / "refit", variant="second")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny/, its split/, and a finished comparison of OWN in out/; no test changes it."""
    folder = tmp_path_factory.mktemp("ours")
    config = config_for(tiny_at(folder), second={"rerank": ["popularity", "rules"], "candidates": 10})
    compare(config, folder / "out")
    write_split(config, folder / "split")
    for part in ([], ["--cases", "valid"]):
        assert main(["leaderboard", str(folder / "out"), "--export", "csv", *part]) == 0
    return folder


@pytest.fixture
def data(ours: Path) -> Data:
    return whole_data(config_for(ours / "tiny"), ours / "tiny")


def whole_lists(ours: Path, data: Data, folder: Path, k: int = 10**9) -> dict[str, str]:
    """The k best items of each case with their exact scores, from the own rules."""
    model, found = load_model(ours / "out" / "runs" / "rules-1").model, {}
    for key, split, part in (("from", data.test, "test"), ("from_valid", data.valid, "valid")):
        scores = model.full_sort_predict(split[slice(0, len(split))]).numpy()
        rows = []
        for (user, _), values in zip(cases_in(ours / "split", part), scores, strict=True):
            best = sorted(range(1, len(values)), key=lambda item, of=values: (-of[item], item))[:k]  # type: ignore[misc]
            rows += [(user, data.item_tokens[item], float(values[item])) for item in best]
        found[key] = write(folder / f"{part}.csv", rows)
    return found


def matrices(ours: Path, data: Data, folder: Path) -> dict[str, str]:
    """The scores of the own rules for all items."""
    model, found = load_model(ours / "out" / "runs" / "rules-1").model, {}
    for key, split, part in (("from", data.test, "test"), ("from_valid", data.valid, "valid")):
        users, path = np.array([user for user, _ in cases_in(ours / "split", part)]), folder / f"{part}.npz"
        scores = model.full_sort_predict(split[slice(0, len(split))]).numpy()[:, 1:]
        np.savez(path, scores=scores, user_id=users, item_id=np.array(data.item_tokens[1:]))
        found[key] = str(path)
    return found


@pytest.mark.parametrize("kind", [whole_lists, matrices])
def test_scores_of_all_items_give_the_second_stage_of_the_member_itself(
    kind: Any, ours: Path, data: Data, tmp_path: Path
) -> None:
    again = kind(ours, data, tmp_path)
    second = {"rerank": ["popularity", "again"], "candidates": 10}
    compare(config_for(ours / "tiny", again=again, second=second), tmp_path / "out")
    own, found = (load_run(folder / "out" / "runs" / "second-1") for folder in (ours, tmp_path))
    for protocol in ("masked", "unmasked"):
        pairs = zip(own.ranks.counts(protocol), found.ranks.counts(protocol), strict=True)  # type: ignore[arg-type]
        assert all(np.array_equal(*pair) for pair in pairs)
    assert own.valid == found.valid
    assert weights_of(found) == {"popularity": weights_of(own)["popularity"], "again": weights_of(own)["rules"]}


def test_ties_of_exported_lists_which_depend_on_the_target_are_not_read(ours: Path, data: Data) -> None:
    lists = ours / "out" / "lists"
    files = {
        "from": str(lists / "popularity-1.unmasked.csv"),
        "from_valid": str(lists / "popularity-1.valid.unmasked.csv"),
    }
    config = config_for(ours / "tiny", other=files)
    read = read_files(config.variants["other"], 1, data, data.test)
    scorer, _, _ = listed_scores(config, read, data, data.test, False)
    assert any(len(set(of.values())) < len(of) for of in as_others_read(Path(files["from"])).values())
    found = scorer.full_sort_predict(data.test[slice(0, len(data.test))]).numpy()
    place = {user: row for row, (user, _) in enumerate(cases_in(ours / "split", "test"))}
    for row in rows_of(Path(files["from"])):
        assert found[place[row["user_id"]], data.item_tokens.index(row["item_id"])] == 1 - int(row["rank"])


def test_exported_lists_of_a_member_give_nearly_its_second_stage(ours: Path, tmp_path: Path) -> None:
    lists = ours / "out" / "lists"
    keys = {"from": "unmasked", "from_masked": "masked", "from_valid": "valid.unmasked"}
    keys["from_valid_masked"] = "valid.masked"
    again = {key: str(lists / f"rules-1.{name}.csv") for key, name in keys.items()}
    second = {"rerank": ["popularity", "again"], "candidates": 10}
    board = compare(config_for(ours / "tiny", again=again, second=second), tmp_path / "out")
    own, found = (load_run(folder / "out" / "runs" / "second-1") for folder in (ours, tmp_path))
    assert metric_of(board)["second"] == pytest.approx(
        metric_of(blair_rec.leaderboard(ours / "out"))["second"], abs=0.03
    )
    assert found.valid["masked"]["NDCG@5"] == pytest.approx(own.valid["masked"]["NDCG@5"], abs=0.03)


def test_validation_is_measured_with_the_lists_of_each_protocol(ours: Path, tmp_path: Path) -> None:
    """Lists of five items are too short for masked figures, unless there are lists without the history, too."""
    lists, files = ours / "out" / "lists", {}
    for key, name in (("from", "rules-1"), ("from_valid", "rules-1.valid")):
        rows = [row for row in rows_of(lists / f"{name}.unmasked.csv") if int(row["rank"]) <= 5]
        cut = [(row["user_id"], row["item_id"], float(row["score"])) for row in rows]
        files[key] = write(tmp_path / f"{name}.csv", cut)
        files[f"{key}_masked"] = str(lists / f"{name}.masked.csv")
    compare(config_for(ours / "tiny", again=files), tmp_path / "out", variants=["again"])
    found = load_run(tmp_path / "out" / "runs" / "again-1")
    assert found.valid["masked"] == load_run(ours / "out" / "runs" / "rules-1").valid["masked"]


def test_users_with_several_cases_have_a_list_for_each(ours: Path, tmp_path: Path) -> None:
    with (ours / "tiny" / "tiny.inter").open(encoding="utf-8") as file:
        times = sorted(float(line.split("\t")[2]) for line in list(file)[1:])
    split = {"valid_from": times[len(times) // 2], "test_from": times[-200]}
    own = config_for(ours / "tiny").changed(split=split)
    compare(own, tmp_path / "out")
    data, model = whole_data(own, ours / "tiny"), load_model(tmp_path / "out" / "runs" / "rules-1").model
    again = {}
    for key, part, name in (("from", data.test, "test"), ("from_valid", data.valid, "valid")):
        scores = model.full_sort_predict(part[slice(0, len(part))]).numpy()
        rows = [
            (str(case), token, float(score))
            for case, of in enumerate(scores, start=1)
            for token, score in zip(data.item_tokens[1:], of[1:], strict=True)
        ]
        again[key] = write(tmp_path / f"{name}.csv", rows, "case_id")
    stages = {name: {"rerank": ["popularity", name], "candidates": 10} for name in ("rules", "again")}
    variants = {"again": again, **{f"with_{name}": stage for name, stage in stages.items()}}
    compare(config_for(ours / "tiny", **variants).changed(split=split), tmp_path / "out")
    runs = [load_run(tmp_path / "out" / "runs" / f"with_{name}-1") for name in stages]
    assert len(set(runs[0].ranks.user.tolist())) < len(runs[0].ranks.user)
    assert np.array_equal(*(run.ranks.counts("masked")[0] for run in runs))
    assert runs[0].valid == runs[1].valid


def test_no_validation_lists_are_exported_of_second_stages(ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {path.name for path in (ours / "out" / "lists").glob("*.csv")}
    assert "rules-1.valid.masked.csv" in names and "second-1.masked.csv" in names
    assert not any(name.startswith("second-1.valid") for name in names)
    assert main(["leaderboard", str(ours / "out"), "--cases", "valid"]) == 1
    assert "--cases says what --export writes" in " ".join(capsys.readouterr().err.split())


# What it reads


def scores_by_hand(files: Mapping[str, str], key: str, users: list[str], tokens: list[str], k: int) -> np.ndarray:
    """[B, N]: the scores in a file, NaN where it has none, for the k best of each list."""
    lists, found = as_others_read(Path(files[key])), np.full((len(users), len(tokens)), np.nan, dtype=np.float32)
    for row, user in enumerate(users):
        of = lists.get(user, {})
        for item in sorted(of, key=lambda item, of=of: (-of[item], tokens.index(item)))[:k]:  # type: ignore[misc]
            found[row, tokens.index(item)] = of[item]
    return found


@pytest.mark.parametrize("masked", [False, True])
def test_absent_items_are_missing_values_and_both_parts_are_read_to_the_same_length(
    masked: bool, ours: Path, data: Data, tmp_path: Path
) -> None:
    lists = whole_lists(ours, data, tmp_path, k=12)
    shorter = [row for row in rows_of(Path(lists["from_valid"])) if row["user_id"] != "u001"]
    kept: dict[str, int] = {}
    rows = []
    for row in shorter:
        kept[row["user_id"]] = kept.get(row["user_id"], 0) + 1
        if kept[row["user_id"]] <= 7:
            rows.append((row["user_id"], row["item_id"], float(row["score"])))
    files = {**lists, "from_valid": write(tmp_path / "shorter.csv", rows)}
    keys = ("from", "from_valid")
    if masked:
        histories = {part: dict(cases_in(ours / "split", part)) for part in ("test", "valid")}
        for key, part in (("from", "test"), ("from_valid", "valid")):
            without = [
                (user, item, 2 * score)
                for user, of in as_others_read(Path(files[key])).items()
                for item, score in of.items()
                if item not in histories[part][user]
            ]
            files[f"{key}_masked"] = write(tmp_path / f"{part}.masked.csv", without)
        keys = ("from_masked", "from_valid_masked")
    config = config_for(ours / "tiny", other=files)
    read = read_files(config.variants["other"], 1, data, data.test)
    scorer, whole, notes = listed_scores(config, read, data, data.test, masked)
    longest = {key: max(map(len, as_others_read(Path(files[key])).values())) for key in keys}
    depth = min(longest.values())
    assert not whole and any(f"reads the first {depth} of both" in note for note in notes) == (
        len(set(longest.values())) > 1
    )
    unmasked, _, _ = listed_scores(config, read, data, data.test, False)
    both = min(max(map(len, as_others_read(Path(files[key])).values())) for key in ("from", "from_valid"))
    users = [user for user, _ in cases_in(ours / "split", "test")]
    np.testing.assert_array_equal(
        unmasked.full_sort_predict(data.test[slice(0, len(data.test))]).numpy(),
        scores_by_hand(files, "from", users, data.item_tokens, both),
    )
    stage = Reranker(
        Ensemble([load_model(ours / "out" / "runs" / "rules-1").model, scorer]),
        ItemTable(torch.zeros(len(data.item_tokens)), None, {}),
        5,
        lists=[False, True],
    )
    for key, split, part in ((keys[0], data.test, "test"), (keys[1], data.valid, "valid")):
        users = [user for user, _ in cases_in(ours / "split", part)]
        expected = scores_by_hand(files, key, users, data.item_tokens, depth)
        interaction = split[slice(0, len(split))]
        np.testing.assert_array_equal(scorer.full_sort_predict(interaction).numpy(), expected)
        ((_, z, pool),) = stage.pools(interaction)
        features = stage.features(pool, interaction).numpy()
        np.testing.assert_allclose(features[:, 0], features[:, 1] / 2)  # the average, without the lists
        missing = np.isnan(expected)[pool.case.numpy(), pool.item.numpy()]
        assert 0 < missing.sum() < len(missing)
        assert np.array_equal(np.isnan(features), np.isin(np.arange(features.shape[1]), (3, 4)) & missing[:, None])
        for row, of in enumerate(expected):  # every list has mean 0 and deviation 1, and its best five are candidates
            listed = np.flatnonzero(~np.isnan(of))
            if len(listed) and len(set(of[listed])) > 1:
                np.testing.assert_allclose(
                    z[1, row].numpy()[listed], (of[listed] - of[listed].mean()) / of[listed].std(), atol=1e-4
                )
            history = set(dict(cases_in(ours / "split", part))[users[row]][-WIDTH:])
            new = [
                item
                for item in sorted(listed, key=lambda item, of=of: (-of[item], item))  # type: ignore[misc]
                if data.item_tokens[item] not in history
            ]
            assert set(new[:5]) <= set(pool.item[pool.case == row].tolist())


def test_a_changed_validation_file_changes_what_members_are_known_by(ours: Path, data: Data, tmp_path: Path) -> None:
    lists, weights = whole_lists(ours, data, tmp_path, k=9), []
    for rows in (None, [("u002", data.item_tokens[item], 1.0 / item) for item in range(1, 9)]):
        if rows is not None:
            write(Path(lists["from_valid"]), rows)
        compare(config_for(ours / "tiny", other=lists), tmp_path / "out", variants=["other"], fresh=rows is not None)
        weights.append(load_file(tmp_path / "out" / "runs" / "other-1" / "model.safetensors")["files"].tolist())
    assert weights[0] != weights[1]


# What is refused


def test_members_that_a_second_stage_cannot_use_are_refused_with_the_key(tmp_path: Path) -> None:
    def refused(words: str, rerank: list[str], **variants: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=words):
            config_for(tmp_path, second={"rerank": rerank}, **variants)

    lists = {"from": "a.csv", "from_valid": "b.csv"}
    refused(r"rerank names 'x', which has no from_valid: the trees", ["rules", "x"], x={"from": "a.csv"})
    refused(
        r"whose from and from_valid are a top list \(b.csv\) and a score matrix",
        ["rules", "x"],
        x={"from": "a.npz", "from_valid": "b.csv"},
    )
    refused("rerank names top lists alone", ["x", "y"], x=lists, y=lists)
    refused(
        "from_valid_masked needs from_valid and from_masked", ["rules", "x"], x={**lists, "from_valid_masked": "c.csv"}
    )
    refused(
        "average names 'x', whose from is a top list",
        ["rules", "popularity"],
        x=lists,
        both={"average": ["rules", "x"]},
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: [("nobody", rows[0][1], 1.0), *rows], "1 user that the data set doesn't have"),
        (lambda rows: [(rows[0][0], "nothing", 1.0), *rows], "1 row with items that the data set doesn't have"),
        (lambda rows: [rows[0], *rows], "1 row with an item that its list has already"),
        (lambda rows: [(*rows[0][:2], float("nan")), *rows[1:]], "score"),
        (lambda rows: [(*rows[0][:2], 1e300), *rows[1:]], "1 score beyond the range of 32-bit numbers"),
        (lambda rows: rows[:3], "need lists of 5 items .*the longest has 3"),
        (lambda rows: rows[:0], "holds no row"),
    ],
)
def test_wrong_validation_lists_are_refused(change: Any, words: str, ours: Path, data: Data, tmp_path: Path) -> None:
    lists, recorder = whole_lists(ours, data, tmp_path, k=12), Recorder()
    rows = [(row["user_id"], row["item_id"], float(row["score"])) for row in rows_of(Path(lists["from_valid"]))]
    write(Path(lists["from_valid"]), change(rows))
    second = {"rerank": ["rules", "other"]}
    with pytest.raises(SourceError, match=rf"valid.csv.*{words}"):
        compare(config_for(ours / "tiny", other=lists, second=second), tmp_path / "out", listener=recorder)
    assert "second-1" not in recorder.finished_runs


@pytest.mark.parametrize("change", [lambda score: 1e9 + score, lambda score: 1 + 1e-12 * score])
@pytest.mark.parametrize("kind", ["lists", "matrix"])
def test_scores_whose_order_32_bit_numbers_lose_are_refused(
    kind: str, change: Any, ours: Path, data: Data, tmp_path: Path
) -> None:
    if kind == "lists":
        files = whole_lists(ours, data, tmp_path, k=12)
        for name in files.values():
            write(
                Path(name),
                [(row["user_id"], row["item_id"], change(float(row["score"]))) for row in rows_of(Path(name))],
            )
        words = r"csv: its scores differ by less than 32-bit numbers can hold, .*; give ranks alone"
    else:
        files = matrices(ours, data, tmp_path)
        for name in files.values():
            with np.load(name) as archive:
                arrays = dict(archive)
            np.savez(name, **{**arrays, "scores": change(arrays["scores"].astype(np.float64))})
        words = r"npz: the best scores differ by less than 32-bit numbers can hold.*; subtract the mean of each row"
    config, recorder = config_for(ours / "tiny", other=files, second={"rerank": ["rules", "other"]}), Recorder()
    with pytest.raises(SourceError, match=words):
        compare(config, tmp_path / "out", listener=recorder)
    assert not recorder.started_runs, "before anything is trained"


def test_ranks_in_one_part_and_scores_in_the_other_are_read_as_places_in_both(
    ours: Path, data: Data, tmp_path: Path
) -> None:
    lists = whole_lists(ours, data, tmp_path, k=12)
    rows = rows_of(Path(lists["from_valid"]))
    with Path(lists["from_valid"]).open("w", encoding="utf-8", newline="") as file:
        ranked = [(row["user_id"], row["item_id"], 1 + place % 12) for place, row in enumerate(rows)]
        csv.writer(file).writerows([("user_id", "item_id", "rank"), *ranked])
    config = config_for(ours / "tiny", other=lists)
    read = read_files(config.variants["other"], 1, data, data.test)
    scorer, _, notes = listed_scores(config, read, data, data.test, False)
    assert "valid.csv gives ranks alone and test.csv scores; the second stage reads the places in both" in notes
    for split in (data.test, data.valid):
        found = scorer.full_sort_predict(split[slice(0, len(split))]).numpy()
        assert all(sorted(row[~np.isnan(row)]) == list(range(-11, 1)) for row in found)


def exported(ours: Path, **names: str) -> dict[str, str]:
    return {key: str(ours / "out" / "lists" / f"rules-1.{name}.csv") for key, name in names.items()}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"from_valid": "unmasked"}, "exported for the test cases, history unmasked, so it belongs under from; give"),
        ({"from_valid_masked": "masked"}, "exported for the test cases, history masked, so it belongs under from_mas"),
        ({"from": "valid.unmasked"}, "exported for the validation cases, history unmasked, .* under from_valid; give"),
        ({"from_masked": "unmasked"}, "with the history among the candidates, so it belongs under from"),
    ],
)
def test_exported_lists_under_the_key_of_others_are_refused(names: dict[str, str], words: str, ours: Path) -> None:
    right = {
        "from": "unmasked",
        "from_masked": "masked",
        "from_valid": "valid.unmasked",
        "from_valid_masked": "valid.masked",
    }
    data = whole_data(config_for(ours / "tiny"), ours / "tiny")
    for wrong in ({}, names):
        config = config_for(ours / "tiny", other=exported(ours, **{**right, **wrong}))
        if wrong:
            with pytest.raises(SourceError, match=words):
                read_files(config.variants["other"], 1, data, data.test)
        else:
            assert set(read_files(config.variants["other"], 1, data, data.test)) == set(right)


def test_lists_of_test_cases_given_for_validation_are_noted(ours: Path, data: Data, tmp_path: Path) -> None:
    """No list without the history of a test case has the target of the validation case, which is in that history."""
    same = whole_lists(ours, data, tmp_path, k=40)
    same["from_valid"] = same["from"]
    histories = dict(cases_in(ours / "split", "test"))
    rows = [row for row in rows_of(Path(same["from"])) if row["item_id"] not in histories[row["user_id"]]]
    masked = write(tmp_path / "masked.csv", [(row["user_id"], row["item_id"], float(row["score"])) for row in rows])
    same |= {"from_masked": masked, "from_valid_masked": masked}
    compare(config_for(ours / "tiny", other=same), tmp_path / "out", variants=["other", "popularity"])
    notes = load_run(tmp_path / "out" / "runs" / "other-1").notes
    said = [note for note in notes if "that is right only for a system that reads no histories" in note]
    assert [note.partition(" have ")[0] for note in said] == [
        "other: test.csv and test.csv",
        "other: masked.csv and masked.csv",
    ]
    assert [note for note in notes if "no list has its target" in note] == [
        "other: masked.csv: no list has its target; make sure that they are for the validation cases"
    ]


def test_damaged_validation_lists_are_refused_or_read_as_they_are(ours: Path, data: Data, tmp_path: Path) -> None:
    lists = whole_lists(ours, data, tmp_path, k=6)
    path, users = Path(lists["from_valid"]), [user for user, _ in cases_in(ours / "split", "valid")]
    config, content, kinds = config_for(ours / "tiny", other=lists), path.read_bytes(), set()
    lines: list[str] = []
    for seed in range(40):
        path.write_bytes(mutated(content, Random(seed)))
        try:
            read = read_files(config.variants["other"], 1, data, data.test)
            scorer, _, _ = listed_scores(config, read, data, data.test, False)
        except BlairRecError as error:
            kinds.add("refused")
            lines += str(error).splitlines()
        else:
            kinds.add("used")
            depth = min(max(map(len, as_others_read(Path(lists[key])).values())) for key in lists)
            found = scorer.full_sort_predict(data.valid[slice(0, len(data.valid))]).numpy()
            np.testing.assert_array_equal(
                found, scores_by_hand(lists, "from_valid", users, data.item_tokens, depth), err_msg=str(seed)
            )
    assert kinds == {"refused", "used"} and all(str(path) in line for line in lines)
