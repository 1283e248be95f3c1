"""Text vectors by TF-IDF are those of the formula, and fewer directions keep nearly as much as the best ones."""

from __future__ import annotations

import math
import random

import numpy as np

from blair_rec.experiment.audit.words import text_vectors, tf_idf

TEXTS = ["Red red shoe", "red Hat", "", "blue hat; hat", "green-shoe", "alone"]


def test_tf_idf_is_the_formula() -> None:
    words = ["hat", "red", "shoe"]  # all others are in one text alone
    counts = [[0, 2, 1], [1, 1, 0], [0, 0, 0], [2, 0, 0], [0, 0, 1], [0, 0, 0]]
    expected = []
    for row in counts:
        weights = [(1 + math.log(c)) * (1 + math.log(7 / 3)) if c else 0.0 for c in row]
        length = math.hypot(*weights) or 1
        expected.append([one / length for one in weights])
    assert len(words) == 3
    np.testing.assert_allclose(tf_idf(TEXTS).toarray(), expected, atol=1e-12)
    np.testing.assert_allclose(text_vectors(TEXTS), expected, atol=1e-6)


def random_texts(n: int, words: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(f"w{draw.randrange(words)}" for _ in range(6)) for _ in range(n)]


def test_fewer_items_than_words_keep_their_cosines() -> None:
    texts = random_texts(20, 30)
    dense = tf_idf(texts).toarray()
    vectors = text_vectors(texts, width=20)
    assert vectors.shape[1] <= 20 < dense.shape[1]
    np.testing.assert_allclose(vectors @ vectors.T, dense @ dense.T, atol=1e-5)


def test_few_directions_lose_little_more_than_the_best_ones() -> None:
    texts = [*random_texts(300, 80), "", ""]
    texts[7] = texts[3]
    dense = tf_idf(texts).toarray()
    vectors = text_vectors(texts, width=10)
    assert vectors.shape == (302, 10)
    values = np.linalg.svd(dense, compute_uv=False)
    kept = (vectors.astype(float) ** 2).sum()
    assert 0.97 * (values[:10] ** 2).sum() <= kept <= (values[:10] ** 2).sum() + 1e-6
    assert (vectors[3] == vectors[7]).all() and not vectors[300:].any()
