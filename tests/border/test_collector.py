"""Our collector gives RecBole's metrics exactly what RecBole's own collector gives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import blair_rec.recbole  # noqa: F401  (repairs RecBole before any part of it is used)
from blair_rec.border.collector import GROUP, TopKCollector, largest

from recbole.evaluator import Collector

TOPK_METRICS = ["NDCG", "Recall", "MRR", "MAP", "Precision", "Hit"]


def kept(collector: type, metrics: list[str], batches: list[tuple[torch.Tensor, ...]]) -> dict[str, Any]:
    """Return what a collector keeps of some batches."""
    made = collector({"metrics": metrics, "topk": [1, 3], "device": "cpu", "eval_args": {"mode": "full"}})
    for scores, case, item in batches:
        made.eval_batch_collect(scores, None, case, item)
    return dict(made.data_struct._data_dict)


@pytest.mark.parametrize("metrics", [TOPK_METRICS, [*TOPK_METRICS, "ItemCoverage"], ["ItemCoverage"]])
@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=3), seed=st.integers(0, 99)
)
def test_metrics_get_what_recboles_own_collector_gives(
    metrics: list[str], shapes: list[tuple[int, int]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for cases, true in shapes:
        scores = torch.randint(-3, 3, (cases, 7), generator=generator).float()  # with ties
        scores[:, 0] = -torch.inf
        # Some cases have several targets, some of them twice, and some cases have none.
        case, item = (torch.randint(0, n, (true,), generator=generator) for n in (cases, 7))
        batches.append((scores, case, item))
    ours, theirs = (kept(collector, metrics, batches) for collector in (TopKCollector, Collector))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype
        assert ours[name].tolist() == expected.tolist()


@given(
    cases=st.integers(1, 4),
    n_items=st.integers(1, 12 * GROUP),
    k=st.integers(1, 12),
    levels=st.sampled_from([2, 30, 10**6]),
    seed=st.integers(0, 99),
)
def test_the_largest_scores_are_those_of_a_full_sort(cases: int, n_items: int, k: int, levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (cases, n_items), generator=generator).float()
    scores[:, 0] = -torch.inf
    k = min(k, n_items)
    columns = largest(scores, k)
    assert columns.shape == (cases, k)
    assert torch.equal(scores.gather(1, columns), scores.sort(dim=1, descending=True).values[:, :k])
    assert all(len(set(row)) == k for row in columns.tolist())
