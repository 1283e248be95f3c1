"""Words that several messages share."""

from __future__ import annotations

import pytest

from blair_rec.errors import counted


@pytest.mark.parametrize(
    ("n", "expected"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (2000, "2,000 rows"), (1234567, "1,234,567 rows")]
)
def test_a_count_agrees_with_its_noun_and_has_commas(n, expected):
    assert counted(n, "row") == expected


@pytest.mark.parametrize(("n", "expected"), [(0, "0 categories"), (1, "1 category"), (2, "2 categories")])
def test_an_irregular_plural_is_given_by_hand(n, expected):
    assert counted(n, "category", "categories") == expected
