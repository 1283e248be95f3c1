"""The scorers that only benchmarks measure, EASE and EASE regularised by text, against brute force."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rules import FIELDS, HISTORIES, sequences_of

from blair_rec.errors import ConfigError

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from left_out_scorers import Ease, TextEase

ITEMS = 6
VECTORS = np.random.default_rng(0).standard_normal((ITEMS, 4))


def taken(histories: list[list[int]]) -> np.ndarray:
    """[users, items] 1 where a user has an item."""
    return np.array([[float(item in history) for item in range(1, ITEMS + 1)] for history in histories])


def solved_by_columns(
    known: np.ndarray, l2: float, close_to: np.ndarray | None = None, strength: float = 0
) -> np.ndarray:
    """Ridge regression of each column of `known` on all other columns, one by one: [n, n] with a diagonal of 0."""
    size = known.shape[1]
    found = np.zeros((size, size))
    for column in range(size):
        others = [other for other in range(size) if other != column]
        x = known[:, others]
        aim = x.T @ known[:, column] + (0 if close_to is None else strength * close_to[others, column])
        found[others, column] = np.linalg.solve(x.T @ x + (l2 + strength) * np.eye(size - 1), aim)
    return found


@settings(max_examples=20, deadline=None)
@given(HISTORIES, st.sampled_from([0.5, 3, 100]))
def test_ease_is_the_ridge_regression_of_each_item_on_the_others(histories: list[list[int]], l2: float) -> None:
    found = Ease(ITEMS + 1, *FIELDS, l2=l2).table(sequences_of(histories)).toarray()
    np.testing.assert_allclose(found[1:, 1:], solved_by_columns(taken(histories), l2), atol=1e-5)
    assert not found[0].any() and not found[:, 0].any()


@settings(max_examples=20, deadline=None)
@given(HISTORIES, st.sampled_from([0.5, 20]), st.sampled_from([0, 2, 30]), st.sampled_from([0.3, 5]))
def test_text_ease_is_the_regression_that_stays_close_to_that_of_the_texts(
    histories: list[list[int]], l2: float, text: float, text_l2: float
) -> None:
    scorer = TextEase(VECTORS, [], *FIELDS, l2=l2, text=text, text_l2=text_l2)
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    of_text = solved_by_columns(unit.T, text_l2)
    expected = solved_by_columns(taken(histories), l2, of_text, text)
    np.testing.assert_allclose(scorer.table(sequences_of(histories)).toarray()[1:, 1:], expected, atol=2e-5)


def test_only_the_largest_numbers_of_each_item_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    log = sequences_of([[1, 2, 3], [1, 2], [4, 5, 6], [2, 6, 4]])
    whole = Ease(ITEMS + 1, *FIELDS, l2=1).table(log).toarray()
    monkeypatch.setattr(Ease, "KEPT", 2)
    found = Ease(ITEMS + 1, *FIELDS, l2=1).table(log).toarray()
    for row in range(1, ITEMS + 1):
        assert sorted(found[row][found[row] != 0]) == pytest.approx(sorted(whole[row, 1:])[-2:])


def test_ease_refuses_a_catalogue_above_its_limit_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ease, "MOST_ITEMS", 4)
    Ease(5, *FIELDS)
    for build in (lambda: Ease(6, *FIELDS), lambda: TextEase(np.eye(5), [], *FIELDS)):
        with pytest.raises(ConfigError, match="takes at most 4 items; this data set has 5; use scorer: sequential_"):
            build()
