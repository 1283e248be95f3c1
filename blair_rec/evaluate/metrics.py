"""NDCG@k, Recall@k, Hit@k and MRR@k of every user from counts of higher and tied candidates (NumPy, float64).

Every test case has one target, so a metric depends on the rank of the target only. Tied items have no order: the
target's 0-based rank is then `higher` + U{0..equal}, and a metric is its expected value over that random rank. So a
scorer that gives every item the same score gets chance level, not the top or the bottom of the ranking.
Expected values under ties: McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in
the Presence of Tied Scores", ECIR 2008.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blair_rec.errors import ConfigError, agreed, counted, out_of

# The gain of the target at 0-based rank r below the cutoff k; from rank k on the gain is 0. The ideal DCG of one
# target is 1, so NDCG needs no division. With one target Recall and Hit are the same.
GAINS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "NDCG": lambda rank: 1.0 / np.log2(rank + 2.0),
    "Recall": np.ones_like,
    "Hit": np.ones_like,
    "MRR": lambda rank: 1.0 / (rank + 1.0),
}
ALIASES = {"HR": "Hit"}
KNOWN = "NDCG@k, Recall@k, Hit@k (or HR@k), MRR@k, with k = 1, 2, ..."


@dataclass(frozen=True)
class Metric:
    """A ranking metric and its cutoff; `str()` gives its name, such as 'NDCG@10'."""

    name: str
    """A key of `GAINS`."""
    k: int
    """Number of top ranks that count, at least 1."""

    def __str__(self) -> str:
        return f"{self.name}@{self.k}"


def parse_metric(text: str) -> Metric:
    """'NDCG@10' -> Metric('NDCG', 10), in upper or lower case. Raises ConfigError for an unknown name or k below 1."""
    found = re.fullmatch(r"([A-Za-z]+)@([0-9]{1,12})", text.strip())
    if found is None:
        raise ConfigError(f"{text!r} is not a metric; known: {KNOWN}")
    names = {name.lower(): ALIASES.get(name, name) for name in (*GAINS, *ALIASES)}
    name, k = names.get(found[1].lower()), int(found[2])
    if name is None:
        raise ConfigError(f"{text!r}: unknown metric {found[1]!r}; known: {KNOWN}")
    if k < 1:
        raise ConfigError(f"{text!r}: the cutoff has to be at least 1; known: {KNOWN}")
    return Metric(name, k)


def check_k(metrics: Sequence[str], candidates: int) -> None:
    """Raise ConfigError if the cutoff of a metric is larger than the number of items to rank."""
    for text in metrics:
        if (k := parse_metric(text).k) > candidates:
            raise ConfigError(
                f"{text} needs at least {counted(k, 'item')} to rank, but there {agreed(candidates, 'are')} only "
                f"{candidates:,}; choose k of at most {candidates:,}"
            )


def per_user(
    metric: Metric | str,
    higher: NDArray[np.int64],
    equal: NDArray[np.int64],
    miss: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """The metric of every test case, as its expected value over a uniformly random order of ties.

    higher, equal: [users] integers, the number of other candidates that score above the target, or are tied with it.
    miss: [users] bool, True where the target was not a candidate, so the metric is 0.
    Returns [users] float64. Raises ConfigError for an unknown metric, ValueError for invalid counts.
    """
    if isinstance(metric, str):
        metric = parse_metric(metric)
    higher, equal = np.asarray(higher), np.asarray(equal)
    for name, counts in (("higher", higher), ("equal", equal)):
        if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer):
            raise ValueError(f"{name} has to be [users] integers, not {list(counts.shape)} {counts.dtype}")
        if (negative := int((counts < 0).sum())) > 0:
            raise ValueError(f"{name} counts items, but {out_of(int(negative), len(counts), 'value', 'are')} negative")
    if higher.shape != equal.shape or (miss is not None and np.shape(miss) != higher.shape):
        lengths = [len(higher), len(equal)] + ([] if miss is None else [np.size(miss)])
        raise ValueError(f"higher, equal and miss disagree about the number of users: {lengths}")
    if len(higher) == 0:
        return np.zeros(0)
    # Possible ranks are higher .. higher + equal, so the expected value is a difference of two entries of the
    # cumulative gain. No target ranks below `last`, so a huge k needs no huge table.
    last = int((higher + equal).max()) + 1
    places = np.arange(min(metric.k, last), dtype=np.float64)
    cumulative = np.concatenate([[0.0], np.cumsum(GAINS[metric.name](places))])
    first, after = (np.minimum(ranks, len(places)) for ranks in (higher, higher + equal + 1))
    values = (cumulative[after] - cumulative[first]) / (equal + 1)
    return values if miss is None else np.where(np.asarray(miss, dtype=bool), 0.0, values)


def metric_values(
    metrics: Sequence[str],
    higher: NDArray[np.int64],
    equal: NDArray[np.int64],
    miss: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """The mean of each metric over the test cases, by its name in `metrics`. Arguments and errors as in `per_user`."""
    if len(higher) == 0:
        raise ValueError("there are no test cases to average over")
    return {text: float(per_user(text, higher, equal, miss).mean()) for text in metrics}


@dataclass(frozen=True)
class TopLists:
    """Statistics of the top k of all test cases. They show whether a gain comes from popular items alone."""

    k: int
    coverage: float
    """Share of all items that are in at least one list."""
    popularity: float
    """Mean number of training events of a recommended item, over all places of all lists."""
    gini: float
    """Gini coefficient of how often items are recommended: 0 if all equally often, close to 1 if only a few are."""


def top_lists(topk: NDArray[np.int32], item_counts: NDArray[np.int64], k: int) -> TopLists:
    """Statistics of top lists.

    topk: [cases, at least k] item ids, best first, 0 for empty places; item_counts: [N] training events by item id.
    """
    shown = topk[:, :k].ravel()
    shown = shown[shown > 0]
    often = np.bincount(shown, minlength=len(item_counts))[1:]
    return TopLists(
        k=k,
        coverage=float((often > 0).mean()),
        popularity=float(item_counts[shown].mean()) if len(shown) else 0.0,
        gini=gini(often),
    )


def gini(amounts: NDArray[np.int64]) -> float:
    """Gini coefficient of non-negative amounts: mean absolute difference of two of them / twice the mean."""
    if amounts.sum() == 0:
        return 0.0
    ordered = np.sort(amounts.astype(np.float64))
    places = np.arange(1, len(ordered) + 1)
    return float(((2 * places - len(ordered) - 1) * ordered).sum() / (len(ordered) * ordered.sum()))
