"""Exact search gives the result of float64 for any blocks; approximate search misses little and has the same scores."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.errors import ConfigError, MissingExtra, StoreError
from blair_rec.text.search import nearest
from blair_rec.text.search.nearest import METRICS, ExactIndex, Found
from blair_rec.text.store.embeddings import ON_DISK, EmbeddingStore, as_float32, as_stored, open_store
from blair_rec.text.store.writer import write_store


def store_of(vectors: np.ndarray, dtype: str = "float32") -> EmbeddingStore:
    store = EmbeddingStore.of([f"i{row}" for row in range(len(vectors))], vectors.astype(np.float32))
    return dataclasses.replace(store, vectors=as_stored(store.vectors, dtype), dtype=dtype)


def brute_force(store: EmbeddingStore, queries: np.ndarray, k: int, metric: str) -> Found:
    """Every score in float64, sorted by score and then by row."""
    vectors = as_float32(store.vectors, store.dtype).astype(np.float64)
    if metric == "cosine":
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
        queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-300)
    scores = np.round(queries @ vectors.T, 12)  # equal vectors shall tie here too
    order = np.array([np.lexsort((np.arange(len(store)), -one)) for one in scores])[:, :k]
    return Found(order, np.take_along_axis(scores, order, axis=1))


def vectors_with_ties(rows: int = 700, width: int = 24) -> np.ndarray:
    """Random vectors; some rows are there many times, some nearly, one is zero, and lengths differ.

    float16 makes no difference between rows 5 and 300 to 399.
    """
    random = np.random.default_rng(5)
    vectors = random.standard_normal((rows, width)) * random.uniform(0.1, 10, (rows, 1))
    vectors[100:200] = vectors[3]
    vectors[300:400] = vectors[5] * (1 + 1e-7 * random.standard_normal((100, 1)))
    vectors[7] = 0
    return vectors.astype(np.float32)


def queries_for(vectors: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(6)
    return np.concatenate([random.standard_normal((5, vectors.shape[1])), vectors[[3, 5, 7, 250]]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", sorted(ON_DISK))
def test_the_nearest_are_those_of_float64_and_equal_ones_in_order_of_rows(dtype: str, metric: str) -> None:
    vectors = vectors_with_ties()
    store, queries = store_of(vectors, dtype), queries_for(vectors)
    found, expected = ExactIndex(store, metric).search(queries, 150), brute_force(store, queries, 150, metric)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-10 * np.abs(expected.scores).max())
    assert found.rows[5, :101].tolist() == [3, *range(100, 200)] or metric == "dot"
    for rows, scores, at in zip(found.rows, found.scores, range(len(queries)), strict=True):
        assert len(set(rows.tolist())) == 150
        assert (np.diff(scores) <= 0).all()
        equal = np.diff(scores) == 0
        assert (np.diff(rows)[equal] > 0).all(), f"query {at}"


@pytest.mark.parametrize("metric", METRICS)
def test_neither_blocks_nor_company_change_a_bit(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = vectors_with_ties()
    store, queries = store_of(vectors, "float16"), queries_for(vectors)
    expected = ExactIndex(store, metric, block_rows=len(store)).search(queries, 20)
    for block_rows in (1, 7, 64, 10_000):
        found = ExactIndex(store, metric, block_rows).search(queries, 20)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.scores, expected.scores)
    index = ExactIndex(store, metric, block_rows=100)  # all but the block with the zero are read as float16
    for at in range(len(queries)):
        np.testing.assert_array_equal(index.search(queries[at : at + 1], 20).rows[0], expected.rows[at])
        np.testing.assert_array_equal(index.search(queries[at : at + 1], 20).scores[0], expected.scores[at])
    monkeypatch.setattr(nearest, "QUERIES", 2)
    np.testing.assert_array_equal(ExactIndex(store, metric).search(queries, 20).rows, expected.rows)


@pytest.mark.parametrize("metric", METRICS)
def test_one_query_over_float16_is_ranked_beyond_what_float16_holds(metric: str) -> None:
    random = np.random.default_rng(2)
    # One cluster, so that scores are closer together than float16 can distinguish.
    vectors = random.standard_normal(48) + 0.002 * random.standard_normal((2000, 48))
    store = store_of(vectors, "float16")
    index = ExactIndex(store, metric, block_rows=64)
    for query in random.standard_normal((30, 48)):
        found, expected = index.search(query[None], 10), brute_force(store, query[None], 10, metric)
        np.testing.assert_array_equal(found.rows, expected.rows)


@pytest.mark.parametrize("scale", [2.0**-18, 2.0**13])
def test_lengths_at_which_float16_would_lose_a_product_are_ranked_right(scale: float) -> None:
    vectors = (1 + 0.2 * np.random.default_rng(3).standard_normal((500, 200))) * scale
    store = store_of(vectors, "float16")
    for query in (np.ones((1, 200)), vectors[:1]):
        found, expected = ExactIndex(store).search(query, 10), brute_force(store, query, 10, "cosine")
        np.testing.assert_array_equal(found.rows, expected.rows)


@pytest.mark.parametrize("metric", METRICS)
def test_the_length_of_a_query_changes_no_order(metric: str) -> None:
    store, queries = store_of(vectors_with_ties()), queries_for(vectors_with_ties())
    expected = ExactIndex(store, metric, block_rows=50).search(queries, 20)
    found = ExactIndex(store, metric, block_rows=50).search(queries * 2.0**-160, 20)
    np.testing.assert_array_equal(found.rows, expected.rows)


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=1, max_size=40),
    st.lists(st.integers(-3, 3), min_size=3, max_size=3),
    st.integers(1, 50),
    st.integers(1, 50),
    st.sampled_from(METRICS),
)
def test_small_whole_numbers_tie_often_and_are_ranked_right(
    rows: list[list[int]], query: list[int], k: int, block_rows: int, metric: str
) -> None:
    store, queries = store_of(np.array(rows)), np.array([query], np.float64)
    found, expected = ExactIndex(store, metric, block_rows).search(queries, k), brute_force(store, queries, k, metric)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-11)
    if metric == "dot":  # whole numbers: no rounding anywhere
        np.testing.assert_array_equal(found.rows, expected.rows)


def test_more_than_there_is_gives_all() -> None:
    found = ExactIndex(store_of(np.eye(3))).search(np.eye(3)[:2], 10)
    assert found.rows.tolist() == [[0, 1, 2], [1, 0, 2]]
    assert ExactIndex(store_of(np.eye(3))).search(np.empty((0, 3)), 2).rows.shape == (0, 2)


def test_a_store_on_disk_is_searched_in_half_of_its_size_in_memory(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
    write_store(tmp_path / "s", [f"i{row}" for row in range(20_000)], vectors, encoder={}, template={}, dtype="float16")
    index = ExactIndex(open_store(tmp_path / "s", verify=False))
    tracemalloc.start()  # NumPy's memory; torch's is one block
    found = index.search(vectors[:3], 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.rows[:, 0].tolist() == [0, 1, 2]
    assert peak < vectors.nbytes / 4 and index.block_rows * 64 * 4 < vectors.nbytes / 4


@pytest.mark.parametrize(
    "queries, k, metric, error, expected",
    [
        (np.zeros((2, 3)), 1, "cosine", StoreError, r"queries have the shape \[2, 3\]; .*\[queries, 4\]"),
        (np.zeros(4), 1, "cosine", StoreError, r"queries have the shape \[4\]"),
        (np.full((2, 4), np.nan), 1, "dot", StoreError, "2 of 2 queries hold NaN"),
        (np.ones((1, 4)), 0, "cosine", ConfigError, "k is 0; it has to be at least 1"),
        (np.ones((1, 4)), 1, "euclid", ConfigError, "metric is 'euclid'; known: cosine, dot"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    queries: np.ndarray, k: int, metric: str, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        ExactIndex(store_of(np.eye(4)), metric).search(queries, k)


# faiss


@pytest.fixture
def clustered(tmp_path: Path) -> EmbeddingStore:
    """Vectors in heaps, as those of texts are."""
    random = np.random.default_rng(1)
    heaps = random.standard_normal((60, 32))
    vectors = (heaps[random.integers(0, 60, 6000)] + 0.3 * random.standard_normal((6000, 32))).astype(np.float32)
    tokens = [f"i{row}" for row in range(6000)]
    return write_store(tmp_path / "s", tokens, vectors, encoder={}, template={}, dtype="float16")


@pytest.mark.parametrize("metric", METRICS)
def test_faiss_finds_nearly_all_and_gives_the_same_scores(clustered: EmbeddingStore, metric: str) -> None:
    pytest.importorskip("faiss", reason="faiss (the extra `faiss`) is not installed")
    from blair_rec.text.search.approximate import ApproximateIndex

    queries = as_float32(clustered.vectors[:200], "float16") + 0.05
    exact = ExactIndex(clustered, metric).search(queries, 10)
    found = ApproximateIndex(clustered, metric).search(queries, 10)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.rows.tolist(), found.rows.tolist(), strict=True)]
    assert np.mean(shared) / 10 >= 0.9
    score_of = [dict(zip(*one, strict=True)) for one in zip(exact.rows.tolist(), exact.scores.tolist(), strict=True)]
    for known, rows, scores in zip(score_of, found.rows.tolist(), found.scores.tolist(), strict=True):
        assert all(known.get(row, score) == score for row, score in zip(rows, scores, strict=True)), "to the bit"
    everywhere = ApproximateIndex(clustered, metric, probed=1).search(queries, 10)
    assert (everywhere.rows == exact.rows).mean() > 0.999


def test_an_index_is_made_once_and_again_for_another_store(clustered: EmbeddingStore, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss (the extra `faiss`) is not installed")
    from blair_rec.text.search.approximate import ApproximateIndex, index_path

    queries = as_float32(clustered.vectors[:50], "float16")
    first = ApproximateIndex(clustered).search(queries, 5)
    [path] = tmp_path.glob("*.faiss")
    assert path == index_path(clustered, "cosine")
    written = path.stat().st_mtime_ns
    np.testing.assert_array_equal(ApproximateIndex(clustered).search(queries, 5).rows, first.rows)
    assert path.stat().st_mtime_ns == written
    other = write_store(tmp_path / "s", ["a", "b"], np.eye(2, 32, dtype=np.float32), encoder={}, template={})
    assert ApproximateIndex(other).search(np.eye(2, 32), 5).rows.tolist() == [[0, 1], [1, 0]]
    assert len(list(tmp_path.glob("*.faiss"))) == 2
    assert not list(tmp_path.glob(".*.partial"))


def test_an_index_that_is_not_ours_is_made_again_and_in_a_read_only_folder_it_stays_in_memory(
    clustered: EmbeddingStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faiss = pytest.importorskip("faiss", reason="faiss (the extra `faiss`) is not installed")
    from blair_rec.text.search.approximate import ApproximateIndex, index_path

    path = index_path(clustered, "dot")
    assert path is not None
    path.write_bytes(b"no index")
    queries = as_float32(clustered.vectors[:20], "float16")
    with caplog.at_level(logging.WARNING, logger="blair_rec"):
        made_again = ApproximateIndex(clustered, "dot").search(queries, 3)
    assert "dot.faiss is of another store, or was changed" in caplog.text
    written = path.read_bytes()
    for change in (written[:-1] + bytes([written[-1] ^ 1]), written[: len(written) // 2], b""):
        path.write_bytes(change)
        np.testing.assert_array_equal(ApproximateIndex(clustered, "dot").search(queries, 3).rows, made_again.rows)
        assert path.read_bytes() == written
    header = path.with_name(f"{path.name}.json")
    said = json.loads(header.read_text())
    assert said["sha256"] == hashlib.sha256(written).hexdigest()
    path.with_name("copy").write_bytes(written)
    for foreign in ({**said, "store_sha256": "0" * 64}, {**said, "metric": "cosine"}, [], None):
        header.unlink() if foreign is None else header.write_text(json.dumps(foreign))
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="blair_rec"):
            ApproximateIndex(clustered, "dot")
        assert "is of another store, or was changed" in caplog.text
        assert json.loads(header.read_text()) == said

    def refuse(*_: object) -> None:
        raise RuntimeError("read-only")

    monkeypatch.setattr(faiss, "write_index", refuse)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="blair_rec"):
        in_memory = ApproximateIndex(clustered, "cosine", probed=1.0)
    [message] = caplog.messages
    assert "can't be written (read-only), so it is used in memory" in message
    best = ExactIndex(clustered).search(queries, 3)
    np.testing.assert_array_equal(in_memory.search(queries, 3).rows, best.rows)
    path.write_bytes(b"no index")
    assert ApproximateIndex(clustered, "dot").search(queries, 3).rows.tolist() == made_again.rows.tolist()
    assert path.read_bytes() == b"no index"


def test_faiss_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from blair_rec import extras
    from blair_rec.text.search.approximate import ApproximateIndex

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"approximate search needs faiss.*pip install 'blair-rec\[faiss\]'"):
        ApproximateIndex(store_of(np.eye(3)))
