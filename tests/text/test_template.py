"""A record becomes one line; a field that no record has is an error that suggests a similar name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.errors import ConfigError, MissingField
from blair_rec.text.catalogue import Catalogue, Number, Record
from blair_rec.text.template import ItemTexts, Template, catalogue_texts, item_text

RECORD: Record = {"title": " A  red\tlamp\n", "brand": None, "features": ["bright", "small "], "price": "5"}


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
def test_fields_are_in_the_order_asked_for_and_missing_ones_leave_no_trace(fields: list[str], line: str) -> None:
    assert item_text(RECORD, fields) == line


@given(st.dictionaries(st.sampled_from("abc"), st.none() | st.text() | st.lists(st.text())))
def test_a_line_holds_the_words_of_its_fields_parted_by_one_space(record: dict[str, Any]) -> None:
    words: list[str] = []
    for name in "abc":
        value = record.get(name)
        for text in [value] if isinstance(value, str) else value or []:
            words += text.split()
    line = item_text(record, "abc")
    assert line.split(" ") == (words or [""])


def test_a_mapping_is_written_key_by_key() -> None:
    record: Record = {
        "details": {"Brand": "Leaf", "Sizes": ["S", None, "M"], "Rank": {"Beauty": Number("3")}, "UPC": None}
    }
    assert item_text(record, ["details"]) == "Brand: Leaf Sizes: S, M Rank: Beauty: 3"


def test_one_line_per_item_in_the_order_of_the_catalogue() -> None:
    catalogue = Catalogue(("x", "y", "z"), ({"t": "1"}, {"t": None}, {"u": "3"}), Path("a.item"))
    assert catalogue_texts(catalogue, Template("fields", ("t", "u"))) == ["1", "", "3"]
    items = ItemTexts.of(catalogue, Template("fields", ("t", "u")))
    assert (items.item_tokens, items.texts, items.textless) == (("x", "z"), ("1", "3"), ("y",))


def test_a_field_that_no_item_has_is_named_with_the_near_one() -> None:
    catalogue = Catalogue(("x", "y"), ({"title": "1"}, {"class": None}), Path("a.item"))
    with pytest.raises(
        MissingField, match=r"a\.item: no item has a field 'titel'; did you mean 'title'\? known.*class"
    ):
        catalogue_texts(catalogue, Template("fields", ("class", "titel")))
    with pytest.raises(MissingField, match=r"no item has a field 'qqq'; known fields: title, class"):
        catalogue_texts(catalogue, Template("fields", ("qqq",)))
    with pytest.raises(MissingField, match=r"no item has a field 'features'"):
        catalogue_texts(catalogue, Template("blair"))


@pytest.mark.parametrize("fields", [(), "title"])
def test_fields_are_a_list_that_is_not_empty(fields: Any) -> None:
    with pytest.raises(ConfigError, match="name at least one in a list"):
        Template("fields", fields)


def test_a_template_is_known_and_chooses_its_own_fields() -> None:
    with pytest.raises(ConfigError, match="template is 'blare'; known: fields, blair, blair_unicode, blair_pretrain"):
        Template("blare")
    with pytest.raises(ConfigError, match=r"the template blair_pretrain reads its own fields \(title, features, desc"):
        Template("blair_pretrain", ("title",))
    assert Template("blair").fields == ("title", "features", "categories", "description")


# BLaIR's own lines; expected lines were worked out by hand from its authors' code

EMPTY: Record = {"title": None, "features": [], "categories": [], "description": []}


@pytest.mark.parametrize(
    "fields, line",
    [
        ({"title": "Red lamp"}, "Red lamp    "),  # one space for each of the four fields, also for the empty ones
        ({"title": "Lamp", "features": ["bright", "small"]}, "Lamp bright, small.   "),
        ({"title": "Lamp", "categories": ["Home"], "description": ["Good.", "Cheap"]}, "Lamp  Home. Good., Cheap. "),
        ({"description": "one line, no list"}, "   one line, no list "),
        ({"title": "Lamp", "features": ["a", "", "b"]}, "Lamp a, , b.   "),
        ({"title": "Lamp", "features": [["a", "b"], "c"]}, "Lamp a, b, c.   "),
        ({"title": "Lamp", "features": [[" a ", " b "]]}, "Lamp a , b.   "),  # a list inside is joined, then stripped
        ({"title": Number("12.50")}, "12.5.    "),
        ({"title": Number("7")}, "7.    "),
        ({"title": "Fish &amp; chips &lt;b&gt;hot&lt;/b&gt;"}, "Fish & chips hot    "),  # tags may come from entities
        ({"title": "<p>One</p><br/>two"}, "Onetwo    "),
        ({"title": "1 < 2 and 3 > 2"}, "1 2    "),  # the text between the signs counts as a tag
        ({"title": "  a \t b\n\nc  "}, "a b c    "),
        ({"title": "a\r\nb"}, "a\r b    "),  # a carriage return stays
        ({"title": "Caf\u00e9 \U0001f44d ok"}, "Caf    ok    "),  # after runs of spaces were closed up
        ({"title": "caf&eacute;"}, "caf     "),
        ({"title": "\u706f"}, ""),  # nothing is left: an item without text
        ({"title": " ", "features": [""]}, " .   "),
        ({}, ""),
    ],
)
def test_blair_reads_what_its_authors_gave_it(fields: Record, line: str) -> None:
    assert Template("blair").line({**EMPTY, **fields}) == line


def test_characters_beyond_ascii_are_kept_by_choice() -> None:
    record = {**EMPTY, "title": "Caf&eacute; <b>\u706f</b>", "features": ["\U0001f44d"]}
    assert Template("blair_unicode").line(record) == "Caf\u00e9 \u706f \U0001f44d.   "


@pytest.mark.parametrize(
    "fields, line",
    [
        ({"title": "Red lamp"}, "Red lamp"),
        ({"title": "Lamp", "features": ["bright", "small"], "description": ["Good."]}, "Lamp bright small Good."),
        ({"features": ["bright"]}, "bright"),
        ({"title": "", "description": ["x"]}, "x"),
        ({"title": "Lamp", "features": ["a", "", "b"]}, "Lamp a  b"),
        ({"title": "<b>Caf\u00e9</b> &amp; \U0001f44d"}, "<b>Caf\u00e9</b> &amp; \U0001f44d"),  # nothing is cleaned
        ({"title": " a\tb\r\nc  d\n"}, "a b c  d"),
        ({"title": "Lamp", "categories": ["Home"]}, "Lamp"),
        ({}, ""),
    ],
)
def test_blair_was_trained_on_title_features_and_description(fields: Record, line: str) -> None:
    assert Template("blair_pretrain").line({**EMPTY, **fields}) == line


def test_what_upstream_would_stop_at_is_left_out() -> None:
    assert Template("blair").line({"title": "Lamp", "features": [None, "a"], "description": {"Size": "S"}}) == (
        "Lamp , a.  Size: S. "
    )
    assert Template("blair_pretrain").line({"title": "Lamp", "features": None, "description": "as a line"}) == (
        "Lamp as a line"
    )


# Identity


def test_the_text_hash_keeps_apart_what_joining_would_confuse() -> None:
    made = [
        ItemTexts(("a",), ("bc",)), ItemTexts(("ab",), ("c",)), ItemTexts(("a", "b"), ("x", "y")),
        ItemTexts(("a",), ("x",), ("b",)), ItemTexts(("b", "a"), ("y", "x")), ItemTexts((), ()),
    ]  # fmt: skip
    assert len({items.sha256 for items in made}) == len(made)
    assert ItemTexts(("a",), ("b",)).sha256 == ItemTexts(("a",), ("b",)).sha256


@given(st.integers(1, 30), st.integers(1, 9))
def test_parts_are_the_whole(items: int, parts: int) -> None:
    records = tuple({"t": f"text {number}" if number % 3 else None} for number in range(items))
    catalogue = Catalogue(tuple(f"i{number}" for number in range(items)), records, Path("a.item"))
    template = Template("fields", ("t",))
    whole, cut = (
        ItemTexts.of(catalogue, template),
        [ItemTexts.of(catalogue, template, (i, parts)) for i in range(parts)],
    )
    assert tuple(token for part in cut for token in part.item_tokens) == whole.item_tokens
    assert tuple(text for part in cut for text in part.texts) == whole.texts
    assert tuple(token for part in cut for token in part.textless) == whole.textless
