"""The candidates of a second stage, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blair_rec.errors import ScoringError
from blair_rec.ranking.rerank.pool import Pool, candidates

N_ITEMS, WIDTH = 12, 5


def histories(seed: int, cases: int) -> dict[str, torch.Tensor]:
    """Histories with repeated items, of lengths 1 to WIDTH."""
    random = np.random.default_rng(seed)
    length = random.integers(1, WIDTH + 1, cases)
    items = random.integers(1, N_ITEMS, (cases, WIDTH)) * (np.arange(WIDTH) < length[:, None])
    return {"items": torch.from_numpy(items), "length": torch.from_numpy(length)}


def rows_of(pool: Pool) -> list[tuple[int, int, tuple[float, ...], tuple[int, ...], int]]:
    """Every candidate: case, item, z-scores, ranks, age."""
    return [
        (case, item, tuple(z), tuple(map(int, rank)), int(age))
        for case, item, z, rank, age in zip(
            *(part.tolist() for part in (pool.case, pool.item, pool.z, pool.rank, pool.age)), strict=True
        )
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, N_ITEMS + 3), st.integers(1, 4))
def test_candidates_are_the_union_of_the_members_top_lists(seed: int, top: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    cases, members = 4, 3
    scores = random.integers(-levels, levels + 1, (members, cases, N_ITEMS)).astype(np.float32)  # with many ties
    interaction = histories(seed, cases)
    expected = []
    top_in = min(top, N_ITEMS - 1)
    for case in range(cases):
        history = interaction["items"][case, : int(interaction["length"][case])].tolist()
        age = {item: history[::-1].index(item) + 1 for item in history}
        new = [item for item in range(1, N_ITEMS) if item not in age]
        ranks, found = {}, set()
        for member in scores[:, case]:
            ranked = sorted(new, key=lambda item, of=member: (-of[item], item))[:top_in]
            found |= set(ranked)
            for item in range(1, N_ITEMS):
                above = sum(member[other] > member[item] for other in ranked)
                listed = item in ranked or (item in age and above < top_in)
                ranks.setdefault(item, []).append(above if listed else top_in)
                if item in age and above < top_in:
                    found.add(item)
        expected += [
            (case, item, tuple(scores[:, case, item].tolist()), tuple(ranks[item]), age.get(item, 0))
            for item in sorted(found)
        ]
    pool = candidates(torch.from_numpy(scores), interaction, "items", "length", top)
    assert rows_of(pool) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, N_ITEMS + 3), st.integers(1, 4))
def test_items_that_a_list_lacks_are_missing_values_and_no_candidates_of_it(seed: int, top: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    cases, top_in = 4, min(top, N_ITEMS - 1)
    scores = random.integers(-levels, levels + 1, (2, cases, N_ITEMS)).astype(np.float32)
    scores[1][random.random((cases, N_ITEMS)) < random.random((cases, 1))] = np.nan
    interaction = histories(seed, cases)
    expected = []
    for case in range(cases):
        history = interaction["items"][case, : int(interaction["length"][case])].tolist()
        age = {item: history[::-1].index(item) + 1 for item in history}
        ranks: dict[int, list[float]] = {item: [] for item in range(1, N_ITEMS)}
        found = set()
        for member in scores[:, case]:
            known = [item for item in ranks if member[item] == member[item]]
            new = [item for item in known if item not in age]
            ranked = sorted(new, key=lambda item, of=member: (-of[item], item))[:top_in]
            found |= set(ranked)
            for item, of_item in ranks.items():
                above = sum(member[other] > member[item] for other in ranked)
                listed = item in ranked or (item in age and above < top_in)
                of_item.append((above if listed else top_in) if item in known else -1)
                if item in known and item in age and above < top_in:
                    found.add(item)
        z = np.nan_to_num(scores[:, case], nan=99)
        expected += [(case, item, tuple(z[:, item]), tuple(ranks[item]), age.get(item, 0)) for item in sorted(found)]
    pool = candidates(torch.from_numpy(scores), interaction, "items", "length", top, [False, True])
    assert torch.equal(pool.z.isnan(), pool.rank.isnan())
    filled = Pool(pool.case, pool.item, pool.z.nan_to_num(nan=99), pool.rank.nan_to_num(nan=-1), pool.age)
    assert rows_of(filled) == expected


def test_masked_candidates_do_not_depend_on_the_scores_of_the_history() -> None:
    interaction = {"items": torch.tensor([[3, 4]]), "length": torch.tensor([2])}
    scores = torch.tensor([[[0.0, 5, 4, 3, 2, 1]]])
    other = scores.clone()
    other[0, 0, 3:5] = torch.tensor([9.0, -9.0])
    found = [candidates(one, interaction, "items", "length", 2) for one in (scores, other)]
    new = [{item for item in pool.item.tolist() if item not in (3, 4)} for pool in found]
    assert new == [{1, 2}, {1, 2}]
    assert [set(pool.item.tolist()) for pool in found] == [{1, 2}, {1, 2, 3}]


def test_scores_that_are_not_a_number_are_reported() -> None:
    interaction = {"items": torch.tensor([[1]]), "length": torch.tensor([1])}
    with pytest.raises(ScoringError, match=r"1 of 1 history has scores that are not a number"):
        candidates(torch.tensor([[[0.0, 1, torch.nan, 2]]]), interaction, "items", "length", 2)
