"""The k best items of many histories, against all scores written out and sorted by NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import SMALL, vectors_for

from blair_rec.border.settings import ItemsOnly, recbole_config
from blair_rec.errors import ScoringError
from blair_rec.models.text_models import model_class
from blair_rec.ranking.best import best_columns
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.scorers import MeanHistory, Popularity
from blair_rec.serve import topk
from blair_rec.serve.topk import HistoryIds, TopK

N_ITEMS, WIDTH = 40, 6


def model_of(name: str, **settings: Any) -> Any:
    cls = model_class(name)
    config = recbole_config(cls, "no/where", {**SMALL, "MAX_ITEM_LIST_LENGTH": WIDTH, "use_gpu": False, **settings})
    torch.manual_seed(1)
    return cls(config, ItemsOnly(config, N_ITEMS, None)).eval()


def popularity() -> Popularity:
    """Counts with many equal ones."""
    model = Popularity(N_ITEMS, "item_id_list", "item_length")
    model.counts = torch.arange(N_ITEMS).div(7, rounding_mode="floor").float()
    return model


def mean_history() -> MeanHistory:
    return MeanHistory(vectors_for(N_ITEMS).table[1:], [], "item_id_list", "item_length")


MODELS = {
    "SASRec": lambda: model_of("SASRec"),
    "cosines": lambda: model_of("SASRec", blair_temperature=0.1),
    "GRU4Rec": lambda: model_of("GRU4Rec", embedding_size=8),
    "NARM": lambda: model_of("NARM", embedding_size=8),
    "popularity": popularity,
    "mean_history": mean_history,
    "ensemble": lambda: Ensemble([model_of("SASRec"), popularity(), mean_history()], [0.5, 0.2, 0.3]),
}


def some_histories() -> HistoryIds:
    """Shorter and longer than what a model reads, with repeated items."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 2 * WIDTH, 50)
    return HistoryIds(random.integers(1, N_ITEMS, lengths.sum()), lengths)


@torch.no_grad()
def written_out(model: Any, histories: HistoryIds) -> np.ndarray:
    """All scores as the model gives them for the newest items of each history."""
    rows = np.split(histories.items, np.cumsum(histories.lengths)[:-1])
    padded = np.zeros((len(rows), WIDTH), dtype=np.int64)
    for row, items in zip(padded, rows, strict=True):
        row[: len(items[-WIDTH:])] = items[-WIDTH:]
    length = torch.from_numpy(np.minimum(histories.lengths, WIDTH))
    batch = {model.ITEM_SEQ: torch.from_numpy(padded), model.ITEM_SEQ_LEN: length}
    found: np.ndarray = model.full_sort_predict(batch).float().numpy().copy()
    return found


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("candidates", [None, np.arange(2, N_ITEMS, 3)], ids=["all", "some"])
@pytest.mark.parametrize("name", MODELS)
def test_the_best_are_those_of_all_scores_sorted(
    name: str, candidates: np.ndarray | None, exclude: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topk, "CHUNK", {"cpu": 300})  # several pieces
    monkeypatch.setattr(topk, "WRITTEN_OUT", 300)
    model, histories, k = MODELS[name](), some_histories(), 9
    scores = written_out(model, histories)
    allowed = np.isin(np.arange(N_ITEMS), np.arange(1, N_ITEMS) if candidates is None else candidates)
    scores[:, ~allowed] = -np.inf
    rows = np.split(histories.items, np.cumsum(histories.lengths)[:-1])
    if exclude:
        for row, items in zip(scores, rows, strict=True):
            row[items] = -np.inf
    with TopK(model, WIDTH, candidates).ready(N_ITEMS) as top:
        found = top.best(histories, k, exclude)
    assert found.items.shape == found.scores.shape == (50, k)
    for row, items, given_scores in zip(scores, found.items, found.scores, strict=True):
        left = int((row > -np.inf).sum())
        assert (items[left:] == 0).all() and (items[:left] > 0).all() and len(set(items[:left])) == len(items[:left])
        expected = np.argsort(-row, kind="stable")[: min(k, left)]
        assert row[items[:left]] == pytest.approx(row[expected], rel=1e-4, abs=1e-5)
        assert given_scores[:left] == pytest.approx(row[items[:left]], rel=1e-4, abs=1e-5)
        if name == "popularity":
            assert items[:left].tolist() == expected.tolist()


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_among_equal_scores_the_first_column_wins(k: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.choice([-np.inf, 0.0, 1.0, 2.0], size=(5, width)).astype(np.float32)
    k = min(k, width)
    columns, values = (found.numpy() for found in best_columns(torch.from_numpy(scores), k))
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert np.array_equal(values, np.take_along_axis(scores, expected, 1))
    known = values > -np.inf
    assert np.array_equal(columns[known], expected[known])


def test_scores_that_are_not_a_number_are_told() -> None:
    with pytest.raises(ScoringError, match="1 of 2 histories has scores that are not a number"):
        best_columns(torch.tensor([[1.0, 2.0, 3.0], [1.0, float("nan"), 0.0]]), 2)
