"""Cheaper forms of RecBole's modules compute what RecBole's modules compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

import blair_rec.recbole  # noqa: F401
from blair_rec.training.stock.graph import graph_of
from blair_rec.training.stock.modules import cheaper_modules

from recbole.model.layers import MultiHeadAttention, TransformerEncoder
from recbole.model.sequential_recommender import GCSAN, SRGNN

ROWS, SLOTS, HIDDEN = 6, 5, 8
LENGTHS = torch.tensor([1, 2, 3, 5, 5, 4])


class Model(nn.Module):
    """A transformer and an item embedding, in float64."""

    def __init__(self, dropout: float = 0.0, activation: str = "gelu") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.item_embedding = nn.Embedding(20, HIDDEN, padding_idx=0)
        self.encoder = TransformerEncoder(2, 2, HIDDEN, 16, dropout, dropout, activation, 1e-12)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)
        self.double()


def mask_of(causal: bool) -> Tensor:
    """Return RecBole's mask for LENGTHS: [G, 1, W, W], or [G, 1, 1, W] if every slot sees all items."""
    seen = (torch.arange(SLOTS) < LENGTHS[:, None])[:, None, None]
    if causal:
        seen = seen.expand(-1, -1, SLOTS, -1).tril()
    return torch.where(seen, 0.0, -10000.0).double()


def states_and_gradients(model: Model, mask: Tensor, read: Any) -> tuple[Tensor, list[Tensor]]:
    """Return what `read` selects of the encoder's states, and the gradients of a loss of it."""
    x = torch.randn(ROWS, SLOTS, HIDDEN, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    state = read(model.encoder(x.requires_grad_(), mask)[-1])
    gradients = torch.autograd.grad(state.sin().sum(), [x, *model.encoder.parameters()])
    return state, list(gradients)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("causal", [True, False], ids=["looks back", "sees all"])
def test_the_transformer_has_recboles_states_and_gradients(causal: bool, activation: str) -> None:
    model, mask = Model(activation=activation), mask_of(causal)
    expected = states_and_gradients(model, mask, lambda states: states)
    with cheaper_modules(model, only_last=False, scores_all=False):
        found = states_and_gradients(model, mask, lambda states: states)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_an_encoder_can_compute_the_last_states_alone() -> None:
    model, mask, row = Model(), mask_of(causal=True), torch.arange(ROWS)
    expected = states_and_gradients(model, mask, lambda states: states[row, LENGTHS - 1])
    read = []
    with cheaper_modules(model, only_last=True, scores_all=False):
        model.encoder.layer[-1].feed_forward.register_forward_hook(lambda module, given, out: read.append(out.shape[1]))
        found = states_and_gradients(model, mask, lambda states: states[row, LENGTHS - 1])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert read == [1]


def test_the_states_after_each_layer_are_returned_if_a_model_asks() -> None:
    model, mask, x = Model(), mask_of(causal=True), torch.randn(ROWS, SLOTS, HIDDEN, dtype=torch.double)
    expected = model.encoder(x, mask)
    with cheaper_modules(model, only_last=False, scores_all=False):
        torch.testing.assert_close(model.encoder(x, mask), expected)
        torch.testing.assert_close(model.encoder(x, mask, output_all_encoded_layers=False), expected[-1:])


def test_dropout_zeroes_the_share_that_the_model_asks_for_in_training_alone() -> None:
    model = nn.Sequential(nn.Dropout(0.3))
    model.item_embedding = None
    x = torch.ones(100_000)
    with cheaper_modules(model, only_last=False, scores_all=False):
        kept = model(x)
        assert not torch.equal(model(x), kept)
        assert torch.equal(model.eval()(x), x)
    assert stats.binomtest(int((kept == 0).sum()), len(x), 0.3).pvalue > 1e-4
    assert kept.mean().item() == pytest.approx(1, abs=0.02)


def test_torchs_seed_decides_what_is_dropped() -> None:
    model, x = nn.Sequential(nn.Dropout(0.5)), torch.ones(100)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with cheaper_modules(model, only_last=False, scores_all=False):
            results.append(model(x))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_the_model_is_left_as_it_was() -> None:
    model = Model(dropout=0.5)
    before = [dict(vars(module)) for module in model.modules()]
    with (
        pytest.raises(KeyError, match="training failed"),
        cheaper_modules(model, only_last=True, scores_all=True),
    ):
        raise KeyError("training failed")
    assert [dict(vars(module)) for module in model.modules()] == before


class OwnAttention(MultiHeadAttention):
    """A user's attention, which returns its input."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x


def test_an_encoder_with_a_users_attention_uses_it() -> None:
    model, x = Model(), torch.randn(ROWS, SLOTS, HIDDEN, dtype=torch.double)
    model.encoder.layer[1].multi_head_attention = OwnAttention(2, HIDDEN, 0.0, 0.0, 1e-12)
    expected = model.encoder(x, mask_of(causal=True))
    with cheaper_modules(model, only_last=False, scores_all=False):
        torch.testing.assert_close(model.encoder(x, mask_of(causal=True)), expected)


class OwnLinear(nn.Linear):
    """A user's projection, which adds something."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def test_an_encoder_with_a_users_projection_or_hook_uses_it() -> None:
    for change in ("projection", "hook"):
        model, x = Model(), torch.randn(ROWS, SLOTS, HIDDEN, dtype=torch.double)
        attention = model.encoder.layer[0].multi_head_attention
        if change == "projection":
            attention.value = OwnLinear(HIDDEN, HIDDEN).double()
        else:
            attention.register_forward_hook(lambda module, given, out: out + 1)
        expected = model.encoder(x, mask_of(causal=True))
        with cheaper_modules(model, only_last=False, scores_all=False):
            torch.testing.assert_close(model.encoder(x, mask_of(causal=True)), expected)


class OwnDropout(nn.Dropout):
    """A user's dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def test_modules_of_derived_classes_stay_as_they_are() -> None:
    model = nn.Sequential(OwnDropout(0.5))
    with cheaper_modules(model, only_last=False, scores_all=False):
        assert torch.equal(model(torch.ones(3)), torch.full((3,), 2.0))


def test_looking_up_items_adds_to_the_gradient_of_the_whole_table() -> None:
    model, ids = Model(), torch.tensor([[3, 5, 0], [3, 3, 0]])
    table = model.item_embedding

    def gradient() -> Tensor:
        weights = torch.arange(6.0).double().view(2, 3, 1)
        loss = (table(ids) * weights).sum() + table.weight.square().sum()
        return torch.autograd.grad(loss, table.weight)[0]

    expected = gradient()
    with cheaper_modules(model, only_last=False, scores_all=True):
        found = gradient()
        assert torch.autograd.grad(table(ids).sum(), table.weight)[0].is_sparse, "no table for the look-up alone"
    assert found.layout is torch.strided
    torch.testing.assert_close(found, expected)


@settings(max_examples=50)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5), items=st.integers(1, 6), seed=st.integers(0, 99))
def test_graphs_are_recboles(lengths: list[int], items: int, seed: int) -> None:
    draw = np.random.default_rng(seed).integers(1, items + 1, (len(lengths), max(lengths)))
    history = torch.from_numpy(np.where(np.arange(max(lengths)) < np.array(lengths)[:, None], draw, 0))
    model = nn.Module()
    model.device = "cpu"
    found = graph_of(history, torch.float32)
    for upstream in (SRGNN, GCSAN):
        for one, other in zip(found, upstream._get_slice(model, history), strict=False):
            assert one.dtype == other.dtype and torch.equal(one, other)
