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
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import blair_rec.recbole  # noqa: F401
from blair_rec.border.settings import recbole_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.models.eligibility import Eligible, eligibility, recbole_models
from blair_rec.models.text_models import with_text
from blair_rec.training.epochs import RecboleWay, recbole_batches, seed_everything
from blair_rec.training.stock import loss, softmax
from blair_rec.training.stock.groups import group_ends
from blair_rec.training.stock.loss import CUT, PRODUCT_WITH_ALL, stock_loss
from blair_rec.training.stock.softmax import CatalogueSoftmax

from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import (
    CORE,
    GCSAN,
    HRM,
    NARM,
    SHAN,
    SINE,
    SRGNN,
    STAMP,
    BERT4Rec,
    Caser,
    TransRec,
)

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


def built(cls: Any, folder: Path, *, recboles: Any = None, **also: Any) -> tuple[Any, Any]:
    """A model in float64 without dropout, weights far from zero, and RecBole's loader over its training split.

    `recboles` is the class whose default settings it gets.
    """
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
    config = recbole_config(recboles or cls, str(folder), given)
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
        torch.testing.assert_close(
            others[name], gradient, rtol=1e-6, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )
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


@pytest.mark.parametrize("cls", [NARM, GCSAN, HRM, SHAN, SINE, STAMP, BERT4Rec, Caser], ids=lambda cls: cls.__name__)
def test_sampled_negatives_give_recboles_own_loss_and_gradients_too(cls: Any, folder: Path) -> None:
    model, loader = built(cls, folder, loss_type="BPR")
    check_same(model, next(iter(loader)))


@pytest.mark.parametrize("also", [{"dnn_type": "ave"}, {"temperature": 2.0}], ids=str)
def test_core_keeps_its_own_settings(also: dict[str, Any], folder: Path) -> None:
    model, loader = built(CORE, folder, **also)
    check_same(model, next(iter(loader)))


def test_sine_keeps_the_penalty_of_its_own_loss(folder: Path) -> None:
    model, loader = built(SINE, folder, loss_type="NLL")
    check_same(model, next(iter(loader)))


def test_hrm_stays_whole_where_it_takes_the_mean_over_the_padding(folder: Path) -> None:
    model, loader = built(HRM, folder, pooling_type_layer_1="average")
    assert CUT[HRM](model) is None
    check_same(model, next(iter(loader)))


@settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=20), seed=st.integers(0, 99))
@pytest.mark.parametrize("cls", [CORE, SRGNN, SHAN, SINE, Caser], ids=lambda cls: cls.__name__)
def test_any_lengths_in_any_order_give_the_same_loss_and_gradients(
    cls: Any, models: dict[Any, Any], lengths: list[int], seed: int
) -> None:
    model, batch = models[cls]
    draw, count = np.random.default_rng(seed), len(lengths)
    history = np.where(np.arange(LONGEST) < np.array(lengths)[:, None], draw.integers(1, ITEMS, (count, LONGEST)), 0)
    last_first = np.stack([np.roll(row, LONGEST - length) for row, length in zip(history, lengths, strict=True)])
    fields = {
        model.ITEM_SEQ: history,
        model.ITEM_SEQ_LEN: np.array(lengths),
        model.ITEM_ID: draw.integers(1, ITEMS, count),
        model.USER_ID: draw.integers(1, USERS, count),
        **({model.INVERSE_ITEM_SEQ: last_first} if cls is SHAN else {}),
    }
    check_same(model, Interaction({name: torch.from_numpy(values) for name, values in fields.items()}))


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[Any, Any]:
    """Models that hypothesis tries on many batches, each with a batch of RecBole's loader."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    found = {cls: built(cls, folder) for cls in (CORE, SRGNN, SHAN, SINE, Caser)}
    torch.set_default_dtype(before)
    return found


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), per_group=st.integers(0, 30))
def test_the_division_costs_the_least_of_all(lengths: list[int], per_group: int) -> None:
    lengths.sort()
    ends = group_ends(np.array(lengths), per_group)
    assert ends == sorted(set(ends)) and ends[-1] == len(lengths)

    def cost(ends: list[int]) -> int:
        return sum((end - begin) * lengths[end - 1] + per_group for begin, end in itertools.pairwise([0, *ends]))

    inner = range(1, len(lengths))
    choices = (some for count in range(len(lengths)) for some in itertools.combinations(inner, count))
    assert cost(ends) == min(cost([*some, len(lengths)]) for some in choices)


def seen_widths(model: Any) -> list[int]:
    """The widths of the histories that the model's item embedding gets from now on."""
    widths: list[int] = []
    model.item_embedding.register_forward_pre_hook(
        lambda module, given: widths.append(given[0].shape[1]) if given[0].ndim == 2 else None
    )
    return widths


def test_each_group_is_cut_to_its_longest_history(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "PER_GROUP", 0)
    model, loader = built(NARM, folder)
    batch = next(iter(loader))
    widths = seen_widths(model)
    stock_loss(model, batch)
    assert sorted(widths) == sorted(set(batch[model.ITEM_SEQ_LEN].tolist()))
    monkeypatch.setattr(loss, "PER_GROUP", 10**6)
    widths.clear()
    stock_loss(model, batch)
    assert widths == [int(batch[model.ITEM_SEQ_LEN].max())], "a group costs more than all padding"


