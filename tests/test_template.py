"""A record becomes one line; a field that nobody has is an error that names the near one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.errors import ConfigError, MissingField
from blair_rec.text.catalogue import Catalogue
from blair_rec.text.template import catalogue_texts, item_text

RECORD = {"title": " A  red\tlamp\n", "brand": None, "features": ["bright", "small "], "price": "5"}


@pytest.mark.parametrize(
    "fields, line",
    [
        (["title"], "A red lamp"),
        (["features", "title"], "bright small A red lamp"),
        (["title", "brand", "price"], "A red lamp 5"),
        (["brand"], ""),
        (["nowhere", "price"], "5"),
    ],
)
def test_fields_stand_in_the_order_asked_for_and_missing_ones_leave_no_trace(fields: list[str], line: str) -> None:
    assert item_text(RECORD, fields) == line


@given(st.dictionaries(st.sampled_from("abc"), st.none() | st.text() | st.lists(st.text())))
def test_a_line_holds_the_words_of_its_fields_parted_by_one_space(record: dict[str, str | list[str] | None]) -> None:
    words: list[str] = []
    for name in "abc":
        value = record.get(name)
        for text in [value] if isinstance(value, str) else value or []:
            words += text.split()
    line = item_text(record, "abc")
    assert line.split(" ") == (words or [""])


def test_one_line_per_item_in_the_order_of_the_catalogue() -> None:
    catalogue = Catalogue(("x", "y", "z"), ({"t": "1"}, {"t": None}, {"u": "3"}), Path("a.item"))
    assert catalogue_texts(catalogue, ["t", "u"]) == ["1", "", "3"]


def test_a_field_that_no_item_has_is_named_with_the_near_one() -> None:
    catalogue = Catalogue(("x", "y"), ({"title": "1"}, {"class": None}), Path("a.item"))
    with pytest.raises(
        MissingField, match=r"a\.item: no item has a field 'titel'; did you mean 'title'\? known.*class"
    ):
        catalogue_texts(catalogue, ["class", "titel"])
    with pytest.raises(MissingField, match=r"no item has a field 'qqq'; known fields: title, class"):
        catalogue_texts(catalogue, ["qqq"])


@pytest.mark.parametrize("fields", [[], "title"])
def test_fields_are_a_list_that_is_not_empty(fields: list[str]) -> None:
    with pytest.raises(ConfigError, match="name at least one in a list"):
        catalogue_texts(Catalogue(("x",), ({"title": "1"},), Path("a.item")), fields)
