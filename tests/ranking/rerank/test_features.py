"""The features of a second stage, compared with NumPy case by case."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blair_rec.ranking.rerank import features as module
from blair_rec.ranking.rerank.features import Feature, ItemTable, feature_names, features
from blair_rec.ranking.rerank.pool import candidates

N_ITEMS, WIDTH, MEMBERS = 30, 14, ["a", "b"]


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1, and a padding row."""
    return np.concatenate([np.zeros((1, rows.shape[1])), rows / np.linalg.norm(rows, axis=1, keepdims=True)])


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("texts", [0, 1, 2])
def test_every_feature_is_that_of_brute_force(timed: bool, texts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CASES", 3)  # several blocks of cases
    random = np.random.default_rng(texts)
    cases = 11
    length = np.concatenate([[1, 1, WIDTH], random.integers(1, WIDTH + 1, cases - 3)])
    seq = random.integers(1, N_ITEMS, (cases, WIDTH)) * (np.arange(WIDTH) < length[:, None])
    scores = random.standard_normal((2, cases, N_ITEMS)).astype(np.float32)
    popularity, recency = random.random(N_ITEMS), random.random(N_ITEMS)
    vectors = {f"text{number}": unit(random.standard_normal((N_ITEMS - 1, 6))) for number in range(texts)}
    items = ItemTable(
        torch.from_numpy(popularity).float(),
        torch.from_numpy(recency).float() if timed else None,
        {name: torch.from_numpy(table).float() for name, table in vectors.items()},
    )
    interaction = {"items": torch.from_numpy(seq), "length": torch.from_numpy(length)}
    pool = candidates(torch.from_numpy(scores), interaction, "items", "length", 5)
    weights = np.array([0.3, 0.7], dtype=np.float32)
    found = features(pool, torch.from_numpy(weights), items, interaction["items"], interaction["length"]).numpy()
    names = feature_names(MEMBERS, items)
    assert found.shape == (len(pool.case), len(names)) and len(set(names)) == len(names)
    for row, (case, item) in enumerate(zip(pool.case.tolist(), pool.item.tolist(), strict=True)):
        history = seq[case, : length[case]].tolist()
        expected = {
            Feature("average", "score"): weights @ scores[:, case, item],
            Feature("item", "popularity"): popularity[item],
            Feature("item", "events ago"): history[::-1].index(item) + 1 if item in history else 0,
            Feature("history", "length"): len(history),
            Feature("history", "popularity of last item"): popularity[history[-1]],
            Feature("history", "mean popularity"): np.mean([popularity[one] for one in history]),
        }
        if timed:
            expected[Feature("item", "recency")] = recency[item]
            expected[Feature("history", "recency of last item")] = recency[history[-1]]
        for place, member in enumerate(MEMBERS):
            new = [one for one in range(1, N_ITEMS) if one not in history]
            above = sum(scores[place, case, one] > scores[place, case, item] for one in new)
            expected[Feature(member, "score")] = scores[place, case, item]
            expected[Feature(member, "rank")] = min(above, 5)
        for name, table in vectors.items():
            cosine = [table[item] @ table[one] for one in history[::-1][:10]]
            share = 1 / np.arange(1, len(cosine) + 1)
            expected[Feature(name, "text: last item")] = cosine[0]
            expected[Feature(name, "text: item before")] = cosine[1] if len(cosine) > 1 else 0
            expected[Feature(name, "text: history")] = np.array(cosine) @ share / share.sum()
            expected[Feature(name, "text: nearest item")] = max(cosine)
        assert expected.keys() == set(names)
        np.testing.assert_allclose(found[row], [expected[name] for name in names], rtol=1e-4, atol=1e-5)
