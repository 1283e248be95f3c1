"""Baselines: they count the training split alone, and score by their definitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import Recorder, config_of
from encoders import build_roberta
from fake_runs import MINILM, fake_ranks, fake_run
from worlds import built, cases, read_log, vectors_for, write_log

import blair_rec
from blair_rec.config.comparison import read_config
from blair_rec.config.variant import VariantConfig
from blair_rec.data.dataset import ItemVectors, TextSequentialDataset
from blair_rec.data.sequences import training_sequences
from blair_rec.errors import ConfigError
from blair_rec.evaluate.leaderboard import build_leaderboard
from blair_rec.evaluate.runs.results import load_runs
from blair_rec.experiment.compare import compare
from blair_rec.models.text_models import count_parameters
from blair_rec.ranking.scorers import Markov, Popularity, build_baseline
from blair_rec.ranking.scorers.neighbours import unit_length
from blair_rec.ranking.scoring import rank
from blair_rec.training.checkpoint import load_weights, save_weights


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


def made(scorer: str, splits: list[Any], vectors: ItemVectors | None = None, **setup: Any) -> Any:
    """A baseline over a data set's training split."""
    train = splits[0]
    whole = {"scorer": scorer, "transforms": [], "control": None, "seed": 1, **setup}
    baseline = build_baseline(whole, train.config, train.item_num, vectors)
    baseline.count(training_sequences(train))
    return baseline


def scores(baseline: Any, split: Any) -> np.ndarray:
    """[B, N] of every case of a split."""
    return baseline.full_sort_predict(split[torch.arange(len(split))]).numpy()


def training_events(folder: Path) -> list[tuple[str, list[str]]]:
    """(user, items in order) of all but the last two events, straight from the file."""
    events: dict[str, list[tuple[int, int, str]]] = {}
    for line, (user, item, time) in enumerate(read_log(folder)):
        events.setdefault(user, []).append((time, line, item))
    return [(user, [item for *_, item in sorted(of_user)[:-2]]) for user, of_user in events.items()]


def token_ids(split: Any) -> dict[str, int]:
    return {str(token): number for number, token in enumerate(split.field2id_token["item_id"])}


def test_popularity_counts_training_events_and_none_of_validation_or_test(tiny: Path) -> None:
    _, splits = built(TextSequentialDataset, tiny)
    expected = np.zeros(splits[0].item_num)
    for _, items in training_events(tiny):
        for item in items:
            expected[token_ids(splits[0])[item]] += 1
    found = scores(made("popularity", splits), splits[2])
    np.testing.assert_array_equal(found, np.tile(expected, (len(splits[2]), 1)))


def test_the_most_popular_item_of_a_known_world_is_first_for_everybody(tmp_path: Path) -> None:
    """b is in three training histories, a and c in one each. d is everybody's test target, which isn't counted."""
    histories = {"u1": "abed", "u2": "bced", "u3": "bfed"}
    log = [(user, item, time) for user, items in histories.items() for time, item in enumerate(items)]
    _, splits = built(TextSequentialDataset, write_log(tmp_path / "known", log))
    ids = token_ids(splits[0])
    ranks = rank(made("popularity", splits), splits[2], batch_size=2, k=1)
    assert (ranks.topk_unmasked[:, 0] == ids["b"]).all()
    assert set(ranks.higher_unmasked) == {4} and set(ranks.equal_unmasked) == {1}  # like d, e has no training event


def test_markov_scores_are_transition_counts_and_popularity_breaks_ties(tiny: Path) -> None:
    _, splits = built(TextSequentialDataset, tiny)
    ids, n_items = token_ids(splits[0]), splits[0].item_num
    counts, popularity = np.zeros((n_items, n_items)), np.zeros(n_items)
    for _, items in training_events(tiny):
        for item in items:
            popularity[ids[item]] += 1
        for before, after in zip(items, items[1:], strict=False):
            counts[ids[before], ids[after]] += 1
    found = scores(made("markov", splits), splits[2])
    lasts = [ids[history[-1]] for _, history, _ in cases([splits[2]])]
    np.testing.assert_allclose(found, counts[lasts] + popularity / (1 + popularity.max()), rtol=1e-6)
    for last, row in zip(lasts, found, strict=True):
        by_definition = sorted(range(n_items), key=lambda item: (-counts[last, item], -popularity[item]))
        keys = [(counts[last, item], popularity[item]) for item in by_definition]
        ours = [(counts[last, item], popularity[item]) for item in np.argsort(-row, kind="stable")]
        assert ours == keys


