"""Scores: which models score by product, and what a temperature changes."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from worlds import SMALL, vectors_for

from blair_rec.border.settings import recbole_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import ConfigError
from blair_rec.models.packed import can_pack
from blair_rec.models.similarity import as_key, as_query, product_scorer
from blair_rec.models.text_models import item_side, model_class

from recbole.model import sequential_recommender
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import SASRec

PRODUCT = [
    "SASRec",
    "GRU4Rec",
    "FDSA",
    "FEARec",
    "GCSAN",
    "GRU4RecF",
    "LightSANs",
    "NARM",
    "SASRecF",
    "SINE",
    "SRGNN",
    "STAMP",
    "NextItNet",
    "Caser",
    "FOSSIL",
    "HRM",
    "SHAN",
]
FEATURES = {
    "selected_features": ["category"],
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = Path(__file__).resolve().parents[2] / "datasets" / "tiny"
    return Path(shutil.copytree(tiny, tmp_path_factory.mktemp("similarity") / "tiny"))


def build(folder: Path, model: str | type, **given: Any) -> tuple[Any, Any]:
    """A small model in eval mode, and twenty cases of the training split."""
    cls = model_class(model) if isinstance(model, str) else model
    config = recbole_config(cls, str(folder), {**SMALL, "n_layers": 2, "embedding_size": 8, **FEATURES, **given})
    train, _, _ = TextSequentialDataset(config).build()
    train.item_vectors = vectors_for(train.item_num)
    torch.manual_seed(3)
    built: Any = cls(config, train)
    return built.eval(), train[torch.arange(20)]


@pytest.mark.parametrize("name", PRODUCT)
@torch.no_grad()
def test_a_model_that_scores_by_product_scores_by_product(folder: Path, name: str) -> None:
    model, cases = build(folder, name)
    assert model.scores_by_product and product_scorer(type(model))
    product = model.user_vectors(cases) @ model.item_matrix().T
    assert torch.equal(product, model.full_sort_predict(cases)) and product.std() > 0


def test_no_other_model_of_recbole_says_it_does() -> None:
    classes = [cls for cls in vars(sequential_recommender).values() if inspect.isclass(cls)]
    recboles = [cls for cls in classes if issubclass(cls, SequentialRecommender) and not hasattr(cls, "recbole_base")]
    assert sorted(cls.__name__ for cls in recboles if product_scorer(cls)) == sorted([*PRODUCT, "eSASRec"])
    assert all(product_scorer(cls) for cls in recboles if can_pack(cls))


@pytest.mark.parametrize("name", ["BERT4Rec", "CORE"])
@torch.no_grad()
def test_a_bias_or_a_scale_of_its_own_is_no_product(folder: Path, name: str) -> None:
    model, cases = build(folder, name)
    assert not model.scores_by_product
    assert model.full_sort_predict(cases).shape[0] == 20, "it scores RecBole's way all the same"
    with pytest.raises(TypeError, match=f"BLaIR{name} does not score by product"):
        model.user_vectors(cases)


def test_a_class_with_its_own_scoring_does_not_count_as_scoring_by_product() -> None:
    class Doubled(SASRec):
        def full_sort_predict(self, interaction: Any) -> Any:
            return 2 * super().full_sort_predict(interaction)

    class Renamed(SASRec):
        pass

    assert product_scorer(Doubled) is None and product_scorer(Renamed) is SASRec


@pytest.mark.parametrize("kind", ["id", "text", "text_init"])
@pytest.mark.parametrize("name", ["SASRec", "eSASRec", "GRU4Rec"])
@torch.no_grad()
def test_with_a_temperature_scores_are_cosines_over_it(folder: Path, name: str, kind: str) -> None:
    text = {"blair_text_fields": ["title"]} if kind != "id" else {}
    model, cases = build(folder, name, blair_items=kind, blair_temperature=0.05, **text)
    state = model(cases["item_id_list"], cases["item_length"]).double().numpy()
    table = item_side(model).weight.double().numpy()
    lengths = np.linalg.norm(state, axis=1)[:, None] * np.linalg.norm(table[1:], axis=1)
    scores = model.full_sort_predict(cases)
    np.testing.assert_allclose(scores[:, 1:].numpy(), state @ table[1:].T / lengths / 0.05, rtol=1e-4, atol=1e-4)
    assert kind == "id" or not scores[:, 0].any(), "a padding row of zeros has no direction"
    torch.testing.assert_close(model.predict(cases), scores[torch.arange(20), cases["item_id"]])


@torch.no_grad()
def test_without_a_temperature_the_scores_are_recboles(folder: Path) -> None:
    model, cases = build(folder, "SASRec")
    assert torch.equal(model.full_sort_predict(cases), SASRec.full_sort_predict(model, cases))
    assert torch.equal(model.predict(cases), SASRec.predict(model, cases))


@pytest.mark.parametrize("name", ["NARM", "BERT4Rec"])
def test_a_temperature_that_training_would_not_see_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"a temperature isn't supported for BLaIR{name}, which trains and scores RecBole's way"
    ):
        build(folder, name, blair_temperature=0.1)


def test_the_direction_of_a_zero_vector_has_a_zero_gradient() -> None:
    table = torch.zeros(3, 4, requires_grad=True)
    (as_query(torch.ones(2, 4), 0.1) @ as_key(table[1:], 0.1).T).sum().mul(0).backward()
    assert table.grad is not None and not table.grad.any()
    rows = torch.randn(3, 4)
    torch.testing.assert_close(as_key(rows, 0.1), functional.normalize(rows, dim=-1))
    assert as_key(rows, None) is rows and as_query(rows, None) is rows
