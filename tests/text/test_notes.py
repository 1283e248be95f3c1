"""Items without text, with cut text, with several rows or without a match are counted and reported once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.errors import CatalogueError, agreed, counted
from blair_rec.text.catalogue import Catalogue
from blair_rec.text.notes import catalogue_notes, check_match, cut_notes, repeat_notes, store_notes
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.text.template import Template, catalogue_texts

TITLE = Template("fields", ("title",))
HEADER = {"asked_length": 512, "capped_by": "max_seq_length in sentence_bert_config.json"}


def shop(*rows: tuple[str, str]) -> Catalogue:
    return Catalogue.of([(token, {"title": text}) for token, text in rows], Path("shop.csv"))


def store_of(tokens: tuple[str, ...], textless: tuple[str, ...], cut: list[bool] | None) -> EmbeddingStore:
    flags = None if cut is None else np.array(cut, dtype=np.bool_)
    return EmbeddingStore.of(
        tokens,
        np.ones((len(tokens), 2), np.float32),
        textless,
        encoder={"name": "mini", "max_length": 256},
        template=TITLE.header(),
        cut=None if cut is None else {"items": sum(cut), **HEADER},
        cut_rows=flags,
    )


def test_clean_texts_have_nothing_to_tell() -> None:
    catalogue = shop(("a", "x"), ("b", "y"), ("not in the data set", ""))
    assert catalogue_notes(catalogue, {"a": "x", "b": "y"}, ["title"], ["a", "b"]) == []
    assert store_notes(store_of(("a", "b"), (), [False, False]), ["a", "b"]) == []
    assert cut_notes(store_of(("a",), (), None)) == [], "nobody has counted"


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["", "x"]), min_size=1),
    st.sets(st.sampled_from("abcdefghij"), min_size=1),
)
def test_missing_and_unknown_items_are_counted(texts: dict[str, str], wanted: set[str]) -> None:
    items = sorted(wanted)
    notes = catalogue_notes(shop(*texts.items()), texts, ["title"], items)
    unknown, textless = wanted - set(texts), [token for token in items if texts.get(token) == ""]
    foreign = set(texts) - wanted
    said = [
        f"{len(unknown)} of {counted(len(items), 'item')} {agreed(len(unknown), 'are')} not in shop.csv"
        * bool(unknown),
        f"{len(foreign)} of {counted(len(texts), 'item')} of shop.csv {agreed(len(foreign), 'are')} not in the data set"
        * bool(unknown and foreign),
        f"{len(textless)} of {counted(len(items), 'item')} {agreed(len(textless), 'have')} no text in title"
        * bool(textless),
    ]
    expected = [start for start in said if start]
    assert len(notes) == len(expected)
    assert all(note.startswith(start) for note, start in zip(notes, expected, strict=True))
    vectors = tuple(token for token in texts if texts[token]) or ("z",)
    store = store_of(vectors, tuple(token for token in texts if not texts[token]), None)
    said = [
        f"{len(unknown)} of {counted(len(items), 'item')} {agreed(len(unknown), 'are')} not in the store in memory"
        * bool(unknown),
        f"{len(textless)} of {counted(len(items), 'item')} {agreed(len(textless), 'have')} no text in title"
        * bool(textless),
    ]
    assert [note.split(" (")[0] for note in store_notes(store, items)] == [start for start in said if start]


def test_texts_that_are_cut_are_counted_among_the_items_asked_for() -> None:
    store = store_of(("a", "b", "c"), ("t",), [True, False, True])
    assert cut_notes(store) == [
        "2 of 3 texts have more than the 256 tokens that mini reads, so their end is cut off (max_length 512 became "
        "256: max_seq_length in sentence_bert_config.json)"
    ]
    assert cut_notes(store, ["c", "b", "t", "z"])[0].startswith("1 of 2 texts has more than the 256 tokens")
    assert cut_notes(store, ["b", "z"]) == []


def test_repeated_rows_are_counted() -> None:
    assert repeat_notes(shop(("a", ""), ("b", "y"), ("a", "x"), ("a", "x"))) == [
        "2 rows of shop.csv repeat an item of an earlier row (first: a): the first row with text is used"
    ]
    assert repeat_notes(shop(("a", ""), ("b", "y"))) == []
    assert catalogue_texts(shop(("a", ""), ("a", "x")), TITLE) == ["x"]


def test_a_catalogue_of_other_items_is_refused_with_examples_of_both_sides() -> None:
    catalogue = shop(("x1", "x"), ("x2", "y"))
    with pytest.raises(CatalogueError, match=r"has 0 of the 2 items .*\(missing: 1, 2; it has: x1, x2\)"):
        check_match(catalogue, ["1", "2"])
    with pytest.raises(CatalogueError, match=r"has 1 of the 3 items"):
        check_match(catalogue, ["x1", "1", "2"])
    check_match(catalogue, ["x1", "1"])
