"""Stores go to other tools and come back with the same vectors under the same tokens, or an error says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blair_rec.errors import MissingExtra, OutputError, StoreError
from blair_rec.text.store import exchange
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.text.store.exchange import export_store
from blair_rec.text.store.importing import import_store
from blair_rec.text.store.writer import write_store

TOKENS = ("B08", "007", "Größe", "a b")
VECTORS = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
ENDINGS = [".npy", ".parquet", ".feature", ".itememb"]


def store_of(tokens: tuple[str, ...] = TOKENS, vectors: np.ndarray = VECTORS) -> EmbeddingStore:
    return EmbeddingStore.of(tokens, vectors)


@pytest.mark.parametrize("ending", ENDINGS)
def test_vectors_come_back_to_the_bit(tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow (the extra `parquet`) is not installed")
    files = export_store(store_of(), tmp_path / f"out{ending}")
    assert sorted(tmp_path.iterdir()) == sorted(files), "nothing else is left"
    back = import_store(files[0], tmp_path / "s", encoder="theirs")
    assert back.item_tokens == TOKENS
    np.testing.assert_array_equal(back.vectors, VECTORS)
    assert (back.encoder["name"], back.encoder["revision"]) == ("theirs", None)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_store_of_half_the_bits_is_written_as_float32(tmp_path: Path, ending: str, dtype: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow (the extra `parquet`) is not installed")
    store = write_store(tmp_path / "s", TOKENS, VECTORS, encoder={}, template={}, dtype=dtype)
    export_store(store, tmp_path / f"out{ending}")
    back = import_store(tmp_path / f"out{ending}", tmp_path / "t", encoder="e", dtype=dtype)
    np.testing.assert_array_equal(back.vectors, store.vectors)


def test_the_raw_pair_is_the_one_upstream_writes_and_reads(tmp_path: Path) -> None:
    # What seq_rec_results writes: ids from 1, rows from 0, and more maps than we need.
    maps = {"user2id": {"[PAD]": 0, "u": 1}, "item2id": {"[PAD]": 0, "x": 2, "y": 1, "z": 3}, "id2meta": {"0": "[PAD]"}}
    (tmp_path / "All_Beauty.data_maps").write_text(json.dumps(maps))
    VECTORS[:3].tofile(tmp_path / "All_Beauty.blair-roberta-base.feature")
    store = import_store(tmp_path / "All_Beauty.blair-roberta-base.feature", tmp_path / "s", encoder="blair")
    np.testing.assert_array_equal(store.table(["x", "y", "z"]), VECTORS[[1, 0, 2]])

    export_store(store, tmp_path / "new" / "All_Beauty.blair.feature")
    # And how its loader takes a token's row.
    loaded = np.fromfile(tmp_path / "new" / "All_Beauty.blair.feature", dtype=np.float32).reshape(-1, 6)
    item2id = json.loads((tmp_path / "new" / "All_Beauty.data_maps").read_text())["item2id"]
    np.testing.assert_array_equal(loaded[item2id["x"] - 1], VECTORS[1])
    assert item2id["[PAD]"] == 0 and len(loaded) == len(item2id) - 1


@pytest.mark.parametrize(
    "maps, numbers, message",
    [
        (
            {"[PAD]": 0, "x": 1, "y": 2},
            7,
            r"holds 28 bytes, which is not a whole number of float32 vectors for the 2 items",
        ),
        ({"[PAD]": 0, "x": 1, "y": 2}, 0, r"holds 0 bytes"),
        ({"[PAD]": 0}, 6, r"for the 0 items"),
        ({"[PAD]": 0, "x": 1, "y": 3}, 12, r"does not number the items from 1 to 2, with \[PAD\] as 0"),
        ({"x": 0, "y": 1}, 12, r"does not number the items from 1 to 1, with \[PAD\] as 0"),
    ],
)
def test_a_raw_pair_that_does_not_fit_is_refused(
    tmp_path: Path, maps: dict[str, int], numbers: int, message: str
) -> None:
    (tmp_path / "a.data_maps").write_text(json.dumps({"item2id": maps}))
    np.zeros(numbers, np.float32).tofile(tmp_path / "a.feature")
    with pytest.raises(StoreError, match=message):
        import_store(tmp_path / "a.feature", tmp_path / "s", encoder="e")


def test_recbole_reads_the_additional_feature_file(tmp_path: Path) -> None:
    import blair_rec.recbole  # noqa: F401

    from recbole.config import Config
    from recbole.data import create_dataset

    (tmp_path / "shop").mkdir()
    lines = [f"u{user}:{item}" for user in range(3) for item in ("B08", "007", "Größe")]
    rows = [f"{line.replace(':', chr(9))}\t{number}" for number, line in enumerate(lines)]
    (tmp_path / "shop" / "shop.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows) + "\n", encoding="utf-8"
    )
    export_store(store_of(), tmp_path / "shop" / "shop.itememb")
    settings = {
        "data_path": str(tmp_path), "additional_feat_suffix": ["itememb"], "alias_of_item_id": ["iid"],
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "itememb": ["iid", "item_emb"]},
        "preload_weight": {"iid": "item_emb"}, "state": "ERROR",
    }  # fmt: skip
    dataset = create_dataset(Config(model="BPR", dataset="shop", config_dict=settings))
    table = dataset.get_preload_weight("iid")
    for token, vector in zip(TOKENS, VECTORS, strict=True):
        np.testing.assert_allclose(table[dataset.token2id("iid", token)], vector, rtol=1e-6)


@pytest.mark.parametrize("token", ["a\tb", "a\nb", "", "a\rb"])
def test_tokens_that_recboles_files_cannot_hold_are_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(
        StoreError, match=r"1 of 4 item tokens is empty or holds a tab or line end .*\.npy or \.parquet"
    ):
        export_store(store_of((token, *TOKENS[1:])), tmp_path / "a.itememb")
    assert list(tmp_path.iterdir()) == []


def test_an_item_called_padding_has_no_place_in_data_maps(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"an item is called \[PAD\]"):
        export_store(store_of(("[PAD]", *TOKENS[1:])), tmp_path / "a.feature")


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.ids.json").write_text("mine")
    with pytest.raises(OutputError, match=r"a\.ids\.json is there already; choose another name"):
        export_store(store_of(), tmp_path / "a.npy")
    assert [file.name for file in tmp_path.iterdir()] == ["a.ids.json"]


def test_a_failure_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exchange, "_write_json", no_space)
    with pytest.raises(OutputError, match=r"a\.npy can't be written \(No space left on device\)"):
        export_store(store_of(), tmp_path / "a.npy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, files, message",
    [
        ("a.csv", {}, r"unknown kind of file; known endings: \.npy, \.parquet, \.feature, \.itememb"),
        ("a.npy", {"a.npy": b"x"}, r"a\.ids\.json is not there; .* --ids names the second one"),
        ("a.npy", {"a.npy": b"x", "a.ids.json": b'["a"]'}, r"a\.npy is not a \.npy file; .*numpy.save"),
        ("a.npy", {"a.npy": b"x", "a.ids.json": b"{}"}, r"a\.ids\.json holds a dict; it has to be a JSON list"),
        ("a.npy", {"a.npy": b"x", "a.ids.json": b"a\n"}, r"a\.ids\.json is not JSON"),
        (
            "a.feature",
            {"a.feature": b"x" * 8, "a.data_maps": b"{}"},
            r"a\.data_maps has no item2id that numbers",
        ),
        ("a.itememb", {"a.itememb": b"item\n"}, r"first line names the types \[''\]; it has to be 'iid:token"),
        (
            "a.itememb",
            {"a.itememb": b"i:token\tv:float_seq\nx\t1 2\ny\t1\n"},
            r"line 3: 1 number, where line 2 has",
        ),
        ("a.itememb", {"a.itememb": b"i:token\tv:float_seq\nx\t1 two\n"}, r"a\.itememb, line 2: 'two' is not a number"),
        ("a.parquet", {"a.parquet": b"x" * 99}, r"a\.parquet can't be read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, files: dict[str, bytes], message: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow (the extra `parquet`) is not installed")
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    with pytest.raises(StoreError, match=message):
        import_store(tmp_path / name, tmp_path / "s", encoder="e")
    assert not (tmp_path / "s").exists()


def test_ids_that_do_not_number_the_rows_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VECTORS)
    (tmp_path / "ids.json").write_text('["a", "b"]')
    with pytest.raises(StoreError, match="holds 4 rows, but .*ids.json has 2 item ids; both have to hold"):
        import_store(tmp_path / "a.npy", tmp_path / "s", encoder="e", ids=tmp_path / "ids.json")


def test_parquet_without_its_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blair_rec.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"writing Parquet needs pyarrow.*blair-rec\[parquet\]"):
        export_store(store_of(), tmp_path / "a.parquet")
