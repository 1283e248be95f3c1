"""BM25: find items that share words with a query, with bm25s. It is the baseline for any search by vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blair_rec.errors import ConfigError, counted
from blair_rec.extras import need
from blair_rec.text.search.nearest import Found

WORD = r"(?u)\b\w+\b"
"""Runs of letters, digits and underscores, including single characters, as in "2 x 4 timber"."""
K1, B = 0.9, 0.4
"""Anserini's defaults: how soon repeating a word stops to add to the score, and how much long texts are penalised."""


class WordIndex:
    """Find texts by the words of a query, with Lucene's variant of BM25; words are lower-cased and stemmed (Snowball).

    The, of, with and thirty other stop words of Lucene's list are ignored: in queries of whole sentences they would
    outweigh the words that matter.

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
            raise ConfigError(f"none of the {counted(len(texts), 'text')} contains a word, so BM25 can't search them")
        self._index = bm25s.BM25(k1=K1, b=B)
        self._index.index(tokens, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> Found:
        """The k texts with the highest scores; ties are in the order of the texts, and each text shares a word."""

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
