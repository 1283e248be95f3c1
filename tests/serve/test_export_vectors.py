"""Rules as vectors in both exports: close to the run by rank, exact at the full rank, and clear about what was lost."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import config_of, tiny_at
from encoders import build_roberta
from worlds import write_log

import blair_rec
from blair_rec.cli import main
from blair_rec.errors import ConfigError, OutputError, StoreError
from blair_rec.experiment.compare import compare
from blair_rec.ranking.scorers import LastItem
from blair_rec.serve.export.folder import export_run
from blair_rec.serve.export.graphs import ItemProjection
from blair_rec.serve.export.recommend import ExportedModel

ITEMS = 80
VARIANTS: dict[str, Any] = {
    "near": {"scorer": "last_item", "transforms": ["center"]},
    "rules": {"scorer": "sequential_rules"},
    "markov": {"scorer": "markov"},
    "by_text": {"scorer": "text_rules", "transforms": ["center"], "options": {"neighbours": 3}},
    "both": {"average": ["near", "rules"], "weights": "equal"},
    "other": {"average": ["near", "markov"], "weights": "equal"},
    "all": {"average": ["markov", "near", "by_text"], "weights": "equal"},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of scorers that take no training."""
    folder = tmp_path_factory.mktemp("vectors")
    tiny, encoder = tiny_at(folder), build_roberta(folder / "tiny-roberta")
    compare(config_of(tiny, encoder, variants=VARIANTS, seeds=[1], baseline="near"), folder / "out")
    return folder / "out" / "runs"


def some_histories() -> list[list[str]]:
    dice = np.random.default_rng(5)
    return [[f"i{item:02d}" for item in dice.integers(1, ITEMS + 1, length)] for length in (1, 1, 2, 3, 5, 9, 10, 14)]


def products(run: Path, folder: Path) -> tuple[np.ndarray, list[str]]:
    """[histories, items] of queries and vectors, as a nearest-neighbour index computes them; the items."""
    tokens = json.loads((folder / "items.json").read_text("utf-8"))
    users = blair_rec.load(run, vectors=folder).user_vectors(some_histories(), batch_size=3)
    return users.astype(np.float64) @ np.load(folder / "items.npy").astype(np.float64).T, tokens


def exact_scores(run: Path, tokens: list[str]) -> np.ndarray:
    """[histories, items] of the run itself."""
    lists = blair_rec.load(run).recommend(some_histories(), len(tokens), exclude_history=False)
    return np.array([[dict(found)[token] for token in tokens] for found in lists])


def centred(scores: np.ndarray) -> np.ndarray:
    return np.asarray(scores - scores.mean(axis=1, keepdims=True))


@pytest.mark.parametrize("name", ["rules", "markov", "both", "all"])
def test_at_the_full_rank_the_vectors_rank_as_the_run_does(name: str, done: Path, tmp_path: Path) -> None:
    run = done / f"{name}-1"
    folder = blair_rec.export_vectors(run, tmp_path / "v", rules_rank=ITEMS)
    found, tokens = products(run, folder)
    expected = exact_scores(run, tokens)
    spread = expected.std(axis=1, keepdims=True)
    assert (np.abs(centred(found) - centred(expected)) <= 1e-4 * spread).all()
    for ours, theirs, width in zip(found, expected, spread[:, 0], strict=True):
        best = [theirs[item] for item in np.argsort(-ours)[:10]]  # the same list as the run's, but for ties
        assert best == pytest.approx(np.sort(theirs)[::-1][:10], abs=2e-4 * width)
    said = json.loads((folder / "rules.json").read_text("utf-8"))["approximation"]
    assert said["rank"] == ITEMS and said["kept"] == pytest.approx([1] * len(said["kept"]))
    assert len(said["kept"]) == {"all": 2}.get(name, 1)


