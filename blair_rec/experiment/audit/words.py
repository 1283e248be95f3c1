"""Text vectors without an encoder: TF-IDF of the words, reduced to its largest directions.

Shapes: n items, V words, E the width of the vectors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

TEXT_DIM = 512
"""At most this many directions are kept."""
MORE, PASSES = 16, 2
"""Random directions used besides those that are kept, and the number of passes that improve them."""


def tf_idf(texts: Sequence[str]) -> csr_array:
    """TF-IDF of the texts' words, with rows of length 1: [n, V] float64; a text without words has a zero row.

    A word that occurs c times in a text has the weight (1 + ln c) (1 + ln((1 + n) / (1 + texts with this word))).
    Words are in lower case. A word of a single text says nothing about other texts, so it is skipped.
    """
    counts = [Counter(re.findall(r"\w+", text.casefold())) for text in texts]
    occurs = Counter(word for of_text in counts for word in of_text)
    column = {word: place for place, word in enumerate(sorted(word for word, c in occurs.items() if c > 1))}
    kept = [{word: c for word, c in of_text.items() if word in column} for of_text in counts]
    columns = np.array([column[word] for of_text in kept for word in of_text], dtype=np.int64)
    often = np.array([c for of_text in kept for c in of_text.values()], dtype=np.float64)
    texts_with = np.array([occurs[word] for of_text in kept for word in of_text], dtype=np.float64)
    weights = (1 + np.log(often)) * (1 + np.log((1 + len(texts)) / (1 + texts_with)))
    offsets = np.concatenate([[0], np.cumsum([len(of_text) for of_text in kept])]).astype(np.int64)
    row = np.repeat(np.arange(len(texts)), np.diff(offsets))
    length = np.sqrt(np.bincount(row, weights=weights**2, minlength=len(texts)))
    return csr_array((weights / length[row], columns, offsets), (len(texts), max(len(column), 1)))


def text_vectors(texts: Sequence[str], width: int = TEXT_DIM, seed: int = 0) -> NDArray[np.float32]:
    """Vectors whose cosines are close to those of the texts' TF-IDF: [n, E] float32, E at most `width`.

    They are the rows of `tf_idf` in its `width` directions of largest singular values, found by random subspace
    iteration (Halko, Martinsson and Tropp 2011). If there are no more directions than that, the cosines are exact.
    """
    table = tf_idf(texts)
    if table.shape[1] <= width:
        exact: NDArray[np.float32] = table.toarray().astype(np.float32)
        return exact
    if len(texts) <= width + MORE:
        image = table.T.toarray()
    else:
        basis = table @ np.random.default_rng(seed).standard_normal((table.shape[1], width + MORE))
        for _ in range(PASSES):
            basis = table @ (table.T @ np.linalg.qr(basis)[0])
        image = table.T @ np.linalg.qr(basis)[0]
    squares, turned = np.linalg.eigh(image.T @ image)
    squares, turned = squares[::-1][:width], turned[:, ::-1][:, :width]
    kept = squares > 1e-9 * squares[0]
    # A product with the table gives items with the same text the same vector, and items without text zeros.
    directions = image @ (turned[:, kept] / np.sqrt(squares[kept]))
    rows: NDArray[np.float32] = (table @ directions).astype(np.float32)
    return rows
