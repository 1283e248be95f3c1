"""Titles, categories and maps of a comparison's items, against catalogue and stores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.evaluate.page.cards import ItemCards
from blair_rec.experiment import item_cards
from blair_rec.experiment.item_cards import comparison_cards, gather_cards, item_map, telling_labels
from blair_rec.text.catalogue import Catalogue
from blair_rec.text.search.sentences import titles_of
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.text.template import Template


def catalogue(**records: dict[str, Any]) -> Catalogue:
    return Catalogue(tuple(records), tuple(records.values()), Path("items.jsonl"))


def store(vectors: np.ndarray, tokens: list[str] | None = None) -> EmbeddingStore:
    tokens = tokens or [f"i{row}" for row in range(len(vectors))]
    return EmbeddingStore.of(tokens, vectors.astype(np.float32), encoder={"name": "tiny"}, store_sha256="5")


def test_titles_and_categories_are_those_of_the_data_sets_items() -> None:
    cards = gather_cards(
        ["[PAD]", "a", "b", "c"],
        catalogue(
            a={"title": "  A \n title ", "categories": ["Toys", "Puzzles"]},
            b={"title": None, "categories": ["Games"]},
            z={"title": "nobody's", "categories": ["Toys"]},
        ),
        [],
    )
    assert cards == ItemCards(titles={"a": "A title"}, categories={"a": "Toys", "b": "Games"})


@pytest.mark.parametrize("field", ["title", "movie_title", "name", "Title", "text"])
def test_the_title_is_found_under_its_usual_names(field: str) -> None:
    assert gather_cards(["a"], catalogue(a={"rank": "7", field: "A"}), []).titles == {"a": "A"}


def test_a_catalogue_without_titles_and_no_catalogue_at_all_give_none() -> None:
    assert gather_cards(["a"], catalogue(a={"price": "7"}), []) == ItemCards()
    assert gather_cards(["a"], None, []) == ItemCards()


def test_without_a_title_the_beginning_of_the_encoded_text_is_used_as_in_search() -> None:
    items = catalogue(a={"Product Name": "A lamp"}, b={"title": "B", "Product Name": "a cup"}, c={"Product Name": None})
    template = Template(fields=("Product Name",))
    titles = gather_cards(["a", "b", "c"], items, [], template).titles
    assert titles == {"a": "A lamp", "b": "B"}
    assert titles == {token: one for token, one in titles_of(items, {*"abc"}, searched(template)).items() if one}
    repeated = Catalogue(("a",), ({"rank": "7"},), Path("items.jsonl"), repeated={"a": ({"Product Name": "A"},)})
    assert gather_cards(["a"], repeated, [], template).titles == {"a": "A"}


def searched(template: Template) -> EmbeddingStore:
    return EmbeddingStore.of(["a"], np.ones((1, 2), np.float32), template=template.header())


@given(st.text("ab ", min_size=1, max_size=300))
def test_long_titles_are_cut_and_short_ones_are_not(title: str) -> None:
    (found,) = gather_cards(["a"], catalogue(a={"title": f"x{title}"}), []).titles.values()
    whole = " ".join(f"x{title}".split())
    assert found == whole if len(whole) <= 120 else (whole.startswith(found.removesuffix("…")) and len(found) <= 120)


def test_a_label_that_nearly_all_items_share_gives_way_to_the_next() -> None:
    labels = {f"i{place}": ["Scientific", "Tape" if place % 2 else "Glue"] for place in range(10)}
    assert set(telling_labels(labels).values()) == {"Tape", "Glue"}
    assert telling_labels({**labels, "bare": ["Scientific"]})["bare"] == "Scientific"
    alike = {f"i{place}": ["Scientific"] for place in range(10)}
    assert set(telling_labels(alike).values()) == {"Scientific"}
    assert telling_labels({"a": [], "b": []}) == {}


def test_a_line_of_categories_is_split_where_it_says_so() -> None:
    lines = {"a": "Toys, Puzzles", "b": "Games | Cards", "c": "Home > Kitchen", "d": "Comedy Romance"}
    cards = gather_cards(list(lines), catalogue(**{token: {"category": line} for token, line in lines.items()}), [])
    assert cards.categories == {"a": "Toys", "b": "Games", "c": "Home", "d": "Comedy Romance"}


def test_the_map_is_the_first_two_principal_components() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 12)) * np.arange(1, 13)
    found = item_map(store(vectors), [f"i{row}" for row in range(60)])
    centred = vectors.astype(np.float32) - vectors.astype(np.float32).mean(axis=0)
    left, singular, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    for place, column in enumerate((found.x, found.y)):
        expected = left[:, place] * singular[place]
        sign = np.sign(expected @ np.array(column))
        np.testing.assert_allclose(column, sign * expected, rtol=1e-4, atol=1e-4)
    assert found.explained == pytest.approx(tuple((singular**2 / (singular**2).sum())[:2]))
    assert (found.encoder, found.store_sha256, found.items) == ("tiny", "5", 60)


def test_the_map_leaves_out_items_without_a_vector_or_of_another_data_set() -> None:
    found = item_map(store(np.eye(4), ["a", "b", "c", "z"]), ["[PAD]", "a", "b", "c", "unknown"])
    assert (found.item_tokens, found.items) == (("a", "b", "c"), 3)


def test_a_large_store_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_cards, "MOST_POINTS", 10)
    vectors = np.random.default_rng(0).normal(size=(50, 4))
    found = item_map(store(vectors), [f"i{row}" for row in range(50)])
    assert found.items == 50 and len(set(found.item_tokens)) == len(found.x) == len(found.y) == 10
    assert found == item_map(store(vectors), [f"i{row}" for row in range(50)])


def test_equal_vectors_have_a_map_of_one_point() -> None:
    found = item_map(store(np.ones((5, 3))), [f"i{row}" for row in range(5)])
    assert found.explained == (0, 0) and set(found.x) == set(found.y) == {0}


def test_titles_of_the_data_set_are_used_without_text_variants(tiny: Path) -> None:
    cards = comparison_cards(tiny, [], ["[PAD]", "i01", "i02"])
    assert cards.titles == {"i01": "vintage bamboo basket", "i02": "round bamboo bench"}
    assert cards.categories == {"i01": "storage", "i02": "furniture"}
    (tiny / "tiny.item").unlink()
    assert comparison_cards(tiny, [], ["i01"]) == ItemCards()


def test_titles_that_nobody_needs_may_be_damaged(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tiny / "tiny.item").write_text("item_id:token\ttitle\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING, "blair_rec"):
        assert comparison_cards(tiny, [], ["i01"]) == ItemCards()
    assert "the page shows no item titles: " in caplog.text