def test_a_higher_rank_is_closer_to_the_run_and_the_record_says_how_close(done: Path, tmp_path: Path) -> None:
    run, apart, overlaps = done / "both-1", [], []
    for rank in (1, 8, 40):
        folder = blair_rec.export_vectors(run, tmp_path / "v", rules_rank=rank)
        found, tokens = products(run, folder)
        apart.append(np.abs(centred(found) - centred(exact_scores(run, tokens))).mean())
        record = json.loads((folder / "rules.json").read_text("utf-8"))
        said = record["approximation"]
        overlaps.append(said["overlap"])
        assert said["rank"] == rank and 0 < said["kept"][0] < 1 and said["histories"] > 50
        assert said["said"].startswith(f"scores are approximate: vectors of rank {rank} keep ")
        assert np.load(folder / "items.npy").shape == (ITEMS, 32 + rank + 1) and record["columns"] == [[32, 33 + rank]]
        assert np.load(folder / "rules_sources.npy").shape == (ITEMS, rank)
        assert sorted(file.name for file in folder.iterdir()) == [
            "items.json", "items.npy", "rules.json", "rules_sources.npy",
        ]  # fmt: skip
    assert apart[0] > apart[1] > apart[2] and overlaps[0] < overlaps[1] < overlaps[2] <= 1


def test_the_overlap_is_that_of_the_two_recommenders(done: Path, tmp_path: Path) -> None:
    run = done / "both-1"
    folder = blair_rec.export_vectors(run, tmp_path / "v", rules_rank=6)
    arrays, exact, ours = np.load(run / "histories.npz"), blair_rec.load(run), blair_rec.load(run, vectors=folder)
    parts = np.split(arrays["items"], arrays["offsets"][1:-1])
    histories = [[exact.item_tokens[item - 1] for item in part] for part in parts if len(part)]
    lists = [[{item for item, _ in row} for row in one.recommend(histories, 10)] for one in (exact, ours)]
    shared = np.mean([len(a & b) / 10 for a, b in zip(*lists, strict=True)])
    said = json.loads((folder / "rules.json").read_text("utf-8"))["approximation"]
    assert said["histories"] == len(histories) and said["overlap"] == pytest.approx(shared)
    assert f"; {10 * shared:.1f} of 10 best items are the run's own ({len(histories)} histories)" in said["said"]


