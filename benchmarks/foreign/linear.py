"""RecTools' EASE or implicit's item-kNN on our split; the setting of each is the best of a grid on validation.

    PYTHON benchmarks/foreign/linear.py SPLIT -o LISTS --system rectools_ease
    PYTHON benchmarks/foreign/linear.py SPLIT -o LISTS --system implicit_knn

Both fit one matrix of items by items to the training events. A case's scores are the sum of the rows of its history,
in which every item counts the same. EASE's grid is its regularisation (500 is RecTools' default). Item-kNN's is the
weighting (cosine, TF-IDF, BM25) and the number of neighbours of an item (20 is implicit's default).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from course import Course, arguments, write_record
from scipy.sparse import csr_matrix
from split_files import Cases, Ranking, best_of, read_split, validate, write_lists

BLOCK = 256
"""Cases scored together."""
REGULARISATION = (30.0, 100.0, 500.0, 2000.0)
NEIGHBOURS = (20, 100, 500, 2000)
WEIGHTINGS = ("CosineRecommender", "TFIDFRecommender", "BM25Recommender")


def counts_of(sequences: list[list[int]], n_items: int) -> csr_matrix:
    """How often each sequence [rows] holds each item [columns], float32."""
    rows = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    columns = np.concatenate([np.array(sequence, dtype=np.int64) for sequence in sequences])
    return csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(sequences), n_items))


def ranking(weights: Any, cases: Cases, masked: bool, k: int) -> Ranking:
    """Rank by the summed rows of an item-by-item matrix, dense or sparse. An item with a score of 0 is no candidate."""
    parts = []
    for begin in range(0, len(cases.names), BLOCK):
        histories = cases.histories[begin : begin + BLOCK]
        scores = counts_of(histories, weights.shape[0]) @ weights
        scores = scores.toarray() if hasattr(scores, "toarray") else np.asarray(scores)
        scores[scores == 0] = -np.inf
        parts.append(best_of(scores, histories if masked else None, k))
    ids, values = zip(*parts, strict=True)
    return np.concatenate(ids), np.concatenate(values)


def ease(train: list[list[int]], n_items: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield settings and RecTools' matrix for them, with items by our ids."""
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import EASEModel

    pairs = sorted({(user, item) for user, sequence in enumerate(train) for item in sequence})
    frame = pd.DataFrame(pairs, columns=[Columns.User, Columns.Item])
    dataset = Dataset.construct(frame.assign(**{Columns.Weight: 1, Columns.Datetime: pd.Timestamp(0)}))
    ours = dataset.item_id_map.convert_to_external(np.arange(dataset.item_id_map.size)).astype(np.int64)
    for regularisation in REGULARISATION:
        model = EASEModel(regularization=regularisation).fit(dataset)
        weights = np.zeros((n_items, n_items), dtype=np.float32)
        weights[np.ix_(ours, ours)] = model.weight
        yield {"regularization": regularisation}, weights


def knn(train: list[list[int]], n_items: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield settings and implicit's sparse matrix for them."""
    from implicit import nearest_neighbours

    taken = counts_of(train, n_items).astype(np.float64)  # implicit's weightings need it
    for weighting in WEIGHTINGS:
        for neighbours in NEIGHBOURS:
            model = getattr(nearest_neighbours, weighting)(K=neighbours)
            model.fit(taken, show_progress=False)
            yield {"model": weighting, "K": neighbours}, model.similarity.astype(np.float32)


SYSTEMS = {"rectools_ease": (ease, ("rectools", "scipy")), "implicit_knn": (knn, ("implicit", "scipy"))}


def main() -> None:
    """Fit every setting of one system, keep the best, and write its lists and its record."""
    parser = arguments(__doc__, minutes=False)
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    options = parser.parse_args()
    split = read_split(options.split)
    fitted, packages = SYSTEMS[options.system]
    course = Course(math.inf)  # without a limit
    tried, best, chosen = [], None, None
    for settings, weights in fitted(split.train, len(split.items)):
        valid = validate(lambda cases, masked, k, matrix=weights: ranking(matrix, cases, masked, k), split)
        tried.append({**settings, "valid": valid})
        print(f"{settings}: NDCG@10 {valid:.4f}", flush=True)
        if chosen is None or valid > chosen["valid"]:
            best, chosen = weights, tried[-1]
    used = {"used_minutes": course.used(), "clock_minutes": course.clock()}
    write_lists(lambda cases, masked, k: ranking(best, cases, masked, k), split, options.out, options.system)
    record = {"settings": chosen, "trials": len(tried), "tried": tried, **used}
    write_record(options.out, options.system, packages, record)


if __name__ == "__main__":
    main()
