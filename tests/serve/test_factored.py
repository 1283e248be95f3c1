"""A table of rules as a product of vectors: NumPy's full SVD, a sum in plain Python, and the rules themselves agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from blair_rec.errors import ConfigError
from blair_rec.ranking.best import best_columns
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.scorers import LastItem, Markov, Rules, SequentialRules
from blair_rec.serve.export.factored import FactoredRules, factored, factors_of, tables_in

FIELDS = "items", "length"


def random_table(items: int, seed: int = 0, share: float = 0.2) -> np.ndarray:
    """[items + 1, items + 1] with an empty row and column for the padding, and some others that are empty."""
    dice = np.random.default_rng(seed)
    table = np.where(dice.random((items + 1, items + 1)) < share, dice.gamma(0.5, size=(items + 1, items + 1)), 0)
    table[0], table[:, 0], table[items // 2], table[:, 3] = 0, 0, 0, 0
    return table


def rules_with(table: np.ndarray, kind: type[Rules] = SequentialRules) -> Rules:
    """Rules with this table, and a popularity that differs from item to item."""
    rules, sparse = kind(len(table), *FIELDS), csr_array(table)
    rules.share = torch.linspace(0, 0.9, len(table))
    rules.start, rules.successor = torch.from_numpy(sparse.indptr).long(), torch.from_numpy(sparse.indices).long()
    rules.transitions = torch.from_numpy(sparse.data).float()
    return rules


def cases(items: int, count: int = 40, width: int = 6) -> dict[str, torch.Tensor]:
    """Random histories, padded at the end; some items occur twice."""
    dice = np.random.default_rng(1)
    length = dice.integers(1, width + 1, count)
    found = dice.integers(1, items + 1, (count, width)) * (np.arange(width) < length[:, None])
    return {"items": torch.from_numpy(found), "length": torch.from_numpy(length)}


@pytest.mark.parametrize("balance", [0.0, 0.25])
@pytest.mark.parametrize("rank", [1, 4, 29, 30, 60])  # by ARPACK below half of the items, else by a full SVD
def test_the_product_is_the_truncated_svd_by_numpy(rank: int, balance: float) -> None:
    table = random_table(60)
    found = factors_of(csr_array(table), rank, balance)
    inner = table[1:, 1:]
    left, right = (np.where(sums > 0, sums, 1) ** balance for sums in (inner.sum(axis=1), inner.sum(axis=0)))
    u, values, v = np.linalg.svd(inner / np.outer(left, right))
    expected = np.outer(left, right) * (u[:, :rank] @ np.diag(values[:rank]) @ v[:rank])
    assert found.sources.shape == found.targets.shape == (60, rank) and found.sources.dtype == np.float32
    np.testing.assert_allclose(found.sources @ found.targets.T, expected, atol=1e-5 * inner.max())
    lost = np.square(inner - expected).sum() / np.square(inner).sum()
    assert found.kept == pytest.approx(1 - lost, abs=1e-9)
    if not balance:
        assert found.kept == pytest.approx(np.square(values[:rank]).sum() / np.square(values).sum(), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 30), st.integers(0, 1000), st.floats(0, 1))
def test_the_full_rank_gives_the_table_back_and_a_lower_one_the_same_vectors_again(
    items: int, seed: int, share: float
) -> None:
    table = csr_array(random_table(max(items, 3), seed, share))
    items = table.shape[0] - 1
    full = factors_of(table, items)
    np.testing.assert_allclose(full.sources @ full.targets.T, table.toarray()[1:, 1:], atol=1e-5)
    assert full.kept == pytest.approx(1)
    for rank in (1, items):
        first, second = factors_of(table, rank), factors_of(table, rank)
        assert (first.sources == second.sources).all() and (first.targets == second.targets).all()


def test_a_table_without_rules_has_vectors_of_zeros() -> None:
    found = factors_of(csr_array((9, 9)), 3)
    assert found.kept == 1 and not found.sources.any() and found.targets.shape == (8, 3)


@pytest.mark.parametrize("rank", [-1, 0, 61])
def test_a_rank_that_is_not_between_one_and_the_number_of_items_is_refused(rank: int) -> None:
    with pytest.raises(ConfigError, match=rf"rules_rank is {rank}; it has to be between 1 and 60, the number of items"):
        factors_of(csr_array(random_table(60)), rank)


@pytest.mark.parametrize("kind", [SequentialRules, Markov])
def test_scores_are_sums_over_the_history_in_plain_python(kind: type[Rules]) -> None:
    rules = rules_with(random_table(60), kind)
    made, _ = factored(rules, 5)
    assert made.scores_by_product and made.rules is rules and not list(made.children())
    found = factors_of(csr_array(random_table(60)), 5)
    asked = cases(60)
    scores = made.full_sort_predict(asked)
    for row, history, length in zip(scores, asked["items"].tolist(), asked["length"].tolist(), strict=True):
        newest = list(enumerate(reversed(history[:length]), start=1))[: kind.LAST_ITEMS]
        for item in (1, 17, 60):
            vectors = [found.sources[one - 1].astype(float) / age for age, one in newest]
            expected = float(sum(vectors) @ found.targets[item - 1]) + kind.POPULARITY * float(rules.share[item])
            assert float(row[item]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", [SequentialRules, Markov])
def test_at_the_full_rank_the_best_items_are_those_of_the_rules_alone_and_in_an_average(kind: type[Rules]) -> None:
    table, asked = random_table(60, share=0.9), cases(60)
    rules = rules_with(table, kind)
    near = LastItem(np.random.default_rng(2).standard_normal((60, 8)).astype(np.float32), [], *FIELDS)
    made, kept = factored(rules, 60)
    assert kept == pytest.approx(1)
    pairs: list[Any] = [(rules, made), (Ensemble([near, rules], [0.6, 0.4]), Ensemble([near, made], [0.6, 0.4]))]
    for exact, product in pairs:
        vectors = product.user_vectors(asked) @ product.item_matrix().T
        expected = exact.full_sort_predict(asked)
        for scores in (product.full_sort_predict(asked), vectors):
            ours, theirs = (best_columns(some[:, 1:], 10)[0] for some in (scores, expected))
            assert (ours == theirs).all()


def test_in_an_average_each_history_is_standardised_by_the_approximate_scores() -> None:
    made, _ = factored(rules_with(random_table(60)), 5)
    asked = cases(60)
    vectors = Ensemble([made], [1.0]).user_vectors(asked) @ made.item_matrix().T
    np.testing.assert_allclose(vectors[:, 1:].std(dim=1, correction=0), 1, rtol=1e-3)


def test_rules_that_score_in_their_own_way_are_no_table() -> None:
    class Own(SequentialRules):
        def full_sort_predict(self, interaction: Any) -> torch.Tensor:
            return super().full_sort_predict(interaction).square()

    table, near = rules_with(random_table(60)), LastItem(np.eye(60, dtype=np.float32), [], *FIELDS)
    assert tables_in(Own(61, *FIELDS)) == [] == tables_in(near)
    assert tables_in(Ensemble([near, Ensemble([table, near]), table])) == [table, table]
    assert not isinstance(table, FactoredRules)
