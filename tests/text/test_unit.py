"""Vectors of length 1."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from blair_rec.text.unit import unit_rows


def by_hand(row: list[float]) -> list[float]:
    """The row divided by its length, from exact fractions; zeros for a zero row."""
    length = math.sqrt(sum(Fraction(number) ** 2 for number in row))
    return [float(Fraction(number) / Fraction(length)) if length else 0.0 for number in row]


@pytest.mark.parametrize(("dtype", "shortest"), [(np.float32, 1e-15), (np.float64, 1e-150)])
def test_every_row_gets_length_1_whatever_its_length(dtype: type, shortest: float) -> None:
    scales = np.geomspace(shortest, 1 / shortest, 9)[:, None]
    vectors = (np.random.default_rng(0).standard_normal((9, 5)) * scales).astype(dtype)
    unit = unit_rows(vectors)
    assert unit.dtype == dtype
    expected = [by_hand(row) for row in vectors.tolist()]
    np.testing.assert_allclose(unit, expected, rtol=0, atol=4 * np.finfo(dtype).eps)


@pytest.mark.filterwarnings("error")
def test_a_zero_row_stays_zero_without_a_warning() -> None:
    vectors = np.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_array_equal(unit_rows(vectors), [[0, 0], [0.6, 0.8]])
    np.testing.assert_array_equal(vectors, [[0, 0], [3, 4]], err_msg="the given vectors were changed")
    assert unit_rows(np.empty((0, 3), np.float32)).shape == (0, 3)


def test_a_row_becomes_zero_unless_it_is_longer_than_least() -> None:
    np.testing.assert_array_equal(unit_rows(np.array([[3.0, 4.0], [6.0, 8.0]]), least=5), [[0, 0], [0.6, 0.8]])


def test_squares_that_float32_rounds_to_zero_make_a_row_zero() -> None:
    short = np.array([[1e-25, 0]])
    assert unit_rows(short.astype(np.float32)).tolist() == [[0, 0]]
    assert unit_rows(short).tolist() == [[1, 0]]