def test_markov_falls_back_to_popularity_after_an_item_that_training_never_continued(tmp_path: Path) -> None:
    """In training no item follows x, both users' validation item, so no rule applies at the end of y's history."""
    log = [(user, item, time) for user in ("u1", "u2") for time, item in enumerate("aabxy")]
    _, splits = built(TextSequentialDataset, write_log(tmp_path / "unseen", log))
    popularity, markov = (scores(made(name, splits), splits[2]) for name in ("popularity", "markov"))
    np.testing.assert_array_equal(np.argsort(-popularity, axis=1), np.argsort(-markov, axis=1))
    assert markov.max() < 1


def test_sequential_rules_count_what_came_soon_after_the_items_of_the_history(tiny: Path) -> None:
    """By hand: an item d <= 10 events after another one in training counts 1 / d, times 1 / age in the history."""
    config, splits = built(TextSequentialDataset, tiny)
    ids, n_items, window = token_ids(splits[0]), splits[0].item_num, config["MAX_ITEM_LIST_LENGTH"]
    rules, popularity = np.zeros((n_items, n_items)), np.zeros(n_items)
    for _, items in training_events(tiny):
        for item in items:
            popularity[ids[item]] += 1
        for begin, before in enumerate(items):
            for distance, after in enumerate(items[begin + 1 : begin + 11], start=1):
                rules[ids[before], ids[after]] += 1 / distance
    assert max(len(items) for _, items in training_events(tiny)) > 11  # so that 10 is a bound
    found = scores(made("sequential_rules", splits), splits[2])
    for row, (_, history, _) in zip(found, cases([splits[2]]), strict=True):
        expected = sum(rules[ids[item]] / age for age, item in enumerate(history[: -window - 1 : -1], start=1))
        np.testing.assert_allclose(row, expected + 1e-4 * popularity / (1 + popularity.max()), rtol=1e-4)


@pytest.mark.parametrize("scorer", ["popularity", "markov", "sequential_rules"])
def test_another_validation_or_test_item_changes_no_count(tiny: Path, tmp_path: Path, scorer: str) -> None:
    _, splits = built(TextSequentialDataset, tiny)
    log = read_log(tiny)
    last_times = {user: sorted(time for who, _, time in log if who == user)[-2:] for user, *_ in log}
    items = sorted({item for _, item, _ in log})
    changed = [
        (user, items[(items.index(item) + 1) % len(items)] if time in last_times[user] else item, time)
        for user, item, time in log
    ]
    _, others = built(TextSequentialDataset, write_log(tmp_path / "changed", changed))
    assert changed != log

    def by_token(splits: list[Any]) -> dict[tuple[str, str], float]:
        """The score of every item after every item, by item token."""
        ids, n_items = token_ids(splits[0]), splits[0].item_num
        every = {"item_id_list": torch.arange(n_items).unsqueeze(1), "item_length": torch.ones(n_items, dtype=int)}
        table = made(scorer, splits).full_sort_predict(every).tolist()
        return {(last, item): table[ids[last]][ids[item]] for last in items for item in items}

    assert by_token(others) == by_token(splits)


def brute_force_cosines(table: np.ndarray, history: list[int], weights: list[float]) -> np.ndarray:
    """[N] mean cosine of every item to the items of a history, one pair at a time, in float64."""
    table = table.astype(np.float64)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        size = np.sqrt((a * a).sum()) * np.sqrt((b * b).sum())
        return float((a * b).sum() / size) if size > 0 else 0.0

    return np.array([np.average([cosine(row, table[item]) for item in history], weights=weights) for row in table])


