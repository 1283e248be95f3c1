"""A store of another tool's vectors holds exactly these, or an error names the row; files with something wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated

from blair_rec.errors import BlairRecError, ConfigError, OutputError, StoreError
from blair_rec.text.store.embeddings import open_store
from blair_rec.text.store.importing import import_store
from blair_rec.text.store.shards import merge_stores


def write_npy(folder: Path, array: np.ndarray, ids: Any) -> Path:
    np.save(folder / "a.npy", array, allow_pickle=True)
    (folder / "a.ids.json").write_text(json.dumps(ids))
    return folder / "a.npy"


def write_parquet(folder: Path, **columns: Any) -> Path:
    pa = pytest.importorskip("pyarrow", reason="pyarrow (the extra `parquet`) is not installed")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder / "a.parquet"


THREE = np.arange(1, 7, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int8", "uint32", "int64"])
def test_numbers_of_every_kind_and_ids_that_are_numbers_are_imported(tmp_path: Path, dtype: str) -> None:
    store = import_store(write_npy(tmp_path, THREE.astype(dtype), [7, "8", 9]), tmp_path / "s", encoder="e")
    assert store.item_tokens == ("7", "8", "9")
    np.testing.assert_array_equal(store.vectors, THREE)


def test_an_unknown_precision_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="store_dtype is 'int8'; known: float32, float16, bfloat16"):
        import_store(tmp_path / "missing.npy", tmp_path / "s", encoder="e", dtype="int8")


@pytest.mark.parametrize("content", [b"a\nb\n7\n", b"\xef\xbb\xbfa\r\nb\r\n7\r\n", b"a\nb\n7"])
def test_ids_may_be_a_text_file_with_one_a_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ids.txt").write_bytes(content)
    np.save(tmp_path / "a.npy", THREE)
    store = import_store(tmp_path / "a.npy", tmp_path / "s", encoder="e", ids=tmp_path / "ids.txt")
    assert store.item_tokens == ("a", "b", "7")


def with_zeros(first: bool) -> np.ndarray:
    zeros = np.zeros((1, 2), np.float32)
    return np.vstack([zeros, THREE] if first else [THREE, zeros])


@pytest.mark.parametrize(
    "array, ids, message",
    [
        (THREE, ["a", "b", ""], r"a\.ids\.json, row 3: the item id is empty"),
        (THREE, ["a", None, "c"], r"row 2: the item id is missing; ids have to be text or whole numbers"),
        (THREE, ["a", 1.5, "c"], r"row 2: the item id is 1.5, a float"),
        (THREE, ["a", True, "c"], r"row 2: the item id is True, a bool"),
        (THREE, ["a", ["b"], "c"], r"row 2: the item id is \['b'\], a list"),
        (THREE, ["a", "x\0y", "c"], r"row 2: the item id is 'x\\x00y', which holds a NUL character"),
        (THREE, [1, "2", "1"], r"row 3: item '1' is in row 1 already"),
        (THREE, {"a": 0, "b": 1, "c": 2}, r"a\.ids\.json holds a dict; it has to be a JSON list"),
        (
            with_zeros(first=True),
            ["a", "b", "c"],
            r"4 rows, but .* 3 .*: its first row is all zeros.*array\[1:\]",
        ),
        (with_zeros(first=False), ["a", "b", "c"], r"its last row is all zeros, .* padding item; save array\[:-1\]"),
        (THREE, ["a", "b"], r"3 rows, but .* has 2 item ids; the extra row may be that of a padding item"),
        (THREE, ["a"], r"3 rows, but .* has 1 item id; both have to hold the same items"),
        (THREE[0], ["a", "b"], r"holds numbers of shape \[2\]; it has to be \[items, width\]"),
        (THREE[:, :0], ["a", "b", "c"], r"3 vectors of width 0; there is nothing to store"),
        (THREE[:0], [], r"0 vectors of width 2; there is nothing to store"),
        (THREE.astype(object), ["a", "b", "c"], r"holds Python objects, which are never loaded.*numpy.stack"),
        (THREE.astype(complex), ["a", "b", "c"], r"holds complex128; vectors are real numbers"),
        (THREE.astype(str), ["a", "b", "c"], r"holds <U32; vectors are real numbers"),
        (THREE * np.float64(1e300), ["a", "b", "c"], r"3 of 3 vectors hold .* too large for float32"),
        (np.where(THREE == 4, np.nan, THREE), ["a", "b", "c"], r"1 of 3 .* NaN, .*\(first: row 2, item 'b'\)"),
    ],
)
def test_invalid_arrays_and_ids_are_named_with_their_row(
    tmp_path: Path, array: np.ndarray, ids: Any, message: str
) -> None:
    path = write_npy(tmp_path, array, ids)
    with pytest.raises(StoreError, match=message):
        import_store(path, tmp_path / "s", encoder="e")
    assert not (tmp_path / "s").exists()


def test_integers_as_ids_of_a_parquet_file_become_text(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, item_id=[7, 10, 3], vector=THREE.tolist())
    store = import_store(path, tmp_path / "s", encoder="e")
    assert store.item_tokens == ("7", "10", "3")
    np.testing.assert_array_equal(store.vectors, THREE)


@pytest.mark.parametrize(
    "ids, vectors, message",
    [
        (["a", "b", "c"], [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0]], r"row 2: a vector of 4 .* row 1 has 2"),
        (["a", "b"], [[1.0], []], r"row 2: a vector of 0 numbers"),
        (["a", "b"], [[1.0], None], r"1 row has no vector \(first: row 2\)"),
        (["a", "b"], [[1.0, None], [1.0, 2.0]], r"1 number inside the vectors is missing"),
        (["a", "b"], [[1.0], [float("inf")]], r"1 of 2 vectors holds NaN, .*row 2, item 'b'"),
        (["a", "b"], [["1"], ["2"]], r"column vector holds list<.*string>; it has to hold lists of numbers"),
        (["a", "b"], [1.0, 2.0], r"column vector holds double; it has to hold lists of numbers"),
        (["a", None], [[1.0], [2.0]], r"row 2: the item id is missing"),
        (["a", "a"], [[1.0], [2.0]], r"row 2: item 'a' is in row 1 already"),
        (
            [7.0, 8.0],
            [[1.0], [2.0]],
            r"the column item_id holds double numbers, which can't be ids: 7 would become 7.0",
        ),
        ([True, False], [[1.0], [2.0]], r"the column item_id holds bool; ids have to be text"),
        ([], [], r"holds null; it has to hold lists of numbers"),
    ],
)
def test_an_invalid_parquet_file_is_named_with_its_row(
    tmp_path: Path, ids: list[Any], vectors: list[Any], message: str
) -> None:
    path = write_parquet(tmp_path, item_id=ids, vector=vectors)
    with pytest.raises(StoreError, match=message):
        import_store(path, tmp_path / "s", encoder="e")
    assert not (tmp_path / "s").exists()


def test_a_parquet_file_of_other_columns_names_them(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"0 columns are called item_id, not one; columns: id, vector"):
        import_store(write_parquet(tmp_path, id=["a"], vector=[[1.0]]), tmp_path / "s", encoder="e")


def test_the_row_of_a_padding_item_in_a_feature_file_is_found(tmp_path: Path) -> None:
    # Three items and a row of zeros make 4 * 6 numbers, which could also be three vectors of 8.
    np.vstack([np.zeros((1, 6), np.float32), np.arange(1, 19, dtype=np.float32).reshape(3, 6)]).tofile(
        tmp_path / "a.feature"
    )
    (tmp_path / "a.data_maps").write_text(json.dumps({"item2id": {"[PAD]": 0, "x": 1, "y": 2, "z": 3}}))
    with pytest.raises(StoreError, match=r"begins with 6 zeros, and its size is that of 4 vectors"):
        import_store(tmp_path / "a.feature", tmp_path / "s", encoder="e")


def test_a_store_that_is_there_is_replaced_only_if_fresh_is_set(tmp_path: Path) -> None:
    path = write_npy(tmp_path, THREE, ["a", "b", "c"])
    import_store(path, tmp_path / "s", encoder="e")
    with pytest.raises(
        OutputError, match=r"s is a store already; choose another place, or replace it with `fresh` \(--fresh\)"
    ):
        import_store(path, tmp_path / "s", encoder="other")
    assert open_store(tmp_path / "s").encoder["name"] == "e"
    assert import_store(path, tmp_path / "s", encoder="other", fresh=True).encoder["name"] == "other"


@given(
    st.lists(st.one_of(st.integers(), st.text(max_size=4)), min_size=1, max_size=5),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40)
def test_what_is_imported_is_what_the_files_hold(
    tmp_path_factory: pytest.TempPathFactory, ids: list[Any], width: int, random: Any
) -> None:
    folder = tmp_path_factory.mktemp("import")
    array = np.array([[random.uniform(-1e3, 1e3) for _ in range(width)] for _ in ids])
    path = write_npy(folder, array, ids)
    expected = [str(value) for value in ids]
    if len(set(expected)) < len(ids) or any(not token or "\0" in token for token in expected):
        with pytest.raises(StoreError, match="is empty|NUL|already"):
            import_store(path, folder / "s", encoder="e")
        return
    store = import_store(path, folder / "s", encoder="e")
    assert list(store.item_tokens) == expected
    np.testing.assert_array_equal(store.vectors, array.astype(np.float32))


# Files with something wrong


KINDS = ("npy", "parquet", "feature", "itememb")


def written(folder: Path, kind: str, random: Random) -> tuple[Path, Path | None]:
    """A small file of vectors, and the file of ids that belongs to it; half of them with something wrong inside."""
    items, width = random.randint(1, 6), random.randint(1, 4)
    ids: list[Any] = random.sample(["a", "b", "7", "007", "Gr\u00f6\u00dfe", " x", "[PAD", "c d"], items)
    rows: list[Any] = [[random.choice([0.0, 1.5, -2.25, 1e-3, 3e38]) for _ in range(width)] for _ in range(items)]
    for _ in range(random.choice([0, 0, 1, 2])):
        random.choice(WRONGS)(ids, rows, random)
    if kind == "npy":
        return _npy(folder, ids, rows, random)
    if kind == "parquet":
        return _parquet(folder, ids, rows, random), None
    if kind == "feature":
        (folder / "v.data_maps").write_text(json.dumps({"item2id": {"[PAD]": 0, **_numbered(ids)}}))
        with np.errstate(over="ignore"):
            np.array([number or 0.0 for row in rows for number in row or ()], "<f4").tofile(folder / "v.feature")
        return folder / "v.feature", folder / "v.data_maps"
    lines = [f"{token}\t{' '.join(map(str, row or ()))}" for token, row in zip(ids, rows, strict=False)]
    (folder / "v.itememb").write_text("\n".join(["iid:token\titem_emb:float_seq", *lines, ""]), encoding="utf-8")
    return folder / "v.itememb", None


def _npy(folder: Path, ids: list[Any], rows: list[Any], random: Random) -> tuple[Path, Path]:
    numbers = [number for row in rows for number in row or ()]
    array = np.array([*rows, None], object)[:-1]
    if len({len(row or ()) for row in rows}) == 1 and None not in numbers and random.random() < 0.9:
        with np.errstate(all="ignore"):
            array = np.array([row or () for row in rows], "f8").astype(random.choice(["f4", "f8", "f2", ">f4", "i8"]))
    np.save(folder / "v.npy", array, allow_pickle=True)
    if random.random() < 0.3:
        (folder / "v.txt").write_text("\n".join(map(str, ids)), encoding="utf-8")
        return folder / "v.npy", folder / "v.txt"
    (folder / "v.ids.json").write_text(json.dumps(_numbered(ids) if random.random() < 0.05 else ids))
    return folder / "v.npy", folder / "v.ids.json"


def _numbered(ids: list[Any]) -> dict[str, int]:
    return {str(token): number for number, token in enumerate(ids, start=1)}


def _parquet(folder: Path, ids: list[Any], rows: list[Any], random: Random) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    of_ids = random.choice([None, pa.string(), pa.int64(), pa.large_string()])
    of_rows = random.choice(
        [None, pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2), pa.list_(pa.int32())]
    )
    columns = []
    for values, kind in ((ids, of_ids), (rows, of_rows)):
        try:
            columns.append(pa.array(values, kind))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):  # what Arrow can't hold is written as text
            columns.append(pa.array([str(value) for value in values]))
    size = min(map(len, columns))
    table = pa.table({"item_id": columns[0][:size], "vector": columns[1][:size]})
    pq.write_table(table, folder / "v.parquet", row_group_size=random.randint(1, 4))
    return folder / "v.parquet"


def _put(values: list[Any], value: Any, random: Random) -> None:
    values[random.randrange(len(values))] = value


NO_IDS = ["", None, 7, 7.5, True, "a\0b", "a\tb", 10**30]
NO_VECTORS = [None, [None], [float("nan")], [float("inf")], [1e300]]
WRONGS: tuple[Callable[[list[Any], list[Any], Random], None], ...] = (
    lambda ids, rows, random: _put(ids, random.choice([*NO_IDS, ids[0]]), random),
    lambda ids, rows, random: ids.append("one more"),
    lambda ids, rows, random: ids.__setitem__(slice(None), list(range(len(ids)))),
    lambda ids, rows, random: rows.insert(random.choice([0, len(rows)]), [0.0] * len(rows[0] or [0])),
    lambda ids, rows, random: _put(rows, [1.0] * random.randint(0, 5), random),
    lambda ids, rows, random: _put(rows, random.choice(NO_VECTORS), random),
)


def independently(path: Path, ids: Path | None) -> tuple[list[str], list[list[float]]]:
    """The content of the files, read with NumPy, pyarrow and the standard library only."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(path).to_pylist()
        return [str(row["item_id"]) for row in rows], [row["vector"] for row in rows]
    if path.suffix == ".itememb":
        cells = [line.rstrip("\r").split("\t") for line in path.read_bytes().decode("utf-8-sig").split("\n")]
        rows = [row for row in cells[1:] if row != [""]]
        return [row[0] for row in rows], [[float(number) for number in row[1].split(" ")] for row in rows]
    assert ids is not None
    if ids.suffix == ".txt":
        text = ids.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        return text.removesuffix("\n").split("\n"), np.load(path, allow_pickle=False).tolist()
    content = json.loads(ids.read_bytes().decode("utf-8-sig"))
    if path.suffix == ".npy":
        return [str(token) for token in content], np.load(path, allow_pickle=False).tolist()
    numbers = content["item2id"]
    tokens = sorted(numbers, key=numbers.__getitem__)[1:]
    flat = np.frombuffer(path.read_bytes(), "<f4").tolist()
    width = len(flat) // len(tokens)
    return tokens, [flat[at : at + width] for at in range(0, len(flat), width)]


