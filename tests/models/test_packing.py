"""Packed training sees each sequence as if it were alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import blair_rec.recbole  # noqa: F401
from blair_rec.border.settings import ItemsOnly, recbole_config
from blair_rec.data.packing import Packed, pack
from blair_rec.models.packed import can_pack, hidden_states
from blair_rec.training.losses import full_softmax

from recbole.model.sequential_recommender import BERT4Rec, GRU4Rec, SASRec

N_ITEMS, WIDTH = 30, 12
SIZES = {
    "SASRec": {"hidden_size": 8, "inner_size": 16, "n_layers": 2, "n_heads": 2},
    "GRU4Rec": {"embedding_size": 8, "hidden_size": 12, "num_layers": 1},
}


def build(base: type, activation: str = "gelu") -> Any:
    """A RecBole model in float64 without dropout, weights large enough to matter."""
    settings = {"MAX_ITEM_LIST_LENGTH": WIDTH, "hidden_act": activation, "train_neg_sample_args": None}
    dropouts = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}
    config = recbole_config(base, "none", {**settings, **dropouts, **SIZES[base.__name__]})
    torch.manual_seed(3)
    model = base(config, ItemsOnly(config, N_ITEMS, None)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def log_of(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Random events, one more than inputs in each window, and where the windows begin."""
    events = torch.from_numpy(np.random.default_rng(seed).integers(1, N_ITEMS, sum(lengths) + len(lengths)))
    length = np.array(lengths)
    return events, np.cumsum(length + 1) - (length + 1), length


def no_dropout(x: torch.Tensor, probability: float) -> torch.Tensor:
    assert probability == 0
    return x


def alone(model: Any, items: torch.Tensor) -> torch.Tensor:
    """[T, H]: RecBole's own forward, once for every prefix of one sequence."""
    rows = []
    for end in range(1, len(items) + 1):
        padded = torch.zeros(1, WIDTH, dtype=torch.int64)
        padded[0, :end] = items[:end]
        rows.append(model.forward(padded, torch.tensor([end])))
    return torch.cat(rows)


def windows_of(packed: Packed) -> list[slice]:
    ends = np.cumsum(packed.lengths)
    return [slice(int(end - length), int(end)) for end, length in zip(ends, packed.lengths, strict=True)]


@pytest.mark.parametrize("base", [SASRec, GRU4Rec])
@pytest.mark.parametrize("lengths", [[1], [3, 3], [12, 1, 5, 7, 7, 2, 11]])
def test_states_are_those_of_recboles_own_forward_for_each_sequence_alone(base: type, lengths: list[int]) -> None:
    model = build(base).train()
    events, first, length = log_of(lengths)
    packed = pack(events, events, first, length)
    states = hidden_states(model, packed, no_dropout)
    for window in windows_of(packed):
        torch.testing.assert_close(states[window], alone(model, packed.items[window]), atol=1e-10, rtol=0)


@pytest.mark.parametrize("base", [SASRec, GRU4Rec])
def test_some_tokens_alone_have_the_states_and_gradients_that_they_have_among_all(base: type) -> None:
    some, all_of_them = build(base).train(), build(base).train()
    events, first, length = log_of([12, 1, 5, 7, 7, 2, 11], seed=3)
    packed = pack(events, events, first, length)
    tokens = torch.from_numpy(np.random.default_rng(3).permutation(len(packed.items))[:17])
    few = hidden_states(some, packed, no_dropout, tokens)
    whole = hidden_states(all_of_them, packed, no_dropout)[tokens]
    torch.testing.assert_close(few, whole, atol=1e-10, rtol=0)
    for states in (few, whole):
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    for one, other in zip(some.parameters(), all_of_them.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-10, rtol=0)


@pytest.mark.parametrize("activation", ["relu", "swish", "tanh"])
def test_every_activation_of_recbole_is_used_as_it_is(activation: str) -> None:
    model = build(SASRec, activation).train()
    events, first, length = log_of([5, 9])
    packed = pack(events, events, first, length)
    states = hidden_states(model, packed, no_dropout)
    for window in windows_of(packed):
        torch.testing.assert_close(states[window], alone(model, packed.items[window]), atol=1e-10, rtol=0)


@pytest.mark.parametrize("base", [SASRec, GRU4Rec])
def test_gradients_are_those_of_training_each_sequence_alone(base: type) -> None:
    events, first, length = log_of([12, 1, 5, 7, 7, 2, 11], seed=1)
    packed = pack(events, events, first, length)
    together, apart = build(base).train(), build(base).train()
    states = hidden_states(together, packed, no_dropout)
    full_softmax(states, packed.targets, together.item_embedding.weight, chunk=7).backward()
    total = sum(
        torch.nn.functional.cross_entropy(
            alone(apart, packed.items[window]) @ apart.item_embedding.weight[1:].T,
            packed.targets[window] - 1,
            reduction="sum",
        )
        for window in windows_of(packed)
    )
    (total / len(packed.items)).backward()
    for (name, one), other in zip(together.named_parameters(), apart.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        # Positions after the longest window, and the padding row, get no gradient from either.
        torch.testing.assert_close(
            one.grad, other.grad, atol=1e-10, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("base", [SASRec, GRU4Rec])
def test_changing_one_sequence_changes_no_other(base: type) -> None:
    model = build(base).eval()
    events, first, length = log_of([4, 4, 5, 9, 1], seed=2)
    before = pack(events, events, first, length)
    changed = events.clone()
    changed[first[3] : first[3] + length[3]] = changed[first[3] : first[3] + length[3]] % (N_ITEMS - 1) + 1
    after = pack(changed, changed, first, length)
    difference = hidden_states(model, before, no_dropout) - hidden_states(model, after, no_dropout)
    *others, perturbed = windows_of(before)
    assert difference[perturbed].abs().min(dim=1).values.max() > 1e-6
    assert all((difference[window] == 0).all() for window in others)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 9))
def test_every_token_has_one_slot_at_its_place_in_its_own_window(lengths: list[int], seed: int) -> None:
    events, first, length = log_of(lengths, seed)
    packed = pack(events, torch.arange(len(events)), first, length)
    assert (packed.lengths == np.sort(length)).all()
    assert sum(count * size for count, size in packed.blocks) == len(packed.token_of_slot)
    assert sum(count for count, _ in packed.blocks) == len(lengths)
    assert (packed.token_of_slot[packed.slot_of_token] == torch.arange(len(packed.items))).all()
    # Fewer slots are empty than full, and no two windows share slots.
    assert len(packed.token_of_slot) < 2 * len(packed.items)
    order = np.argsort(length, kind="stable")
    expected = np.concatenate([np.arange(first[w] + 1, first[w] + length[w] + 1) for w in order])
    assert (packed.targets.numpy() == expected).all()
    assert (packed.positions.numpy() == np.concatenate([np.arange(length[w]) for w in order])).all()


def test_models_that_look_at_both_sides_are_not_packed() -> None:
    assert can_pack(SASRec) and can_pack(GRU4Rec)
    assert not can_pack(BERT4Rec)