@pytest.mark.parametrize("cls, most", [(SINE, LONGEST), (Caser, LONGEST + 1)], ids=["SINE", "Caser"])
def test_padding_that_a_model_counts_is_one_slot(
    cls: Any, most: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "PER_GROUP", 0)
    model, loader = built(cls, folder)
    batch = next(iter(loader))
    widths = seen_widths(model)
    stock_loss(model, batch)
    assert sorted(widths) == [min(each + 1, most) for each in sorted(set(batch[model.ITEM_SEQ_LEN].tolist()))]


class OwnConvolution(nn.Conv2d):
    """A user's convolution, which adds something."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


@pytest.mark.parametrize("change", ["convolution", "hook", "activation"])
def test_casers_own_forward_runs_if_a_part_of_it_is_a_users(change: str, folder: Path) -> None:
    model, loader = built(Caser, folder)
    if change == "convolution":
        stock = model.conv_h[1]
        model.conv_h[1] = OwnConvolution(1, stock.out_channels, stock.kernel_size).double()
    elif change == "hook":
        model.conv_v.register_forward_hook(lambda module, given, out: out + 1)
    else:
        model.ac_conv = nn.Tanhshrink()
    batch = next(iter(loader))
    check_same(model, batch)
    widths = seen_widths(model)
    stock_loss(model, batch)
    assert widths == [LONGEST]


def test_bert4rec_scores_all_items_only_for_the_masks_that_a_row_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, loader = built(BERT4Rec, folder, ft_ratio=0)
    batch = next(each for each in loader if (each[model.MASK_INDEX] > 0).sum(1).unique().numel() > 2)
    scored = []
    whole = model.multi_hot_embed
    monkeypatch.setattr(
        model, "multi_hot_embed", lambda index, most: scored.append(index.numel()) or whole(index, most)
    )
    monkeypatch.setattr(loss, "PER_PART", 0)
    stock_loss(model, batch)
    assert sum(scored) == (batch[model.MASK_INDEX] > 0).sum() < batch[model.MASK_INDEX].numel() / 2


class OwnLoss(NARM):
    """A user's model, which may read its padding."""

    def calculate_loss(self, interaction: Any) -> Tensor:
        return self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]).sum()


@pytest.mark.parametrize("cls", [OwnLoss, STAMP], ids=["a class of the user", "a model that reads its padding"])
def test_models_that_are_not_listed_get_whole_histories(cls: Any, folder: Path) -> None:
    model, loader = built(cls, folder, recboles=NARM if cls is OwnLoss else cls)
    widths = seen_widths(model)
    stock_loss(model, next(iter(loader)))
    assert widths == [LONGEST]


def test_a_forward_that_a_user_set_on_the_model_is_used(folder: Path) -> None:
    model, loader = built(SINE, folder)
    whole = model.forward
    model.forward = lambda *given: 2 * whole(*given)
    batch = next(iter(loader))
    torch.testing.assert_close(stock_loss(model, batch), model.calculate_loss(batch))
    assert "forward" in vars(model)


@pytest.mark.parametrize("cls", PRODUCT_WITH_ALL, ids=lambda cls: cls.__name__)
def test_the_softmax_of_every_listed_model_runs_in_chunks(
    cls: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    ours = softmax.softmax_over_rows
    monkeypatch.setattr(softmax, "softmax_over_rows", lambda *given: calls.append(len(given[1])) or ours(*given))
    model, loader = built(cls, folder)
    batch = next(iter(loader))
    stock_loss(model, batch)
    assert calls == [len(batch)]


def test_scores_that_another_function_reads_are_the_product() -> None:
    draw = torch.Generator().manual_seed(1)
    states, vectors = torch.randn(5, 3, generator=draw), torch.randn(7, 3, generator=draw)
    target = torch.tensor([0, 1, 2, 6, 3])
    expected = states @ vectors.T
    with CatalogueSoftmax(7):
        scores = torch.matmul(states, vectors.T)
        assert torch.equal(torch.tanh(scores), expected.tanh()) and torch.equal(scores.sum(1), expected.sum(1))
        smoothed = F.cross_entropy(scores, target, label_smoothing=0.1)
        in_chunks = F.cross_entropy(torch.matmul(states, vectors.T) / 0.5, target)
    torch.testing.assert_close(smoothed, F.cross_entropy(expected, target, label_smoothing=0.1))
    torch.testing.assert_close(in_chunks, F.cross_entropy(expected / 0.5, target))


def test_a_training_step_gets_the_rows_that_the_loader_drew(folder: Path) -> None:
    torch.set_default_dtype(torch.float32)  # our classes try the model in it first
    model, loader = built(with_text(NARM), folder)
    steps = list(RecboleWay(model, loader)(1))
    _, again = built(with_text(NARM), folder)
    batches = list(again)
    assert [count for _, count in steps] == [len(batch) for batch in batches]
    for (value, _), batch in zip(steps, batches, strict=True):
        torch.testing.assert_close(value, model.calculate_loss(batch))
