"""The interface of everything that scores items: which classes have all of it, and that no code goes around it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from worlds import SMALL, built, vectors_for

import blair_rec
from blair_rec import registry
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import ConfigError
from blair_rec.models.scorer import Scorer, transform_report
from blair_rec.models.text_models import model_class
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.scorers import (
    LastItem,
    Markov,
    MeanHistory,
    Popularity,
    RecentHistory,
    SequentialRules,
    TextRules,
)
from blair_rec.testing import ScorerContract

TINY = Path(__file__).resolve().parents[2] / "datasets" / "tiny"
PACKAGE = Path(blair_rec.__file__).parent
COUNTED = (Popularity, Markov, SequentialRules)
NEIGHBOURS = (LastItem, MeanHistory, RecentHistory, TextRules)
FIELDS = "item_id_list", "item_length"
VECTORS = np.random.default_rng(0).standard_normal((6, 4))


def text_model(name: str, items: str) -> Any:
    """A small model over datasets/tiny."""
    text = {"blair_items": items, "blair_text_fields": ["title"]} if items != "id" else {}
    config, (train, _, _) = built(TextSequentialDataset, TINY, model_class(name), **SMALL, **text)
    train.item_vectors = vectors_for(train.item_num)
    return model_class(name)(config, train)


def scorers() -> Iterator[Any]:
    """One of each kind."""
    yield from (text_model("SASRec", items) for items in ("id", "text"))
    yield text_model("BERT4Rec", "id")
    yield from (kind(7, *FIELDS) for kind in COUNTED)
    near = [kind(VECTORS, [], *FIELDS) for kind in NEIGHBOURS]
    yield from near
    yield Ensemble(near[:2])


class TestPopularity(ScorerContract):
    kind = Popularity


class TestMarkov(ScorerContract):
    kind = Markov


class TestSequentialRules(ScorerContract):
    kind = SequentialRules


class TestDividedRules(ScorerContract):
    kind, options = SequentialRules, {"source_power": 0.5, "target_power": 0.25}


class TestTextRules(ScorerContract):
    kind, options = TextRules, {"neighbours": 3}


class TestLastItem(ScorerContract):
    kind = LastItem


class TestMeanHistory(ScorerContract):
    kind, transforms = MeanHistory, ("center", {"pca": 5})


class TestRecentHistory(ScorerContract):
    kind = RecentHistory


def test_every_scorer_keeps_the_contract() -> None:
    tested = {kind.kind for kind in ScorerContract.__subclasses__() if kind.__name__ != "Broken"}
    assert tested == {registry.load("scorers", name) for name in registry.BUILT_IN["scorers"]}


class ByLot(Popularity):
    """Broken: its scores are random, and it reads the padding."""

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        return super().full_sort_predict(interaction) + torch.rand(1) + interaction["item_id_list"].shape[1]


def test_a_broken_scorer_breaks_the_contract() -> None:
    class Broken(ScorerContract):
        kind = ByLot

    with pytest.raises(AssertionError):
        Broken().test_it_changes_nothing_that_it_is_given_and_answers_the_same_again()
    with pytest.raises(AssertionError):
        Broken().test_a_case_has_its_scores_alone_and_with_more_padding()


def test_models_baselines_and_ensembles_have_all_of_it() -> None:
    for scorer in scorers():
        assert isinstance(scorer, Scorer), type(scorer).__name__
        assert isinstance(scorer.scores_by_product, bool) and isinstance(scorer.device, torch.device)
        assert isinstance(scorer.shared_items(), AbstractContextManager)
        fitted = scorer.fitted_transforms
        assert transform_report(scorer) == ([] if fitted is None else list(fitted.report))


def test_a_plain_torch_module_has_not() -> None:
    assert not isinstance(nn.Linear(1, 1), Scorer)


@pytest.mark.parametrize("kind", COUNTED)
def test_scorers_that_count_events_refuse_items_that_came_later(kind: Any) -> None:
    with pytest.raises(
        ConfigError, match=f"can't be scored: {kind.__name__} can only score the items that it was built"
    ):
        kind(7, *FIELDS).append_items(VECTORS)


def test_an_ensemble_refuses_new_items_and_its_members_take_them() -> None:
    ensemble = Ensemble([LastItem(VECTORS, [], *FIELDS)])
    with pytest.raises(ConfigError, match="can't be scored: Ensemble can only score the items that it was built"):
        ensemble.append_items(VECTORS)
    ensemble.members[0].append_items(VECTORS[:2])
    assert torch.equal(ensemble.item_matrix()[-2:], ensemble.item_matrix()[1:3])


@pytest.mark.parametrize("part", ["ranking", "serve", "experiment"])
def test_no_code_checks_which_methods_a_scorer_has(part: str) -> None:
    """`hasattr(model, ...)` and `getattr(model, ..., default)` would go around the interface."""
    for path in (PACKAGE / part).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                asks = node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)
                assert not asks, f"{path}, line {node.lineno}"