@pytest.mark.parametrize(
    "scorer, weights",
    [("last_item", [1]), ("mean_history", [1] * 6), ("recent_history", [1 / 6, 1 / 5, 1 / 4, 1 / 3, 1 / 2, 1])],
)
def test_neighbours_score_by_the_mean_cosine_to_items_of_the_history(
    tiny: Path, scorer: str, weights: list[float]
) -> None:
    config, splits = built(TextSequentialDataset, tiny)
    assert config["MAX_ITEM_LIST_LENGTH"] == 6
    vectors = vectors_for(splits[0].item_num)
    vectors.table[5] = 0  # an item without text is not a neighbour of any item
    found, ids = scores(made(scorer, splits, vectors), splits[2]), token_ids(splits[0])
    for row, (_, history, _) in list(zip(found, cases([splits[2]]), strict=True))[::10]:
        seen = [ids[item] for item in history[-len(weights) :]]
        expected = brute_force_cosines(vectors.table, seen, weights[-len(seen) :])
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_neighbours_use_transformed_vectors(tiny: Path) -> None:
    _, splits = built(TextSequentialDataset, tiny)
    vectors = vectors_for(splits[0].item_num)
    centred = vectors.table.astype(np.float64)
    centred[1:] -= centred[1:].mean(axis=0)
    plain, found = (scores(made("last_item", splits, vectors, transforms=t), splits[2]) for t in ([], ["center"]))
    by_hand = scores(made("last_item", splits, ItemVectors(centred, "")), splits[2])
    np.testing.assert_allclose(found, by_hand, atol=1e-6)
    assert np.abs(found - plain).max() > 0.1


def test_a_control_shuffles_the_neighbours_texts_by_the_seed(tiny: Path) -> None:
    _, splits = built(TextSequentialDataset, tiny)
    vectors = vectors_for(splits[0].item_num)
    plain, first, again, other = (
        made("last_item", splits, vectors, control=control, seed=seed).unit
        for control, seed in ((None, 1), ("shuffle", 1), ("shuffle", 1), ("shuffle", 2))
    )
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first, plain)
    assert torch.equal(first.sum(1).sort().values, plain.sum(1).sort().values)


@pytest.mark.parametrize("scorer", ["popularity", "markov", "sequential_rules", "last_item", "recent_history"])
def test_what_was_counted_is_read_back_bit_for_bit(tiny: Path, tmp_path: Path, scorer: str) -> None:
    _, splits = built(TextSequentialDataset, tiny)
    vectors = vectors_for(splits[0].item_num) if scorer in ("last_item", "recent_history") else None
    sha256 = vectors.store_sha256 if vectors else None
    baseline = made(scorer, splits, vectors)
    save_weights(baseline, tmp_path / "model.safetensors", sha256)
    setup = {"scorer": scorer, "transforms": [], "control": None, "seed": 1}
    again = build_baseline(setup, splits[0].config, splits[0].item_num, vectors)
    load_weights(again, tmp_path / "model.safetensors", sha256)
    np.testing.assert_array_equal(scores(again, splits[2]), scores(baseline, splits[2]))
    assert count_parameters(baseline)["trained"] == 0


def test_baselines_are_models_without_a_gradient() -> None:
    for baseline in (Popularity(5, "items", "length"), Markov(5, "items", "length")):
        assert list(baseline.parameters()) == [] and baseline.eval() is baseline


# In a comparison

BASELINES = {
    "id": {"items": "id"},
    "popular": {"scorer": "popularity"},
    "markov": {"scorer": "markov"},
    "neighbours": {"scorer": "last_item", "transforms": ["center"]},
    "mean_neighbours": {"scorer": "mean_history"},
    "rules": {"scorer": "sequential_rules"},
    "recent_neighbours": {"scorer": "recent_history"},
}


