"""Words that several messages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from blair_rec.errors import agreed, counted, out_of, shell_line


@pytest.mark.parametrize(
    ("n", "expected"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (2000, "2,000 rows"), (1234567, "1,234,567 rows")]
)
def test_a_count_agrees_with_its_noun_and_has_commas(n, expected):
    assert counted(n, "row") == expected


@pytest.mark.parametrize(("verb", "one"), [("are", "is"), ("have", "has"), ("were", "was"), ("hold", "holds")])
def test_a_verb_agrees_with_its_number(verb: str, one: str) -> None:
    assert [agreed(n, verb) for n in (0, 1, 2)] == [verb, one, verb]
    assert out_of(1, 2000, "row", verb) == f"1 of 2,000 rows {one}"
    assert out_of(1, 1, "history", verb, "histories") == f"1 of 1 history {one}"


@pytest.mark.parametrize(("n", "expected"), [(0, "0 categories"), (1, "1 category"), (2, "2 categories")])
def test_an_irregular_plural_is_given_by_hand(n, expected):
    assert counted(n, "category", "categories") == expected


def test_a_command_with_spaces_in_a_path_can_be_pasted_into_a_shell():
    assert (
        shell_line("blair-rec", "compare", Path("my shop/my shop.yaml")) == "blair-rec compare 'my shop/my shop.yaml'"
    )
