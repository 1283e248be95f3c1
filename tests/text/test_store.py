"""Vectors come back from disk for the item tokens they were stored under, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.errors import ConfigError, MissingEmbeddings, OutputError, StoreError, TextlessItems
from blair_rec.text.store.embeddings import FILES, EmbeddingStore, as_float32, as_stored, open_store
from blair_rec.text.store.writer import at_work_on, put_store, write_store
from blair_rec.text.tokens import NO_DIGESTS, DigestIndex, TokenTable

ENCODER = {"name": "e", "asked_for": "e", "revision": "abc", "pooling": "cls", "max_length": 512}
TEMPLATE = {"name": "fields", "version": 1, "fields": ["title"]}


def make(path: Path, tokens: tuple[str, ...] = ("a", "b", "c"), width: int = 4, **other: Any) -> EmbeddingStore:
    vectors = np.arange(len(tokens) * width, dtype=np.float32).reshape(len(tokens), width)
    parts: dict[str, Any] = {"textless": ("t",), "encoder": ENCODER, "template": TEMPLATE, "text_sha256": "0" * 64}
    return write_store(path, tokens, other.pop("vectors", vectors), **(parts | other))


def change_header(path: Path, **changes: Any) -> None:
    header = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps(header | changes))


@given(st.permutations("abcdef"))
def test_rows_come_back_in_the_order_asked_for(asked: list[str]) -> None:
    store = EmbeddingStore.of(tuple("abcdef"), np.eye(6, dtype=np.float32))
    assert [store.item_tokens[vector.argmax()] for vector in store.table(asked)] == asked


odd_tokens = st.lists(st.text(max_size=6), min_size=1, max_size=6, unique=True)


@given(odd_tokens)
def test_any_token_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, tokens: list[str]) -> None:
    path = tmp_path_factory.mktemp("stores") / "s"
    odd = ["\n", "a\tb", '"', "\u2028", "\r", "007", *tokens]
    make(path, tuple(dict.fromkeys(odd)), textless=())
    store = open_store(path)
    assert store.item_tokens == tuple(dict.fromkeys(odd))
    for row, token in enumerate(store.item_tokens):
        np.testing.assert_array_equal(store.table([token]), store.vectors[row : row + 1])


def test_everything_survives_the_disk_and_vectors_are_memory_mapped(tmp_path: Path) -> None:
    written = make(tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert isinstance(store.vectors, np.memmap)
    assert store.vectors.dtype == np.float32
    np.testing.assert_array_equal(store.vectors, np.arange(12, dtype=np.float32).reshape(3, 4))
    assert (store.encoder, store.template, store.textless, store.text_sha256) == (ENCODER, TEMPLATE, ("t",), "0" * 64)
    assert (store.text_dim, len(store), store.path) == (4, 3, tmp_path / "s")
    assert store.store_sha256 == written.store_sha256
    header = json.loads((tmp_path / "s" / "store.json").read_text())
    assert (header["schema"], header["rows"], header["text_dim"], header["dtype"]) == (2, 3, 4, "float32")


# What an item without a vector gets


def test_unknown_items_and_items_without_text_are_distinguished() -> None:
    store = EmbeddingStore.of(("a", "b"), np.eye(2, dtype=np.float32), textless=("t", "u"))
    with pytest.raises(MissingEmbeddings, match=r"store of text vectors lacks 1 of 3 items \(first: z\)"):
        store.table(["a", "z", "t"])
    with pytest.raises(TextlessItems, match=r"2 of 3 items have no text \(first: u, t\).*missing_text: mean"):
        store.table(["u", "a", "t"])
    with pytest.raises(MissingEmbeddings, match="first: z"):
        store.table(["a", "z"])
    with pytest.raises(TextlessItems, match="first: t"):
        store.table(["t", "a"])


def test_mean_and_zeros_fill_in_for_unknown_and_textless_items() -> None:
    vectors = np.array([[1, 2], [3, 6], [100, 100]], dtype=np.float32)
    store = EmbeddingStore.of(("a", "b", "not asked for"), vectors, textless=("t",))
    np.testing.assert_array_equal(store.table(["t", "b", "z", "a"], "zeros"), [[0, 0], [3, 6], [0, 0], [1, 2]])
    table = store.table(["t", "b", "z", "a"], "mean")
    np.testing.assert_array_equal(table, [[2, 4], [3, 6], [2, 4], [1, 2]])
    assert table.dtype == np.float32


def test_a_table_is_a_copy_that_may_be_written_to(tmp_path: Path) -> None:
    store = make(tmp_path / "s")
    table = store.table(["b"])
    table += 1
    np.testing.assert_array_equal(store.table(["b"]), [[4, 5, 6, 7]])


@pytest.mark.parametrize("missing_text", ["error", "mean", "zeros"])
def test_a_store_with_less_than_half_belongs_to_another_catalogue(missing_text: str) -> None:
    store = EmbeddingStore.of(("a", "b"), np.eye(2, dtype=np.float32), textless=("t",))
    with pytest.raises(
        StoreError, match=r"belongs to another catalogue: it has 0 of the 2 items \(missing: x, y; it has: a, b\)"
    ):
        store.table(["x", "y"], missing_text)
    with pytest.raises(StoreError, match="it has 2 of the 5 items"):
        store.table(["a", "t", "x", "y", "z"], missing_text)


def test_a_store_with_half_may_fill_the_rest() -> None:
    store = EmbeddingStore.of(("a", "b"), np.eye(2, dtype=np.float32))
    np.testing.assert_array_equal(store.table(["a", "x"], "zeros"), [[1, 0], [0, 0]])


@pytest.mark.parametrize("missing_text", ["mean", "zeros"])
def test_a_table_of_nothing_but_fillings_is_refused(missing_text: str) -> None:
    store = EmbeddingStore.of(("a",), np.eye(1, dtype=np.float32), textless=("t", "u"))
    with pytest.raises(StoreError, match="no vector for any of the 2 items"):
        store.table(["t", "u"], missing_text)


def test_an_unknown_way_to_fill_is_refused() -> None:
    with pytest.raises(ConfigError, match="missing_text is 'median'; known: error, mean, zeros"):
        EmbeddingStore.of(("a",), np.eye(1, dtype=np.float32)).table(["a"], "median")


# What isn't a store


def test_what_does_not_fit_together_is_refused_on_construction() -> None:
    with pytest.raises(StoreError, match="2 item tokens for 3 vectors"):
        EmbeddingStore.of(("a", "b"), np.eye(3, dtype=np.float32))
    with pytest.raises(StoreError, match="vectors are float64"):
        EmbeddingStore.of(("a", "b"), np.eye(2))
    with pytest.raises(StoreError, match="1 item token is repeated"):
        EmbeddingStore.of(("a", "b"), np.eye(2, dtype=np.float32), textless=("b",))


def test_vectors_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    vectors = np.ones((3, 4), dtype=np.float32)
    vectors[1, 2] = np.inf
    with pytest.raises(StoreError, match=r"1 of 3 vectors holds NaN or infinity \(first rows: \[1\]\)"):
        make(tmp_path / "s", vectors=vectors)
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_any_vector_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no vector to store"):
        make(tmp_path / "s", ())


def test_a_folder_without_a_header_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not an embedding store \(it has no store.json\)"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schema": 1}, r"has schema 1 \(an older version wrote it\); this version reads 2; encode again"),
        ({"schema": 3}, r"has schema 3 \(another version wrote it\); this version reads 2"),
        ({"text_dim": 5}, r"vectors.npy holds float32 \(3, 4\), but the header says float32 \(3, 5\)"),
        ({"rows": 2}, r"but the header says float32 \(2, 4\)"),
        ({"dtype": "float16"}, "but the header says float16"),
        ({"rows": "3"}, "store.json was changed: rows can't be '3'; encode again"),
        ({"encoder": 5, "template": []}, "store.json was changed: encoder, template can't be 5"),
        ({"shard": 7}, "shard can't be 7"),
        ({"cut": 3}, "cut can't be 3"),
        ({"sha256": None}, "sha256 can't be None"),
    ],
)
def test_a_header_that_does_not_match_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    make(tmp_path / "s")
    change_header(tmp_path / "s", **changes)
    with pytest.raises(StoreError, match=message):
        open_store(tmp_path / "s", verify=False)
    with pytest.raises(StoreError, match=f"({message})|was changed since it was written"):
        open_store(tmp_path / "s")


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "can't be read"),
        ("[" * 100_000, "can't be read"),
        ("[]", "is not a store header"),
        ('{"schema": 2}', "lacks rows, textless, text_dim"),
    ],
)
def test_a_broken_header_is_refused(tmp_path: Path, content: str, message: str) -> None:
    make(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text(content)
    with pytest.raises(StoreError, match=message):
        open_store(tmp_path / "s")


def test_a_changed_header_is_found_by_its_checksum(tmp_path: Path) -> None:
    make(tmp_path / "s")
    change_header(tmp_path / "s", encoder=ENCODER | {"name": "hyp1231/blair-roberta-base"})
    with pytest.raises(StoreError, match=r"store\.json was changed since it was written"):
        open_store(tmp_path / "s")


@pytest.mark.parametrize("name", [*FILES])
def test_a_changed_byte_is_found_by_its_checksum(tmp_path: Path, name: str) -> None:
    make(tmp_path / "s")
    data = bytearray((tmp_path / "s" / name).read_bytes())
    data[-3] ^= 8  # one bit of a vector, or of a token
    (tmp_path / "s" / name).write_bytes(data)
    with pytest.raises(StoreError, match=rf"{name} was changed or damaged since it was written"):
        open_store(tmp_path / "s")


def test_a_cut_off_file_is_refused_even_unverified(tmp_path: Path) -> None:
    make(tmp_path / "s")
    data = (tmp_path / "s" / "vectors.npy").read_bytes()
    (tmp_path / "s" / "vectors.npy").write_bytes(data[:-4])
    with pytest.raises(StoreError, match=r"vectors\.npy can't be read"):
        open_store(tmp_path / "s", verify=False)


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    make(tmp_path / "s")
    np.save(tmp_path / "s" / "vectors.npy", np.array([["x"] * 4] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match=r"vectors\.npy can't be read"):
        open_store(tmp_path / "s", verify=False)


@pytest.mark.parametrize("name", [*FILES])
def test_any_file_that_is_missing_or_cut_off_is_named_even_unverified(tmp_path: Path, name: str) -> None:
    make(tmp_path / "s", text_sha256="")
    data = (tmp_path / "s" / name).read_bytes()
    (tmp_path / "s" / name).write_bytes(data[:-1])
    with pytest.raises(StoreError, match=rf"{name} (can't be read|is cut off)"):
        open_store(tmp_path / "s", verify=False)
    (tmp_path / "s" / name).unlink()
    with pytest.raises(StoreError, match=rf"{name} can't be read"):
        open_store(tmp_path / "s", verify=False)


def test_vectors_that_are_not_finite_are_refused_though_every_checksum_holds(tmp_path: Path) -> None:
    make(tmp_path / "s")
    vectors = np.ones((3, 4), dtype=np.float32)
    vectors[2] = np.nan
    np.save(tmp_path / "s" / "vectors.npy", vectors)
    # Another writer's store, made by the description of the format alone.
    header = json.loads((tmp_path / "s" / "store.json").read_text())
    header["sha256"]["vectors.npy"] = hashlib.sha256((tmp_path / "s" / "vectors.npy").read_bytes()).hexdigest()
    content = {key: value for key, value in header.items() if key != "store_sha256"}
    content["encoder"] = {key: value for key, value in header["encoder"].items() if key != "asked_for"}
    header["store_sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (tmp_path / "s" / "store.json").write_text(json.dumps(header))
    with pytest.raises(StoreError, match="1 of 3 vectors holds NaN or infinity"):
        open_store(tmp_path / "s")


# Texts that were cut


def flagged(path: Path, cut: list[bool] | None) -> EmbeddingStore:
    """A store of three items, and which of its texts were cut, if known."""
    header: dict[str, Any] = {"encoder": ENCODER, "template": TEMPLATE, "text_sha256": "0" * 64, "shard": None}
    flags = None if cut is None else np.array(cut)
    with at_work_on(path):
        return put_store(
            path, ("a", "b", "c"), (), NO_DIGESTS, [np.eye(3, dtype=np.float32)], 3, "float32", header, flags,
            {"asked_length": 1024, "capped_by": "its positions"},
        )  # fmt: skip


def test_which_texts_were_cut_survives_the_disk_and_leaves_the_identity_alone(tmp_path: Path) -> None:
    flagged(tmp_path / "s", [True, False, True])
    store = open_store(tmp_path / "s")
    assert store.cut is not None and (store.cut["items"], store.cut["asked_length"]) == (2, 1024)
    assert store.cut_rows is not None and store.cut_rows.tolist() == [True, False, True]
    older = flagged(tmp_path / "t", None)
    assert (older.cut, older.cut_rows, older.store_sha256) == (None, None, store.store_sha256)
    flagged(tmp_path / "s", [False, False, False])
    (tmp_path / "s" / "text_cut.npy").write_bytes((tmp_path / "s" / "text_cut.npy").read_bytes()[:-1] + b"\1")
    with pytest.raises(StoreError, match=r"text_cut.npy was changed or damaged"):
        open_store(tmp_path / "s")
    flagged(tmp_path / "s", None)
    assert not (tmp_path / "s" / "text_cut.npy").exists()


def test_a_store_as_versions_before_the_count_wrote_it_opens(tmp_path: Path) -> None:
    make(tmp_path / "s")
    header = json.loads((tmp_path / "s" / "store.json").read_text())
    assert set(header) == {
        "schema", "rows", "textless", "text_dim", "dtype", "text_digests", "encoder", "template", "text_sha256",
        "shard", "sha256", "store_sha256",
    }  # fmt: skip
    assert open_store(tmp_path / "s").whole is None


# Identity


def test_the_identity_of_a_store_is_its_content_alone(tmp_path: Path) -> None:
    first = make(tmp_path / "s")
    assert make(tmp_path / "deep" / "other").store_sha256 == first.store_sha256
    by_another_name = make(tmp_path / "s2", encoder=ENCODER | {"asked_for": "what a fallback stands in for"})
    assert by_another_name.store_sha256 == first.store_sha256


@pytest.mark.parametrize(
    "other",
    [
        {"encoder": ENCODER | {"revision": "abd"}},
        {"encoder": ENCODER | {"pooling": "mean"}},
        {"template": TEMPLATE | {"fields": ["title", "brand"]}},
        {"dtype": "float16"},
        {"textless": ()},
        {"text_sha256": "1" * 64},
        {"tokens": ("a", "c", "b")},
        {"vectors": np.ones((3, 4), dtype=np.float32)},
    ],
)
def test_any_other_content_is_another_identity(tmp_path: Path, other: dict[str, Any]) -> None:
    assert make(tmp_path / "s", **other).store_sha256 != make(tmp_path / "t").store_sha256


# Writing


def test_a_store_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    old = make(tmp_path / "s")
    np.testing.assert_array_equal(make(tmp_path / "s", ("x",)).table(["x"]), [[0, 1, 2, 3]])
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    np.testing.assert_array_equal(old.table(["c"]), [[8, 9, 10, 11]])  # whoever has the old one open keeps it


def test_a_failure_while_writing_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(tmp_path / "s")

    def no_space(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", no_space)
    with pytest.raises(StoreError, match=r"can't be written \(No space left on device\); finished vectors are kept"):
        make(tmp_path / "s", ("x",))
    assert open_store(tmp_path / "s").store_sha256 == old.store_sha256
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_a_failure_in_the_last_step_brings_the_old_store_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(tmp_path / "s")
    rename = Path.rename

    def rename_but_not_the_new_one(source: Path, target: Path) -> Path:
        if source.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", rename_but_not_the_new_one)
    with pytest.raises(StoreError, match="Input/output error"):
        make(tmp_path / "s", ("x",))
    assert open_store(tmp_path / "s").store_sha256 == old.store_sha256
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_what_a_killed_process_left_is_cleared_away_and_the_old_store_returns(tmp_path: Path) -> None:
    old = make(tmp_path / "s")
    (tmp_path / "s").rename(tmp_path / ".s.1-00000000.old")  # killed between the two steps of a replacement
    (tmp_path / ".s.1-00000000.partial").mkdir()
    (tmp_path / ".other.1-00000000.partial").mkdir()  # somebody else is at work on this one
    with pytest.raises(KeyError, match="stop"), at_work_on(tmp_path / "s"):
        raise KeyError("stop")
    assert open_store(tmp_path / "s").store_sha256 == old.store_sha256
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".other.1-00000000.partial", "s"]


def test_a_second_process_learns_that_the_store_is_being_written(tmp_path: Path) -> None:
    code = (
        "import sys; from blair_rec.text.store.writer import at_work_on\n"
        "with at_work_on(sys.argv[1]): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(OutputError, match=r"another process is writing the store .*s; wait until it has finished"):
            make(tmp_path / "s")
        other.kill()
    make(tmp_path / "s")  # its lock died with it


def small_disk(kilobytes: int, code: str, mode: str = "rw") -> str:
    """The output of `code` in a process with a small file system at ./disk, read-only if `mode` is ro."""
    if shutil.which("unshare") is None:
        pytest.skip("no `unshare` here, which mounts a small file system")
    script = (
        f"mkdir disk && mount -t tmpfs -o size={kilobytes}k none disk && "
        f'{{ [ {mode} = rw ] || mount -o remount,ro disk; }} || exit 99; exec {sys.executable} -c "$0"'
    )
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script, code], capture_output=True, text=True, env=here)
    if done.returncode in (1, 99) and "Traceback" not in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_is_reported_and_the_old_store_stays() -> None:
    said = small_disk(
        256,
        "import os, numpy as np; from test_store import *\n"
        "from pathlib import Path\n"
        "old = make(Path('disk/s'))\n"
        "try: make(Path('disk/s'), tuple(map(str, range(3000))), width=64)\n"
        "except StoreError as error: print(error)\n"
        "print(open_store('disk/s').store_sha256 == old.store_sha256, os.listdir('disk'))",
    )
    assert re.fullmatch(
        r"the store disk/s can't be written \(No space left on device\); finished vectors are kept: free .*\n"
        r"True \['s'\]\n",
        said,
    )


def test_a_read_only_folder_is_reported() -> None:
    said = small_disk(
        64, "from test_store import *\ntry: make(Path('disk/s'))\nexcept OutputError as error: print(error)", mode="ro"
    )
    assert re.match(r"disk/\.s\.work can't be written \(Read-only file system\)|.*can't be written \(Read-only", said)


# Half the bits


@pytest.mark.parametrize("dtype, bits", [("float16", 11), ("bfloat16", 8)])
def test_half_the_bits_round_to_the_nearest(tmp_path: Path, dtype: str, bits: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    tokens = tuple(map(str, range(50)))
    store = make(tmp_path / "s", tokens, vectors=vectors, dtype=dtype)
    assert (store.dtype, store.vectors.itemsize) == (dtype, 2)
    assert store.table(tokens).dtype == np.float32
    np.testing.assert_allclose(store.table(tokens), vectors, rtol=2.0**-bits, atol=1e-7)
    np.testing.assert_array_equal(np.concatenate(list(store.blocks(7))), store.table(tokens))


def test_bfloat16_is_that_of_torch() -> None:
    import torch

    values = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([values[np.isfinite(values)], np.float32([0, -0.0, 1, 65504, 1e-45, np.inf, np.nan])])
    halfway = np.arange(0x3F808000, 0x3F888000, 0x10000, dtype=np.uint32).view(np.float32)  # between two of them
    values = np.concatenate([values, halfway])
    with np.errstate(all="ignore"):
        ours = as_float32(as_stored(values, "bfloat16"), "bfloat16")
    np.testing.assert_array_equal(ours, torch.from_numpy(values).bfloat16().float().numpy())


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="1 of 3 vectors holds NaN or infinity"):
        make(tmp_path / "s", vectors=np.float32([[1], [70_000], [2]]), dtype="float16")


# Many items


def test_millions_of_rows_are_opened_without_reading_them(tmp_path: Path) -> None:
    make(tmp_path / "s", tuple(f"item {number}" for number in range(200_000)), width=2)
    code = (
        "import resource, sys; import numpy; from blair_rec.text.store.embeddings import open_store\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); store = open_store(sys.argv[1], verify=False); opened = peak() - before\n"
        "print(opened, store.table(['item 77'])[0].tolist(), store.tokens.at([199_999]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=True)
    opened, rest = done.stdout.split(" ", 1)
    assert rest == "[154.0, 155.0] ['item 199999']\n"
    assert int(opened) < 2_000, "kilobytes; a list of the tokens alone would take ten times as much"


@given(st.lists(st.text(alphabet="ab", max_size=3), unique=True, max_size=8), st.text(alphabet="ab", max_size=3))
def test_a_token_is_found_where_it_is_and_nowhere_else(tokens: list[str], asked: str) -> None:
    table = TokenTable.of(tokens)
    assert table.find([asked, *tokens]).tolist() == [
        tokens.index(asked) if asked in tokens else -1,
        *range(len(tokens)),
    ]
    assert table.at(range(len(tokens))) == list(table.between(0, len(tokens))) == tokens


def test_tokens_whose_digests_share_a_half_are_distinguished() -> None:
    keys = np.array([[5, 1], [5, 3], [5, 2], [7, 2], [5, 3]], dtype="<u8")
    index = DigestIndex.of(keys)
    asked = np.array([[5, 2], [5, 4], [7, 2], [7, 1], [9, 9], [5, 3], [0, 0]], dtype="<u8")
    assert index.find(asked).tolist() == [2, -1, 3, -1, -1, 1, -1]
    assert index.first_rows().tolist() == [0, 1, 2, 3]


def test_files_of_others_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("dear")
    with pytest.raises(OutputError, match=r"holds 1 file that this command did not write \(first: thesis.tex\)"):
        make(tmp_path / "s")
    with pytest.raises(OutputError, match="is a file, but a folder is needed there"):
        make(tmp_path / "s" / "thesis.tex")
    assert (tmp_path / "s" / "thesis.tex").read_text() == "dear"
    make(tmp_path / "t")
    (tmp_path / "t" / "thesis.tex").write_text("dear")
    with pytest.raises(OutputError, match=r"first: thesis.tex"):
        make(tmp_path / "t")
    (tmp_path / "u").mkdir()
    np.save(tmp_path / "u" / "vectors.npy", np.eye(2))
    with pytest.raises(OutputError, match=r"holds vectors.npy but no store.json, so this command did not write it"):
        make(tmp_path / "u")


def test_an_empty_folder_and_a_link_may_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    make(tmp_path / "s")
    (tmp_path / "link").symlink_to(tmp_path / "s")
    make(tmp_path / "link", ("x",))
    assert open_store(tmp_path / "s").item_tokens == ("x",)
    assert (tmp_path / "link").is_symlink()