def test_baselines_are_on_the_leaderboard_without_an_epoch(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    config, listener = config_of(tiny, encoder, variants=BASELINES, seeds=[1, 2], train={"epochs": 1}), Recorder()
    board = compare(config, tmp_path / "out", listener=listener)
    assert board is not None and listener.epochs == 2  # those of id, one per seed
    rows = {row.variant: row for row in board.rows}
    assert {name: row.items for name, row in rows.items()} == {
        "id": "id", "popular": "popularity", "markov": "markov", "neighbours": "last_item",
        "mean_neighbours": "mean_history", "rules": "sequential_rules", "recent_neighbours": "recent_history",
    }  # fmt: skip
    for name in set(BASELINES) - {"id"}:
        assert rows[name].epochs == 0 and rows[name].parameters.trained == 0 and rows[name].trials == 0
        summary = rows[name].metrics["masked"]["NDCG@10"]
        assert summary.per_seed[0] == summary.per_seed[1] and summary.mean > 0
        result = json.loads((tmp_path / "out" / "runs" / f"{name}-1" / "result.json").read_text("utf-8"))
        assert result["selection"] is None
    assert rows["neighbours"].encoder is not None and rows["popular"].encoder is None

    again = Recorder()
    compare(config, tmp_path / "out", listener=again)
    assert again.started_runs == []

    longer = config_of(tiny, encoder, variants=BASELINES, seeds=[1, 2], train={"epochs": 2})
    only = longer.only(["popular", "markov", "neighbours"])
    compare(only, tmp_path / "out", listener=again)  # training-free variants don't depend on the number of epochs
    assert again.started_runs == []


def test_a_baseline_recommends_like_any_run(tiny: Path, encoder: Path, tmp_path: Path) -> None:
    variants = {name: BASELINES[name] for name in BASELINES if name != "id"}
    config = config_of(tiny, encoder, variants=variants, baseline="popular", seeds=[1])
    compare(config, tmp_path / "out")
    histories = [
        history for _, history, _ in cases([built(TextSequentialDataset, tiny, MAX_ITEM_LIST_LENGTH=10)[1][2]])
    ][:5]
    for name in variants:
        folder = tmp_path / "out" / "runs" / f"{name}-1"
        found = blair_rec.load(folder).recommend(histories, k=3, exclude_history=False)
        tokens = json.loads((folder / "items.json").read_text("utf-8"))
        with np.load(folder / "topk.npz") as top:
            best = [tokens[item] for item in top["unmasked"][:5, 0]]
        assert [row[0].item_token for row in found] == best or name == "popular"
        assert all(row[0].score >= row[1].score >= row[2].score for row in found)


def test_models_that_a_training_free_scorer_beats_are_named(tmp_path: Path) -> None:
    """The models `worse`, `equal` and `id` are named; a control, a better model and a training-free scorer are not."""
    places = {"id": 9, "worse": 5, "equal": 2, "better": 0, "shuffled": 9, "near": 2, "far": 5}
    for variant, place in places.items():
        scorer = {"near": "last_item", "far": "sequential_rules"}.get(variant)
        ranks = fake_ranks(
            cases=40,
            higher_unmasked=np.full(40, place),
            higher_masked=np.full(40, place),
            equal_unmasked=np.zeros(40, dtype=np.int64),
            equal_masked=np.zeros(40, dtype=np.int64),
        )
        fake_run(
            tmp_path,
            variant,
            1,
            ranks=ranks,
            items=scorer or ("id" if variant == "id" else "text"),
            encoder=None if variant in ("id", "far") else MINILM,
            control="shuffle" if variant == "shuffled" else None,
            parameters={"trained": 0 if scorer else 1234, "frozen": 0},
        )
    board = build_leaderboard(load_runs(tmp_path), "id", ["MRR@10"], "unmasked")
    assert [note for note in board.notes if "training" in note] == [
        "equal (0.3333), id (0.1000), worse (0.1667) do not beat training-free near (0.3333) on MRR@10 (unmasked)"
    ]


# What a config may say


@pytest.mark.parametrize(
    "variant, message",
    [
        ({"scorer": "popularty"}, r"scorer is 'popularty'; did you mean 'popularity'\?"),
        ({"scorer": "markov", "items": "text"}, r"scorer: markov is not trained, so leave items out"),
        ({"scorer": "last_item", "train": {"epochs": 3}}, r"scorer: last_item is not trained, so leave train out"),
        (
            {"scorer": "popularity", "transforms": ["l2"]},
            r"scorer: popularity uses no text; leave transforms, control and",
        ),
        ({"scorer": "markov", "recbole": {"n_layers": 1}}, r"scorer: markov is not trained, so leave recbole out"),
        ({"scorer": "markov", "model": "GRU4Rec"}, r"scorer: markov is not trained, so leave model out"),
    ],
)
def test_a_baseline_refuses_settings_that_it_does_not_use(variant: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VariantConfig(**variant)


def test_neighbours_need_text_fields() -> None:
    raw = {"dataset": "d", "variants": {"id": {}, "near": {"scorer": "last_item"}}}
    with pytest.raises(ConfigError, match=r"variants.near uses text, but text.fields names no metadata field"):
        read_config(raw)
    assert read_config({**raw, "variants": {"id": {}, "popular": {"scorer": "popularity"}}}).variants["popular"].kind


def test_short_vectors_keep_their_direction() -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 3))
    vectors[4] = 0
    torch.testing.assert_close(unit_length(vectors * 1e-30), unit_length(vectors))