def in_store(folder: Path) -> tuple[list[str], list[list[float]]]:
    """The same of a store, by NumPy alone."""
    blob, ends = (folder / "item_tokens.bin").read_bytes(), np.load(folder / "item_token_ends.npy").tolist()
    tokens = [blob[a:b].decode("utf-8", "surrogatepass") for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return tokens, np.load(folder / "vectors.npy").tolist()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def try_one(folder: Path, kind: str, seed: int) -> str:
    """Import a file with something wrong: "refused" and nothing has changed, or "confirmed" by another reader."""
    random = Random(seed)
    path, ids = written(folder, kind, random)
    for file in filter(None, (path, ids)):
        if random.random() < 0.3:
            file.write_bytes(mutated(file.read_bytes(), random))
    out = folder / "out"
    if (there := random.choice([*["nothing"] * 4, "a store", "something else"])) != "nothing":
        out.mkdir()
        np.save(folder / "old.npy", np.eye(2))
        (folder / "old.ids.json").write_text('["x", "y"]')
        import_store(folder / "old.npy", out, encoder="old")
        if there == "something else":
            (out / "thesis.tex").write_text("dear")
    fresh = random.random() < 0.5
    before = contents(folder)
    try:
        store = import_store(path, out, encoder="e", ids=ids, fresh=fresh)
    except BlairRecError:
        store = None
    if store is None:
        assert contents(folder) == before
        return "refused"
    assert there == "nothing" or (there == "a store" and fresh)
    tokens, vectors = independently(path, ids)
    found, stored = in_store(out)
    assert tokens == found == list(store.item_tokens) and len(set(tokens)) == len(tokens)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(np.array(stored, np.float32), np.array(vectors, np.float64).astype(np.float32))
    assert np.isfinite(stored).all()
    open_store(out)
    assert {name for name in contents(folder) if not name.startswith("out/")} == {
        name for name in before if not name.startswith("out/")
    }
    return "confirmed"


@pytest.mark.parametrize("kind", KINDS)
def test_files_with_something_wrong_are_refused_or_read_as_another_reader_does(tmp_path: Path, kind: str) -> None:
    """More of them: benchmarks/fuzz_import.py."""
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow (the extra `parquet`) is not installed")
    outcomes = set()
    for seed in range(60):
        (tmp_path / str(seed)).mkdir()
        outcomes.add(try_one(tmp_path / str(seed), kind, seed))
    assert outcomes == {"refused", "confirmed"}


def test_imported_stores_of_different_encoders_are_not_merged(tmp_path: Path) -> None:
    """Only the names tell their encoders apart, because an imported store has no revision."""
    for name in ("one", "other"):
        file = write_npy(tmp_path, THREE, [f"{name}{row}" for row in range(3)])
        import_store(file, tmp_path / name, encoder=name)
    with pytest.raises(StoreError, match="can't be merged: encoder is one in the first, other in the second"):
        merge_stores([tmp_path / "one", tmp_path / "other"], tmp_path / "s")
    import_store(file, tmp_path / "other", encoder="one", fresh=True)
    assert len(merge_stores([tmp_path / "one", tmp_path / "other"], tmp_path / "s")) == 6
