"""New items from end to end: text finds them, nothing of them is seen before, and a run without them is as it was."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import config_of, tiny_at
from fake_runs import without_hashes
from safetensors.numpy import load_file
from worlds import read_log, write_log

import blair_rec
from blair_rec.config.comparison import CompareConfig, read_config
from blair_rec.errors import BadRun, ConfigError
from blair_rec.evaluate.leaderboard import Leaderboard
from blair_rec.evaluate.runs.new_items import NewItemsTable
from blair_rec.evaluate.runs.new_ranks import NewRanks, new_ranks_of, read_new_ranks
from blair_rec.evaluate.runs.results import load_run
from blair_rec.experiment.compare import compare
from blair_rec.experiment.planning.plan import run_setup
from blair_rec.text.store.embeddings import open_store
from blair_rec.text.store.writer import write_store

GROUPS, SIZE, WIDTH, USERS = 12, 5, 16, 240
TRAINED = {
    "id": {"items": "id"},
    "text": {"items": "text", "transforms": [{"pca": 8}, "whiten"]},
    "text_init": {"items": "text_init", "transforms": ["center"]},
    "text_delta": {"items": "text_delta", "transforms": ["center"]},
    "shuffled": {"items": "text", "transforms": ["center"], "control": "shuffle"},
}
SCORERS = {
    "popularity": {"scorer": "popularity"},
    "markov": {"scorer": "markov"},
    "near": {"scorer": "last_item"},
    "can": {"average": ["text", "near"], "weights": "equal"},
    "cannot": {"average": ["text", "markov"], "weights": "equal"},
    "nor_popular": {"average": ["near", "popularity"], "weights": "equal"},
}
CAN = {"text", "text_delta", "shuffled", "popularity", "near", "can"}


def group_of(item: str) -> int:
    return int(item[1:].split("_")[0])


def world(folder: Path, seed: int = 0) -> Path:
    """A data set in which every user goes through one group of items, in any order: the next item is one of it."""
    dice, events = np.random.default_rng(seed), []
    for user in range(USERS):
        group = user % GROUPS
        events += [(f"u{user}", f"g{group}_{item}", time) for time, item in enumerate(dice.permutation(SIZE))]
    return write_log(folder, events)


def store_at(path: Path, dataset: Path, hidden: tuple[str, ...] = ()) -> Path:
    """A store in which the items of a group have nearly the same vector; those of `hidden` have other ones."""
    groups = np.random.default_rng(1).standard_normal((GROUPS, WIDTH))
    tokens = sorted({item for _, item, _ in read_log(dataset)})
    noise = np.random.default_rng(2).standard_normal((len(tokens), WIDTH))
    vectors = np.array([groups[group_of(token)] for token in tokens]) + 0.1 * noise
    for token in hidden:
        vectors[tokens.index(token)] = np.random.default_rng(3).standard_normal(WIDTH) * 9
    write_store(
        path,
        tokens,
        vectors.astype(np.float32),
        textless=(),
        encoder={"name": "made up", "asked_for": "made up", "revision": None, "pooling": "mean", "max_length": 8},
        template={"name": "plain", "version": 1, "fields": ["title"]},
        text_sha256="0" * 64,
    )
    return path


def config(
    dataset: Path, store: Path, variants: dict[str, Any], new_items: Any = 0.2, **sections: Any
) -> CompareConfig:
    """One seed, a small SASRec, vectors from the store."""
    return read_config(
        {
            "dataset": str(dataset),
            "text": {"store": str(store)},
            "recbole": {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 5},
            "train": {"epochs": 12, "patience": 12, "learning_rate": 0.01},
            "evaluate": {"protocol": "masked", "new_items": new_items},
            "variants": variants,
            "seeds": [1],
            **sections,
        }
    )


@dataclasses.dataclass(frozen=True)
class Finished:
    """A comparison in the world of groups."""

    dataset: Path
    store: Path
    out: Path
    board: Leaderboard

    @property
    def table(self) -> NewItemsTable:
        assert self.board.new_items is not None
        return self.board.new_items

    def new(self, variant: str) -> NewRanks:
        found = load_run(self.out / "runs" / f"{variant}-1").new_items
        assert found is not None
        return found

    def tokens(self, variant: str) -> list[str]:
        """Known and new items, by id."""
        known = json.loads((self.out / "runs" / f"{variant}-1" / "items.json").read_text("utf-8"))
        return [*known, *self.new(variant).tokens.tolist()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("groups")
    dataset = world(folder / "groups")
    store, out = store_at(folder / "store", dataset), folder / "out"
    board = compare(config(dataset, store, {**TRAINED, **SCORERS}), out)
    assert board is not None
    return Finished(dataset, store, out, board)


def test_a_hidden_item_is_found_by_its_text_and_by_nothing_else(done: Finished) -> None:
    rows = done.table.rows
    assert {variant for variant, row in rows.items() if row.why is None} == CAN and rows.keys() == {*TRAINED, *SCORERS}
    for variant in ("text", "text_delta", "near", "can"):
        assert rows[variant].among_all["masked"]["Recall@10"].mean > 0.9, variant
        assert rows[variant].among_new["NDCG@10"].mean > 0.7, variant
    for variant in ("shuffled", "popularity"):
        assert rows[variant].among_all["masked"]["Recall@10"].mean < 0.4, variant
    assert done.table.items == 12 and done.table.known == 48
    reasons = {variant: row.why for variant, row in rows.items() if row.why is not None}
    assert "items: id learns items from their events alone" in str(reasons["id"])
    assert "text_init trains a vector for each item" in str(reasons["text_init"])
    for variant in ("markov", "cannot"):
        assert "Markov can only score the items that it was built with" in str(reasons[variant])
    assert "Popularity can only score" in str(reasons["nor_popular"])


def test_neighbours_rank_new_items_as_cosines_do(done: Finished) -> None:
    """Brute force over the log: the cosine to the last known item of each history."""
    new, tokens = done.new("near"), done.tokens("near")
    store = open_store(done.store)
    vectors = np.asarray(store.table(tokens[1:]), dtype=np.float64)
    unit = np.vstack([np.zeros(WIDTH), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)])
    users: dict[str, list[str]] = {}
    for user, item, _ in read_log(done.dataset):
        users.setdefault(user, []).append(item)
    hidden, expected = set(new.tokens.tolist()), {}
    for items in users.values():
        history = [item for item in items[:-1] if item not in hidden]
        if items[-1] in hidden and history:
            scores, target = unit @ unit[tokens.index(history[-1])], tokens.index(items[-1])
            others = [number for number in range(1, len(tokens)) if number != target]
            masked = [number for number in others if tokens[number] not in history]
            higher = [sum(scores[one] > scores[target] for one in of) for of in (others, masked)]
            among_new = sum(scores[one] > scores[target] for one in others if tokens[one] in hidden)
            expected[tuple(history), items[-1]] = (*higher, among_new)
    assert len(new.user) == done.table.cases > 30
    found = list(zip(new.higher_unmasked.tolist(), new.higher_masked.tolist(), new.higher_new.tolist(), strict=True))
    assert sorted(set(found)) == sorted(set(expected.values())) and not new.equal_unmasked.any()


def test_popularity_has_every_new_item_behind_all_items_with_events(done: Finished) -> None:
    new, counts = done.new("popularity"), load_run(done.out / "runs" / "popularity-1").item_counts
    assert (new.higher_unmasked == (counts > 0).sum()).all()
    assert (new.equal_new == len(new.tokens) - 1).all() and not new.higher_new.any()
    row = done.table.rows["popularity"]
    assert {metric: one.mean for metric, one in row.among_new.items()} == pytest.approx(done.table.by_chance)
    assert done.table.by_chance["Recall@10"] == pytest.approx(10 / 12)


@pytest.mark.parametrize("variant", ["text", "text_delta", "near", "can"])
def test_the_ranks_are_those_of_a_loaded_run_with_the_store_as_extra_items(done: Finished, variant: str) -> None:
    new, tokens = done.new(variant), done.tokens(variant)
    model = blair_rec.load(done.out / "runs" / f"{variant}-1", extra_items=done.store)
    assert set(model.item_tokens) == set(tokens[1:])
    users: dict[str, list[str]] = {}
    for user, item, _ in read_log(done.dataset):
        users.setdefault(user, []).append(item)
    asked = [items for items in users.values() if items[-1] in new.tokens]
    histories = [[item for item in items[:-1] if item not in new.tokens] for items in asked]
    asked = [items for items, history in zip(asked, histories, strict=True) if history]
    lists = model.recommend([history for history in histories if history], 55)
    places = [[item for item, _ in row].index(items[-1]) for row, items in zip(lists, asked, strict=True)]
    assert sorted(places) == sorted(new.higher_masked.tolist()) and not new.equal_masked.any()


def test_all_other_numbers_are_those_of_a_data_set_without_the_hidden_items(done: Finished, tmp_path: Path) -> None:
    hidden = set(done.new("text").tokens.tolist())
    assert len(hidden) == 12
    dataset = write_log(tmp_path / "groups", [event for event in read_log(done.dataset) if event[1] not in hidden])
    compare(config(dataset, done.store, {**TRAINED, **SCORERS}, new_items=None), tmp_path / "out")
    for folder in sorted((done.out / "runs").iterdir()):
        other = tmp_path / "out" / "runs" / folder.name
        for name in ("ranks.npz", "topk.npz", "histories.npz"):
            with np.load(folder / name) as ours, np.load(other / name) as theirs:
                assert ours.files == theirs.files
                for array in ours.files:
                    np.testing.assert_array_equal(ours[array], theirs[array], err_msg=f"{folder.name} {array}")
        assert (folder / "items.json").read_text() == (other / "items.json").read_text()
        assert not (other / "new_items.npz").exists()


def test_what_the_texts_of_hidden_items_say_changes_nothing_but_their_own_ranks(done: Finished, tmp_path: Path) -> None:
    """Weights, fitted transforms, counts, ranks and what validation saw are the same, bit by bit."""
    hidden = tuple(done.new("text").tokens.tolist())
    store = store_at(tmp_path / "store", done.dataset, hidden)
    compare(config(done.dataset, store, {**TRAINED, **SCORERS}), tmp_path / "out")
    differ = set()
    for folder in sorted((done.out / "runs").iterdir()):
        other = tmp_path / "out" / "runs" / folder.name
        ours, theirs = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
        assert ours.keys() == theirs.keys()
        for name, weights in ours.items():
            np.testing.assert_array_equal(weights, theirs[name], err_msg=f"{folder.name} {name}")
        for name in ("ranks.npz", "topk.npz", "histories.npz"):
            with np.load(folder / name) as first, np.load(other / name) as second:
                for array in first.files:
                    np.testing.assert_array_equal(first[array], second[array], err_msg=f"{folder.name} {array}")
        said = [json.loads((one / "result.json").read_text("utf-8")) for one in (folder, other)]
        for key in ("valid", "selection", "transform_report", "parameters", "weights"):
            assert said[0][key] == said[1][key], (folder.name, key)
        before, now = read_new_ranks(folder), read_new_ranks(other)
        assert before is not None and now is not None
        if not np.array_equal(before.higher_unmasked, now.higher_unmasked):
            differ.add(folder.name)
    assert differ == {f"{variant}-1" for variant in CAN - {"popularity"}}


def test_the_board_says_it_in_words_in_every_form(done: Finished) -> None:
    page = (done.out / "leaderboard.md").read_text("utf-8").partition("## New items")[2].partition("\n## ")[0]
    assert "| variant | NDCG@10 among all | Recall@10 among all | NDCG@10 among new | Recall@10 among new |" in page
    assert page.count("can't score new items") == 5 and "12 new items, hidden from training and selection" in page
    assert "New items" in (done.out / "leaderboard.html").read_text("utf-8")
    board = json.loads((done.out / "leaderboard.json").read_text("utf-8"))
    assert board["new_items"]["rows"]["id"]["why"] and board["new_items"]["cases"] == done.table.cases
    lines = [json.loads(line) for line in (done.out / "results.jsonl").read_text("utf-8").splitlines()]
    found = {
        (one["variant"], one["slice"], one["metric"]): one["value"] for one in lines if one["protocol"] == "masked"
    }
    row = done.table.rows["text"]
    assert found["text", "new_items", "NDCG@10"] == row.among_all["masked"]["NDCG@10"].mean
    assert found["text", "new_items_among_new", "Recall@10"] == row.among_new["Recall@10"].mean
    assert ("id", "new_items", "NDCG@10") not in found
    assert any(
        "12 of 60 items (drawn by their ids) and all their events were hidden" in note for note in done.board.notes
    )
    assert not any("were not measured" in note for note in done.board.notes)


def test_a_share_is_a_part_of_a_runs_identity_and_its_absence_is_none(done: Finished) -> None:
    def evaluated(new_items: Any) -> Any:
        return run_setup(config(done.dataset, done.store, TRAINED, new_items), "text", 1)["evaluate"]

    plain = {"protocol": "masked", "selection": "NDCG@10"}
    assert evaluated(None) == plain
    assert evaluated(0.05) == {**plain, "new_items": 0.05, "draw": 0}
    assert evaluated(0.1) != evaluated(0.05)


def test_a_refit_learns_from_the_hidden_items_too(done: Finished, tmp_path: Path) -> None:
    blair_rec.refit(done.out / "runs" / "text-1", tmp_path / "refit")
    model = blair_rec.load(tmp_path / "refit")
    assert len(model.item_tokens) == GROUPS * SIZE
    counts = np.load(tmp_path / "refit" / "item_counts.npy")
    assert counts.sum() == USERS * SIZE and (counts[1:] == USERS // GROUPS).all()
    assert "new_items: null" in (tmp_path / "refit" / "config.yaml").read_text("utf-8")


def test_items_first_seen_after_the_cut_off_are_measured_in_the_same_way(tmp_path: Path) -> None:
    dice, events = np.random.default_rng(0), []
    for user in range(150):
        group = user % GROUPS
        order = [*dice.permutation(SIZE - 1), SIZE - 1]  # the last one of each group comes with the last period
        events += [(f"u{user}", f"g{group}_{item}", 10 * time + user % 10) for time, item in enumerate(order)]
    dataset = write_log(tmp_path / "groups", events)
    store = store_at(tmp_path / "store", dataset)
    split = {"valid_from": 20, "test_from": 30}
    variants = {"id": {"items": "id"}, "near": {"scorer": "mean_history"}}
    asked = config(dataset, store, variants, "after_cutoff", split=split, train={"epochs": 1})
    board = compare(asked, tmp_path / "out")
    assert board is not None and board.new_items is not None
    new = load_run(tmp_path / "out" / "runs" / "near-1").new_items
    assert new is not None and set(new.tokens.tolist()) == {f"g{group}_4" for group in range(GROUPS)}
    assert board.new_items.items == GROUPS and board.new_items.cases == 150 and board.candidates == 48
    assert not new.higher_masked.any() and board.new_items.rows["near"].among_all["masked"]["NDCG@10"].mean == 1
    assert board.new_items.rows["id"].why is not None
    assert any("12 of 60 items (no event before `valid_from`)" in note for note in board.notes)


@pytest.mark.parametrize("split", [None, {"valid_from": 3, "test_from": 4}])
def test_a_board_without_hidden_items_says_that_new_ones_were_not_measured(
    tmp_path: Path, split: dict[str, int] | None
) -> None:
    dataset = world(tmp_path / "groups")
    board = compare(
        config(dataset, tmp_path, {"p": {"scorer": "popularity"}}, None, split=split, baseline="p"), tmp_path / "out"
    )
    assert board is not None and board.new_items is None
    (note,) = [note for note in board.notes if note.startswith("new items were not measured")]
    assert ("after_cutoff" in note) == (split is not None) and ("0.05" in note) == (split is None)
    assert not list((tmp_path / "out").rglob("new_items.npz"))
    assert "new_items" not in json.loads((tmp_path / "out" / "leaderboard.json").read_text("utf-8"))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"evaluate": {"new_items": 0}}, "new_items is 0; expected a share above 0 and up to 0.5, or after_cut"),
        ({"evaluate": {"new_items": 0.6}}, "evaluate.new_items is 0.6; expected a share"),
        ({"evaluate": {"new_items": True}}, "evaluate.new_items is true; expected a share"),
        ({"evaluate": {"new_items": "later"}}, "evaluate.new_items is 'later'; expected a share"),
        ({"evaluate": {"new_items": "after_cutoff"}}, "after_cutoff, and there is no `split` with cut-off times"),
        (
            {"evaluate": {"new_items": 0.1}, "recbole": {"benchmark_filename": ["a", "b", "c"]}},
            "evaluate.new_items needs a log of events, and recbole.benchmark_filename names files of a split",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_hidden_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(tiny_at(tmp_path), "none", **changes)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"item": np.array([1])}, "item has shape"),
        ({"known": np.array(999)}, "item is out of bounds in"),
        ({"higher_new": np.zeros(3, np.int64)}, "higher_new has shape"),
        ({"higher_unmasked": None}, r"lacks 1 of 13 arrays \(higher_unmasked\)"),
        ({"tokens": np.array([1, 2])}, "tokens is int64, expected 'U'"),
    ],
)
def test_arrays_that_can_not_be_ranks_are_told(done: Finished, changes: dict[str, Any], said: str) -> None:
    folder = done.out / "runs" / "near-1"
    with np.load(folder / "new_items.npz") as file:
        arrays = {name: file[name] for name in file.files}
    with pytest.raises(BadRun, match=said):
        new_ranks_of(folder, {name: one for name, one in {**arrays, **changes}.items() if one is not None})


def test_a_file_that_is_none_is_told(done: Finished, tmp_path: Path) -> None:
    out = Path(shutil.copytree(done.out, tmp_path / "copy"))
    (out / "runs" / "near-1" / "new_items.npz").write_bytes(b"no zip")
    with pytest.raises(BadRun, match=r"new_items.npz: can't be read"):
        blair_rec.leaderboard(out)


def test_runs_that_measured_nothing_new_are_left_out_of_the_table(done: Finished, tmp_path: Path) -> None:
    out = Path(shutil.copytree(done.out, tmp_path / "copy"))
    near = out / "runs" / "near-1"
    assert "new_items.npz" in load_run(near).files
    (near / "new_items.npz").unlink()
    without_hashes(near)  # as if it was made before new items were measured
    board = blair_rec.leaderboard(out)
    assert board is not None and board.new_items is not None
    assert board.new_items.rows.keys() == done.table.rows.keys() - {"near"}