def test_without_a_rank_rules_are_refused_with_the_option_and_an_exact_export_replaces_an_approximate_one(
    done: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"not all inner products.*rules_rank=512\) approximates SequentialRules by v"
    ):
        blair_rec.export_vectors(done / "both-1", tmp_path / "v")
    assert not (tmp_path / "v").exists()
    blair_rec.export_vectors(done / "both-1", tmp_path / "v", rules_rank=4)
    blair_rec.export_vectors(done / "near-1", tmp_path / "v")
    assert sorted(file.name for file in (tmp_path / "v").iterdir()) == ["items.json", "items.npy"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rules.json").write_text("my own rules")
    with pytest.raises(OutputError, match="holds rules.json but no items"):
        blair_rec.export_vectors(done / "near-1", tmp_path / "mine")


@pytest.mark.parametrize("export", [blair_rec.export_vectors, export_run])
@pytest.mark.parametrize(
    "name, rank, message",
    [
        ("both", 0, "rules_rank is 0; it has to be between 1 and 80, the number of items"),
        ("both", 81, "rules_rank is 81; it has to be between 1 and 80"),
        ("near", 4, "near-1 has no rules between items .markov, sequential_rules, text_rules.*leave it out"),
    ],
)
def test_a_rank_that_does_not_fit_is_refused(
    name: str, rank: int, message: str, export: Any, done: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(done / f"{name}-1", tmp_path / "v", rules_rank=rank)
    assert not (tmp_path / "v").exists()


def test_a_rank_does_not_help_other_scores_that_are_no_products(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LastItem, "scores_by_product", False)
    with pytest.raises(ConfigError, match="the scores of LastItem are not inner products .* average other members"):
        blair_rec.export_vectors(done / "both-1", tmp_path / "v", rules_rank=4)


def test_queries_need_the_vectors_of_the_same_run_as_they_were_written(done: Path, tmp_path: Path) -> None:
    folder = blair_rec.export_vectors(done / "both-1", tmp_path / "v", rules_rank=4)
    with pytest.raises(StoreError, match="was exported from another run than .*other-1, or .*other-1 was made again"):
        blair_rec.load(done / "other-1", vectors=folder)
    plain = blair_rec.export_vectors(done / "near-1", tmp_path / "plain")
    with pytest.raises(StoreError, match="has no rules.json, so it is no export with rules_rank; load the run without"):
        blair_rec.load(done / "near-1", vectors=plain)
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    np.save(changed / "items.npy", np.load(changed / "items.npy") + 1)
    with pytest.raises(StoreError, match=r"was changed after the export \(items.npy\); export the run again"):
        blair_rec.load(done / "both-1", vectors=changed)
    record = json.loads((changed / "rules.json").read_text("utf-8"))
    for text, message in (
        ("{", "rules.json can't be read"),
        ("{}", "rules.json can't be read"),
        (json.dumps({**record, "schema": 2}), "rules.json has schema 2, and this version reads 1"),
    ):
        (changed / "rules.json").write_text(text)
        with pytest.raises(StoreError, match=message):
            blair_rec.load(done / "both-1", vectors=changed)


def test_a_refit_has_no_histories_to_compare_lists_for(done: Path, tmp_path: Path) -> None:
    run = blair_rec.refit(done / "both-1", tmp_path / "refit")
    folder = blair_rec.export_vectors(Path(run or tmp_path / "refit"), tmp_path / "v", rules_rank=ITEMS)
    said = json.loads((folder / "rules.json").read_text("utf-8"))["approximation"]
    assert said["overlap"] is None and "the run has no histories" in said["said"]
    users = blair_rec.load(tmp_path / "refit", vectors=folder).user_vectors([["i01"]])
    assert users.shape == (1, 32 + ITEMS + 1)


# The folder that works without torch


@pytest.mark.parametrize("name", ["rules", "all"])
def test_a_folder_with_a_rank_scores_by_its_vectors_and_says_so(
    name: str, done: Path, tmp_path: Path, capsys: Any
) -> None:
    run = done / f"{name}-1"
    assert main(["export", str(run), "-o", str(tmp_path / "x"), "--rules-rank", "6"]) == 0
    told = capsys.readouterr().out.replace("\n", " ")
    assert "scores are approximate: vectors of rank 6 keep " in told and "scores equal the run's own" not in told
    vectors = blair_rec.export_vectors(run, tmp_path / "v", rules_rank=6)
    expected, tokens = products(run, vectors)
    exported = ExportedModel(tmp_path / "x")
    scores = exported.scores(some_histories())
    assert exported.items == tokens
    assert (np.abs(centred(scores) - centred(expected)) <= 1e-4 * expected.std(axis=1, keepdims=True)).all()
    assert not list((tmp_path / "x").rglob("counts.npz"))
    config = json.loads((tmp_path / "x" / "config.json").read_text("utf-8"))
    own = json.loads((vectors / "rules.json").read_text("utf-8"))["approximation"]
    assert config["approximation"] == own
    assert [part["rank"] for part in config["parts"] if part["name"] != "near"] == [6] * len(own["kept"])
    card = (tmp_path / "x" / "README.md").read_text("utf-8")
    assert f"- {own['said'].capitalize()}." in card and "rules as vectors of rank 6" in card


def test_rules_with_a_rank_have_an_index_and_without_one_the_refusal_names_it(done: Path, tmp_path: Path) -> None:
    import faiss

    with pytest.raises(ConfigError, match=r"nothing to index; rules_rank .--rules-rank. writes rules as vectors"):
        export_run(done / "rules-1", tmp_path / "x", index="faiss")
    export_run(done / "rules-1", tmp_path / "x", index="faiss", rules_rank=20)
    model = ExportedModel(tmp_path / "x")
    histories = [[item] for item in model.items[:20]]
    users = model.parts[0].users(*model.rows(histories))
    _, rows = faiss.read_index(str(tmp_path / "x" / "index.faiss")).search(users, 5)
    expected = model.recommend(histories, 5, repeat=True)
    found = [
        len({model.items[row] for row in near} & dict(best).keys()) for near, best in zip(rows, expected, strict=True)
    ]
    assert np.mean(found) >= 4


def test_an_exported_projection_keeps_the_direction_of_short_vectors_as_the_scorer_does() -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32) * np.float32(1e-15)
    vectors[4] = 0
    scorer = LastItem(vectors, (), "items", "length")
    assert scorer.fitted_transforms is not None
    found = ItemProjection(scorer, scorer.fitted_transforms)(torch.from_numpy(vectors))
    torch.testing.assert_close(found, scorer.item_matrix()[1:])
    assert found.norm(dim=1).tolist() == pytest.approx([1, 1, 1, 1, 0])


@pytest.mark.parametrize("rank", [2.5, "8", True, float("nan")])
def test_a_rank_that_is_no_whole_number_is_refused(rank: Any, done: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rules_rank is .*; give a whole number, such as 512"):
        blair_rec.export_vectors(done / "rules-1", tmp_path / "v", rules_rank=rank)
    assert not (tmp_path / "v").exists()


def test_a_whole_number_of_numpy_is_a_rank(done: Path, tmp_path: Path) -> None:
    folders = [blair_rec.export_vectors(done / "rules-1", tmp_path / str(rank), rules_rank=rank) for rank in (4, 5)]
    again = blair_rec.export_vectors(done / "rules-1", tmp_path / "n", rules_rank=np.int64(4))  # type: ignore[arg-type]
    records = [(folder / "rules.json").read_text("utf-8") for folder in (*folders, again)]
    assert records[0] == records[2] != records[1]


def test_only_histories_that_leave_more_than_ten_items_are_compared(tmp_path: Path) -> None:
    """Ten of ten items are always the same, so they say nothing of the vectors."""
    sizes = [3, 2, 9, 10, 5, 7]  # items before the target
    events = [
        (f"u{user}", f"i{(3 * user + place) % 14}", place) for user, n in enumerate(sizes) for place in range(n + 1)
    ]
    log = write_log(tmp_path / "small", events)
    variants = {"rules": {"scorer": "sequential_rules"}}
    sections: dict[str, Any] = {"variants": variants, "seeds": [1], "baseline": "rules", "text": {}}
    items = len({item for _, item, _ in events})
    compare(config_of(log, "none", **sections, evaluate={"metrics": ["NDCG@5"]}), tmp_path / "out")
    folder = blair_rec.export_vectors(tmp_path / "out" / "runs" / "rules-1", tmp_path / "v", rules_rank=items)
    said = json.loads((folder / "rules.json").read_text("utf-8"))["approximation"]
    assert items == 14 and said["histories"] == sum(items - n > 10 for n in sizes) and said["overlap"] == 1


@pytest.mark.parametrize("columns", [[[0, 999]], [[-5, 3]], [[60, 20]], [[32, 40]], [[70, 79]]])
def test_a_record_whose_columns_are_not_those_of_the_files_is_refused(
    columns: list[list[int]], done: Path, tmp_path: Path
) -> None:
    folder = blair_rec.export_vectors(done / "both-1", tmp_path / "v", rules_rank=8)
    record = json.loads((folder / "rules.json").read_text("utf-8"))
    (folder / "rules.json").write_text(json.dumps({**record, "columns": columns}), encoding="utf-8")
    with pytest.raises(StoreError, match=r"rules.json names columns that items.npy and rules_sources.npy don't have"):
        blair_rec.load(done / "both-1", vectors=folder)


def test_a_run_with_several_tables_says_what_each_keeps(done: Path, tmp_path: Path) -> None:
    folder = blair_rec.export_vectors(done / "all-1", tmp_path / "v", rules_rank=8)
    said = json.loads((folder / "rules.json").read_text("utf-8"))["approximation"]["said"]
    assert re.search(r" keep [0-9.]+%, [0-9.]+% of the squared norm of the tables of rules; [0-9.]+ of 10 best", said)
