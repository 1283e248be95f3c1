"""The scores of a second stage, and the trees behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import vectors_for

from blair_rec.errors import CheckpointError, ConfigError, TrainingError
from blair_rec.models.scorer import Scorer
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.rerank import second_stage, trees
from blair_rec.ranking.rerank.features import BEHIND, ItemTable, behind_lists, features
from blair_rec.ranking.rerank.pool import candidates
from blair_rec.ranking.rerank.second_stage import Reranker, places
from blair_rec.ranking.rerank.trees import Trees, fit_trees, sha256_of_text
from blair_rec.ranking.scorers import MeanHistory, Popularity, RecentHistory

N_ITEMS, WIDTH, CASES, TOP = 40, 6, 30, 7


def ensemble() -> Ensemble:
    popular = Popularity(N_ITEMS, "items", "length")
    popular.counts = torch.arange(N_ITEMS).div(7, rounding_mode="floor").float()
    near = [kind(vectors_for(N_ITEMS).table[1:], [], "items", "length") for kind in (MeanHistory, RecentHistory)]
    return Ensemble([popular, *near], [0.2, 0.3, 0.5])


def histories() -> dict[str, torch.Tensor]:
    random = np.random.default_rng(0)
    length = random.integers(1, WIDTH + 1, CASES)
    items = random.integers(1, N_ITEMS, (CASES, WIDTH)) * (np.arange(WIDTH) < length[:, None])
    return {"items": torch.from_numpy(items), "length": torch.from_numpy(length)}


def items_of() -> ItemTable:
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors_for(N_ITEMS).table), dim=1)
    return ItemTable(torch.arange(N_ITEMS).float().log1p(), None, {"near": unit})


@pytest.fixture(scope="module")
def fitted() -> Trees:
    """Trees over the features of `ensemble`, fitted on made-up targets."""
    random = np.random.default_rng(1)
    read = random.standard_normal((400 * 20, 1 + 2 * 3 + 2 + 3 + 4)).astype(np.float32)
    relevant = (read[:, 1].reshape(400, 20) == read[:, 1].reshape(400, 20).max(axis=1, keepdims=True)).ravel()
    return fit_trees(read, relevant, np.full(400, 20), np.arange(400) % 5).trees


@torch.no_grad()
def test_candidates_come_first_in_the_order_of_the_trees_and_the_others_by_the_average(fitted: Trees) -> None:
    members, interaction = ensemble(), histories()
    found = Reranker(members, items_of(), TOP, fitted).full_sort_predict(interaction).numpy()
    scores = members.member_scores(interaction)
    average = members.full_sort_predict(interaction).numpy()
    pool = candidates(scores, interaction, "items", "length", TOP)
    read = features(pool, members.weights, items_of(), interaction["items"], interaction["length"]).numpy()
    pairs = zip(pool.case.tolist(), pool.item.tolist(), strict=True)
    of_trees = dict(zip(pairs, fitted.scores(read), strict=True))
    for case in range(CASES):
        key = {
            item: (True, of_trees[case, item], average[case, item])
            if (case, item) in of_trees
            else (False, average[case, item])
            for item in range(1, N_ITEMS)
        }
        by_hand = sorted(key, key=lambda item, of=key: (tuple(of[item]), -item), reverse=True)
        ours = sorted(range(1, N_ITEMS), key=lambda item, row=found[case]: (row[item], -item), reverse=True)
        assert ours == by_hand
        assert len({found[case, item] for item in key}) == len(set(key.values())), "only tied items are tied"


@torch.no_grad()
def test_scores_do_not_depend_on_how_many_cases_are_scored_together(
    fitted: Trees, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, interaction = Reranker(ensemble(), items_of(), TOP, fitted).eval(), histories()
    together = stage.full_sort_predict(interaction)
    monkeypatch.setattr(second_stage, "CELLS", 3 * N_ITEMS * 4)
    sizes = [len(part["length"]) for part, _, _ in stage.pools(interaction)]
    assert max(sizes) == 4 and sum(sizes) == CASES
    assert torch.equal(stage.full_sort_predict(interaction).argsort(dim=1), together.argsort(dim=1))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_places_are_dense_ranks_by_two_keys(pairs: list[tuple[int, int, int]]) -> None:
    pairs.sort(key=lambda pair: pair[0])
    case, first, second = (np.array(column) for column in zip(*pairs, strict=True))
    expected = [len({(f, s) for c, f, s in pairs if c == own and (f, s) <= (a, b)}) for own, a, b in pairs]
    assert places(case, first, second).tolist() == expected


def test_no_pair_has_no_place() -> None:
    assert len(places(*(np.zeros(0) for _ in range(3)))) == 0


def test_a_second_stage_is_a_scorer_without_vectors_and_without_new_items(fitted: Trees) -> None:
    stage = Reranker(ensemble(), items_of(), TOP, fitted)
    assert isinstance(stage, Scorer) and not stage.scores_by_product
    assert set(stage.state_dict()) == {"weights", "popularity", "recency"}
    for call in (stage.item_matrix, lambda: stage.user_vectors(histories())):
        with pytest.raises(TypeError, match="a second stage does not score by product"):
            call()
    with pytest.raises(ConfigError, match="can't be scored: a second stage .rerank. reads how often an item occurs"):
        stage.append_items(np.zeros((1, 12), np.float32))


# Trees


def example(seed: int) -> dict[str, Any]:
    """Cases whose target is where two numbers have different signs."""
    random = np.random.default_rng(seed)
    cases, size = 300, random.integers(5, 30, 300)
    read = random.standard_normal((int(size.sum()), 3)).astype(np.float32)
    hidden = read[:, 0] * read[:, 1]
    begin = np.cumsum(size) - size
    relevant = np.zeros(len(read), dtype=bool)
    relevant[[start + int(hidden[start : start + n].argmin()) for start, n in zip(begin, size, strict=True)]] = True
    return {"features": read, "relevant": relevant, "size": size, "fold": np.arange(cases) % 5}


def test_trees_find_an_interaction_and_are_the_same_again_with_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_ = example(0)
    fitted = fit_trees(**given_)
    monkeypatch.setattr(trees, "FEW", 0)
    again = fit_trees(**given_)
    found = [one.scores(given_["features"]) for one in (fitted.trees, again.trees)]
    np.testing.assert_array_equal(*found)
    case = np.repeat(np.arange(300), given_["size"])
    held_out = np.concatenate([fitted.by_fold[fold].scores(given_["features"][case % 5 == fold]) for fold in range(5)])
    order = np.concatenate([np.flatnonzero(case % 5 == fold) for fold in range(5)])
    score = np.empty(len(case))
    score[order] = held_out
    first = [score[case == one].argmax() == given_["relevant"][case == one].argmax() for one in range(300)]
    assert np.mean(first) > 0.5, "1 in 17 by chance"
    assert fitted.trees.gains[:2].min() > 5 * fitted.trees.gains[2]


def test_trees_are_read_back_from_their_text_bit_by_bit() -> None:
    given_ = example(1)
    fitted = fit_trees(**given_).trees
    again = Trees(fitted.text)
    np.testing.assert_array_equal(again.scores(given_["features"]), fitted.scores(given_["features"]))
    assert (again.count, again.leaves, len(again.gains)) == (fitted.count, fitted.leaves, 3)
    assert again.leaves == sum(tree["num_leaves"] for tree in again._booster.dump_model()["tree_info"])
    assert sha256_of_text(again.text) == sha256_of_text(fitted.text)


def test_text_that_is_no_tree_is_refused() -> None:
    with pytest.raises(CheckpointError, match="the trees of a second stage can't be read: Model file"):
        Trees("nonsense")


def test_cases_without_candidates_have_no_scores(fitted: Trees) -> None:
    assert fitted.scores(np.zeros((0, 14), np.float32)).shape == (0,)


def test_more_candidates_than_lightgbm_orders_are_refused() -> None:
    size = np.full(5, trees.MOST_CANDIDATES + 1)
    relevant = np.arange(size.sum()) % size[0] == 0
    with pytest.raises(TrainingError, match="10,001 candidates, but LightGBM orders at most 10,000; lower"):
        fit_trees(np.zeros((len(relevant), 1), np.float32), relevant, size, np.arange(5))


def test_trees_read_a_missing_value_as_learnt_or_as_behind_the_list() -> None:
    """Column 1 has missing values in training, and they are the best. Column 2 has none: 0 would be its best rank."""
    random = np.random.default_rng(2)
    read = np.column_stack([np.zeros(400 * 20), random.random(400 * 20), random.integers(0, 20, 400 * 20)])
    read = read.astype(np.float32)
    place = read[:, 2].reshape(400, 20)
    relevant = np.arange(20) == place.argmin(axis=1)[:, None]
    read[:, 1][relevant.ravel()] = np.nan
    found = fit_trees(read, relevant.ravel(), np.full(400, 20), np.arange(400) % 5).trees
    assert 1 not in found.never_missing
    only = fit_trees(read[:, [0, 0, 2]], relevant.ravel(), np.full(400, 20), np.arange(400) % 5).trees
    assert only.never_missing == {2}
    one = np.array([[0, 0, 0], [0, 0, 19], [0, 0, np.nan]], dtype=np.float32)
    best, worst, missing = only.scores(one, behind_lists([True]))
    assert missing == worst < best and behind_lists([False, True]) == {3: -BEHIND, 4: BEHIND}
    assert np.isnan(one[2, 2]), "the features themselves are not changed"
    learnt = found.scores(np.array([[0, np.nan, 5], [0, 0.5, 5]], dtype=np.float32), behind_lists([True]))
    assert learnt[0] > learnt[1]
