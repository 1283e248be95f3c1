"""BM25: the items that share words with a query, by bm25s. What any search by vectors has to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blair_rec.errors import ConfigError
from blair_rec.extras import need
from blair_rec.text.search.nearest import Found

WORD = r"(?u)\b\w+\b"
"""Runs of letters, digits and underscores; single ones too, as in the 2 x 4 of timber."""
K1, B = 0.9, 0.4
"""Anserini's: how soon a word that is repeated stops to count, and how much a long text is held against it."""


class WordIndex:
    """Texts found by the words of a query, lower-cased and cut to English stems by Snowball; Lucene's variant of BM25.

    The, of, with and thirty other words of Lucene's list count for nothing: in queries of whole sentences they would
    outweigh what is asked for.

    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; bm25s: Lu, arXiv 2407.03618.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Raises MissingExtra without bm25s and PyStemmer, ConfigError if no text holds a word."""
        need("bm25s", "search", "BM25")
        need("Stemmer", "search", "BM25")
        import bm25s

        self._count = len(texts)
        tokens = _words(texts, return_ids=True)
        if not any(tokens.ids):
            raise ConfigError(f"none of the {len(texts)} texts holds a word; BM25 has nothing to go by")
        self._index = bm25s.BM25(k1=K1, b=B)
        self._index.index(tokens, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> Found:
        """The k texts that score highest, of equal ones the first; never one without a word of the query."""
        k = min(k, self._count)
        rows, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf)
        for at, words in enumerate(_words(queries, return_ids=False)):
            of_all = self._index.get_scores(words) if words else np.zeros(0)
            found = np.flatnonzero(of_all > 0)
            if len(found) > k:
                found = found[of_all[found] >= np.partition(of_all[found], -k)[-k]]
            found = found[np.argsort(-of_all[found], kind="stable")[:k]]
            rows[at, : len(found)], scores[at, : len(found)] = found, of_all[found]
        return Found(rows, scores)


def _words(texts: Sequence[str], return_ids: bool) -> Any:
    """bm25s's table of stems, or a list of stems for each text."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(
        list(texts), token_pattern=WORD, stopwords="en", stemmer=stemmer, return_ids=return_ids, show_progress=False
    )
