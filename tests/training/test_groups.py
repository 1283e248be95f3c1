"""Groups of like length and the softmax in chunks: RecBole's own loss and gradients, model by model."""

from __future__ import annotations

import copy
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import blair_rec.recbole  # noqa: F401
from blair_rec.border.settings import recbole_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.models.eligibility import Eligible, eligibility, recbole_models
from blair_rec.models.text_models import with_text
from blair_rec.training.epochs import RecboleWay, recbole_batches, seed_everything
from blair_rec.training.stock import groups, loss
from blair_rec.training.stock.groups import group_ends
from blair_rec.training.stock.loss import CUT, PRODUCT_WITH_ALL, stock_loss
from blair_rec.training.stock.softmax import CatalogueSoftmax

from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import BERT4Rec, CORE, GCSAN, HRM, NARM, SHAN, STAMP, TransRec

RECBOLES_WAY = {
    name: cls
    for name, cls in recbole_models().items()
    if isinstance(found := eligibility(name), Eligible) and not found.packed
}
"""The models that train with RecBole's own batches and loss."""
LONGEST, USERS, ITEMS = 12, 30, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in which users have 3 to 20 events, so histories have 1 to LONGEST items."""
    path = tmp_path_factory.mktemp("data") / "world"
    path.mkdir()
    draw = np.random.default_rng(5)
    events = [(u, draw.integers(ITEMS), t) for u in range(USERS) for t in range(draw.integers(3, 21))]
    events += [(0, item, 100 + item) for item in range(ITEMS)]
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *(f"u{u}\ti{i}\t{t}" for u, i, t in events)]
    (path / "world.inter").write_text("\n".join(lines) + "\n", "utf-8")
    lines = ["item_id:token\tkind:token", *(f"i{item}\tk{item % 4}" for item in range(ITEMS))]
    (path / "world.item").write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compute in float64, also where RecBole asks for a FloatTensor."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch, "FloatTensor", torch.DoubleTensor)
    monkeypatch.setattr(torch, "cfloat", torch.cdouble)
    yield
    torch.set_default_dtype(before)


def built(cls: Any, folder: Path, **also: Any) -> tuple[Any, Any]:
    """A model in float64 without dropout, weights far from zero, and RecBole's loader over its training split."""
    given = {
        "MAX_ITEM_LIST_LENGTH": LONGEST,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "kind"]},
        "selected_features": ["kind"],
        "train_batch_size": 128,
        **({"reranker_CAN_NUM": 5} if cls.__name__ == "SASRecCPR" else {}),
        **({"mask_ratio": 0.5} if cls.__name__ == "BERT4Rec" else {}),
        "use_gpu": False,
        **({} if cls is TransRec or also.get("loss_type") == "BPR" else {"train_neg_sample_args": None}),
        **also,
    }
    config = recbole_config(cls, str(folder), given)
    train, _, _ = TextSequentialDataset(config).build()
    seed_everything(1)
    loader = recbole_batches(config, train)
    model = cls(config, train).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train(), loader


def with_gradients(model: Any, compute: Any, batch: Any) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    random.seed(1)  # FEARec draws from it
    value = compute(copy.deepcopy(batch))
    value = torch.stack(value).sum() if isinstance(value, tuple) else value
    value.backward()
    return value.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_same(model: Any, batch: Any) -> None:
    """The loss and the gradients of a batch are RecBole's."""
    value, gradients = with_gradients(model, model.calculate_loss, batch)
    found, others = with_gradients(model, lambda some: stock_loss(model, some), batch)
    assert found == pytest.approx(value, rel=1e-6)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-6, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    assert "forward" not in vars(model), "the model is left as it was"


@pytest.mark.parametrize("name", RECBOLES_WAY)
def test_every_model_has_recboles_own_loss_and_gradients(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "PER_GROUP", 1)  # as many groups as there are lengths
    monkeypatch.setattr(loss, "PER_PART", 1)
    model, loader = built(RECBOLES_WAY[name], folder)
    for batch in itertools.islice(loader, 2):
        check_same(model, batch)
