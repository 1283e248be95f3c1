"""Metrics against a reference that tries every order of ties, and against RecBole's evaluator."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.errors import ConfigError
from blair_rec.evaluate.metrics import Metric, check_k, metric_values, parse_metric, per_user, top_lists

NAMES = ("NDCG", "Recall", "Hit", "MRR")
counts = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=8)


def worth(name: str, rank: int, k: int) -> float:
    """The textbook value of one target at 0-based `rank`."""
    if rank >= k:
        return 0.0
    return {"NDCG": 1 / math.log2(rank + 2), "MRR": 1 / (rank + 1)}.get(name, 1.0)


def int_pairs(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    higher, equal = np.array(pairs, dtype=np.int64).T
    return higher, equal


@given(pairs=counts, name=st.sampled_from(NAMES), k=st.integers(1, 30))
def test_a_metric_is_its_mean_over_all_orders_of_ties(pairs, name, k):
    expected = [
        math.fsum(worth(name, place, k) for place in range(higher, higher + equal + 1)) / (equal + 1)
        for higher, equal in pairs
    ]
    found = per_user(Metric(name, k), *int_pairs(pairs))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@given(
    scores=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    data=st.data(),
    name=st.sampled_from(NAMES),
    k=st.integers(1, 7),
)
def test_counts_of_a_score_vector_give_what_all_orders_of_its_ranking_give_on_average(scores, data, name, k):
    true = data.draw(st.integers(0, len(scores) - 1))
    values = []
    for order in permutations(range(len(scores))):  # a stable sort keeps the order among equals that it was given
        ranking = sorted(order, key=lambda item: -scores[item])
        values.append(worth(name, ranking.index(true), k))
    higher = sum(score > scores[true] for score in scores)
    equal = sum(score == scores[true] for score in scores) - 1
    found = per_user(Metric(name, k), np.array([higher]), np.array([equal]))
    assert found[0] == pytest.approx(math.fsum(values) / len(values), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 10, 50])
def test_a_constant_scorer_gets_chance_level(k):
    items = 50
    found = metric_values([f"Recall@{k}", f"NDCG@{k}"], np.zeros(7, dtype=np.int64), np.full(7, items - 1))
    assert found[f"Recall@{k}"] == pytest.approx(k / items, abs=1e-12)
    assert found[f"NDCG@{k}"] == pytest.approx(sum(1 / math.log2(rank + 2) for rank in range(k)) / items, abs=1e-12)


@given(pairs=counts, name=st.sampled_from(NAMES), k=st.integers(1, 30))
def test_a_metric_lies_in_0_to_1_never_falls_with_k_and_never_rises_with_a_better_rival(pairs, name, k):
    higher, equal = int_pairs(pairs)
    found = per_user(Metric(name, k), higher, equal)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    assert (per_user(Metric(name, k + 1), higher, equal) >= found - 1e-12).all()
    assert (per_user(Metric(name, k), higher + 1, equal) <= found + 1e-12).all()


def test_a_miss_is_0_and_still_counts_as_a_user():
    higher, equal = np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64)
    miss = np.array([False, True, False, False])
    assert per_user("MRR@5", higher, equal, miss).tolist() == [1.0, 0.0, 1.0, 1.0]
    assert metric_values(["MRR@5"], higher, equal, miss) == {"MRR@5": 0.75}


def test_recall_and_hit_are_the_same_with_one_target_and_hr_is_hit():
    higher, equal = np.arange(6), np.array([0, 3, 1, 0, 2, 0])
    found = metric_values(["Recall@3", "Hit@3", "HR@3"], higher, equal)
    assert list(found) == ["Recall@3", "Hit@3", "HR@3"]
    assert len(set(found.values())) == 1
    assert parse_metric("HR@3") == parse_metric("hit@3") == Metric("Hit", 3)


@given(name=st.sampled_from(NAMES), k=st.integers(1, 10**6))
def test_a_metric_reads_its_own_name_back(name, k):
    assert parse_metric(str(Metric(name, k))) == Metric(name, k)
    assert parse_metric(f"{name.lower()}@{k}") == Metric(name, k)


def test_a_metric_equals_what_recbole_evaluates_without_ties(monkeypatch):
    # RecBole 1.2 was written for numpy before 1.24.
    monkeypatch.setattr(np, "float", float, raising=False)
    from recbole.evaluator import metrics as theirs

    generator = np.random.default_rng(5)
    topk = [1, 2, 5, 10, 20]
    higher = np.concatenate([np.arange(25), generator.integers(0, 60, size=100)])
    # The output of RecBole's collector: which of the top max(k) places have the target, and the number of targets.
    pos_index = np.arange(max(topk)) == higher[:, None]
    pos_len = np.ones(len(higher), dtype=np.int64)
    config = {"metric_decimal_place": 12, "topk": topk}
    tables = {
        "NDCG": theirs.NDCG(config).metric_info(pos_index, pos_len),
        "Recall": theirs.Recall(config).metric_info(pos_index, pos_len),
        "Hit": theirs.Hit(config).metric_info(pos_index),
        "MRR": theirs.MRR(config).metric_info(pos_index),
    }
    for name, table in tables.items():
        for k in topk:
            ours = per_user(Metric(name, k), higher, np.zeros_like(higher))
            np.testing.assert_allclose(ours, table[:, k - 1], rtol=0, atol=1e-12, err_msg=f"{name}@{k}")


@pytest.mark.parametrize("text", ["MAP@10", "NDCG", "NDCG@", "@10", "NDCG@ten", "NDCG@-1", "NDCG@1.5", "", "NDCG@10@5"])
def test_an_unknown_metric_is_refused_with_the_known_ones(text):
    with pytest.raises(ConfigError, match=r"known: NDCG@k, Recall@k, Hit@k \(or HR@k\), MRR@k"):
        parse_metric(text)


def test_a_cutoff_below_one_is_refused():
    with pytest.raises(ConfigError, match="'NDCG@0': the cutoff has to be at least 1"):
        parse_metric("NDCG@0")


def test_a_cutoff_beyond_the_items_is_refused_with_both_numbers():
    check_k(["NDCG@10", "Recall@1682"], 1682)
    with pytest.raises(ConfigError, match="Recall@2000 needs at least 2,000 items to rank, .* only 1,682"):
        check_k(["NDCG@10", "Recall@2000"], 1682)


def test_an_enormous_cutoff_needs_no_enormous_table():
    assert per_user("Recall@999999999999", np.array([3]), np.array([0])).tolist() == [1.0]


def test_invalid_counts_are_refused():
    zeros = np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="higher counts items, but 1 of 3 values is negative"):
        per_user("NDCG@10", np.array([0, -1, 2]), zeros)
    with pytest.raises(ValueError, match=r"equal has to be \[users\] integers, not \[3\] float64"):
        per_user("NDCG@10", zeros, np.full(3, np.nan))
    with pytest.raises(ValueError, match=r"disagree about the number of users: \[3, 2\]"):
        per_user("NDCG@10", zeros, zeros[:2])
    with pytest.raises(ValueError, match=r"disagree about the number of users: \[3, 3, 1\]"):
        per_user("NDCG@10", zeros, zeros, np.array([True]))


def test_no_users_have_no_mean():
    nobody = np.zeros(0, dtype=np.int64)
    assert per_user("NDCG@10", nobody, nobody).shape == (0,)
    with pytest.raises(ValueError, match="no test cases to average over"):
        metric_values(["NDCG@10"], nobody, nobody)


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=4, max_size=4), min_size=1, max_size=8),
    st.lists(st.integers(0, 9), min_size=6, max_size=6),
    st.integers(1, 4),
)
def test_what_is_recommended_is_counted_place_by_place(lists, counts, k):
    """Places with 0 are empty; the Gini coefficient by its definition, over all pairs of items."""
    shown = [item for places in lists for item in places[:k] if item > 0]
    often = [shown.count(item) for item in range(1, 7)]
    found = top_lists(np.array(lists, dtype=np.int32), np.array([0, *counts]), k)
    assert found.k == k
    assert found.coverage == pytest.approx(len(set(shown)) / 6)
    assert found.popularity == pytest.approx(sum(counts[item - 1] for item in shown) / len(shown) if shown else 0.0)
    pairs = sum(abs(one - other) for one in often for other in often) / 36
    assert found.gini == pytest.approx(pairs / (2 * sum(often) / 6) if shown else 0.0)
