"""A comparison with vectors of an existing store gives the same results as encoding them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import Recorder, config_of, tiny_at
from encoders import build_roberta

import blair_rec
from blair_rec.cli import main
from blair_rec.config.comparison import CompareConfig
from blair_rec.errors import ChangedRuns, MissingEmbeddings, StoreError
from blair_rec.evaluate.caption import encoders
from blair_rec.evaluate.runs.results import load_run
from blair_rec.experiment.compare import compare
from blair_rec.text.store.embeddings import EmbeddingStore, open_store
from blair_rec.text.store.exchange import export_store
from blair_rec.text.store.importing import import_store
from blair_rec.text.store.writer import write_store

VARIANTS: dict[str, Any] = {
    "id": {"items": "id"},
    "text": {"items": "text", "transforms": ["whiten"]},
    "near": {"scorer": "recent_history"},
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison that has encoded the titles of tiny; no test changes it."""
    folder = tmp_path_factory.mktemp("encoded")
    config = config_of(
        tiny_at(folder), build_roberta(folder / "tiny-roberta"), variants=VARIANTS, seeds=[1], train={"epochs": 1}
    )
    compare(config, folder / "out")
    return folder


def given(encoded: Path, store: Path, variants: dict[str, Any] = VARIANTS) -> CompareConfig:
    """The same comparison with the vectors of `store`."""
    text = {"store": str(store)}
    return config_of(encoded / "tiny", "unused", text=text, variants=variants, seeds=[1], train={"epochs": 1})


def imported(encoded: Path, folder: Path, rows: int | None = None) -> EmbeddingStore:
    """The vectors of the finished comparison, exported and imported again; all, or some of them."""
    (path,) = (encoded / "out" / "stores").iterdir()
    store = open_store(path)
    some = EmbeddingStore.of(store.item_tokens[:rows], store.table(store.item_tokens[:rows]))
    export_store(some, folder / "vectors.npy")
    return import_store(folder / "vectors.npy", folder / "mine", encoder="another-tool")


def test_item_files_are_read_with_recboles_separator_and_encoding(tmp_path: Path) -> None:
    """The same data set in other bytes gives the same vectors and ranks."""
    encoder = build_roberta(tmp_path / "tiny-roberta")
    plain = tiny_at(tmp_path)
    for path in plain.glob("tiny.i*"):
        text = path.read_text("utf-8").replace("bamboo", "bambo\u00fc")
        path.write_text(text, encoding="utf-8")
    other = tmp_path / "other" / "tiny"
    other.mkdir(parents=True)
    for path in plain.glob("tiny.i*"):
        (other / path.name).write_bytes(path.read_text("utf-8").replace("\t", ";").encode("latin-1"))
    variants = {"near": {"scorer": "last_item"}, "pop": {"scorer": "popularity"}}
    found = []
    for folder, recbole in ((plain, {}), (other, {"field_separator": ";", "encoding": "latin-1"})):
        recbole |= {"MAX_ITEM_LIST_LENGTH": 10}
        config = config_of(folder, encoder, variants=variants, seeds=[1], recbole=recbole, baseline="pop")
        compare(config, folder.parent / "out")
        run = load_run(folder.parent / "out" / "runs" / "near-1")
        found.append(
            (
                run.store_sha256,
                {name: rank.tolist() for name, rank in vars(run.ranks).items() if hasattr(rank, "tolist")},
            )
        )
    assert found[0] == found[1]


def test_given_vectors_rank_as_encoded_ones(encoded: Path, tmp_path: Path) -> None:
    store = imported(encoded, tmp_path)
    listener = Recorder()
    board = compare(given(encoded, tmp_path / "mine"), tmp_path / "out", listener=listener)
    assert board is not None and listener.encoded == []
    for name in ("id-1", "text-1", "near-1"):
        ours, theirs = (load_run(folder / "out" / "runs" / name) for folder in (tmp_path, encoded))
        assert np.array_equal(ours.ranks.higher_unmasked, theirs.ranks.higher_unmasked)
        assert np.array_equal(ours.topk("masked"), theirs.topk("masked"))
    assert encoders(board) == "encoder: another-tool"
    assert load_run(tmp_path / "out" / "runs" / "text-1").store_sha256 == store.store_sha256
    page = (tmp_path / "out" / "leaderboard.html").read_text("utf-8")
    assert "another-tool<small>vectors from a store</small>" in page
    history = [[store.item_tokens[0], store.item_tokens[1]]]
    ours, theirs = (blair_rec.load(folder / "out" / "runs" / "text-1") for folder in (tmp_path, encoded))
    assert ours.recommend(history, k=3) == theirs.recommend(history, k=3)


def test_a_variant_may_have_a_store_of_its_own(encoded: Path, tmp_path: Path) -> None:
    imported(encoded, tmp_path)
    variants = {
        **VARIANTS,
        "own": {**VARIANTS["text"], "text": {"store": str(tmp_path / "mine")}},
        "back": {**VARIANTS["text"], "text": {"fields": ["title"], "encoder": "some", "pooling": "mean"}},
    }
    shared = config_of(encoded / "tiny", "other", variants=variants)
    own, text = (shared.text_of(shared.variants[name]) for name in ("own", "text"))
    assert (own.store, text.store) == (str(tmp_path / "mine"), None)
    back = given(encoded, tmp_path / "mine", variants=variants)
    assert back.text_of(back.variants["back"]).store is None


def test_stores_that_cannot_be_used_are_refused_before_training(encoded: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere is not an embedding store"):
        compare(given(encoded, tmp_path / "nowhere"), tmp_path / "out")
    imported(encoded, tmp_path, rows=70)
    listener = Recorder()
    with pytest.raises(MissingEmbeddings, match="store of text vectors lacks 10 of 80 items"):
        compare(given(encoded, tmp_path / "mine"), tmp_path / "out", listener=listener)
    assert listener.started_runs == []


def test_other_vectors_in_the_same_place_are_another_comparison(encoded: Path, tmp_path: Path) -> None:
    store = imported(encoded, tmp_path)
    config = given(encoded, tmp_path / "mine")
    compare(config, tmp_path / "out")
    write_store(
        tmp_path / "mine", store.item_tokens, store.table(store.item_tokens) * 2 + 1, encoder=store.encoder, template={}
    )
    with pytest.raises(ChangedRuns, match="the text vectors"):
        compare(config, tmp_path / "out")


def test_a_dry_run_names_the_store(encoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(encoded, tmp_path)
    path = tmp_path / "own.yaml"
    path.write_text(
        f"dataset: {encoded / 'tiny'}\ntext: {{store: mine, fields: [title]}}\n"
        "variants: {id: {}, text: {items: text}}\n"
    )
    assert main(["compare", str(path), "-o", "out", "--dry-run"]) == 0
    assert capsys.readouterr().err == "vectors of another-tool from mine\n"
    other = ["--encoder", str(encoded / "tiny-roberta"), "--set", "text.pooling=cls"]
    assert main(["compare", str(path), "-o", "out", "--dry-run", *other]) == 0
    assert capsys.readouterr().err == "encoding 80 texts with tiny-roberta: to do\n", "another encoder, not the store"
