"""Training losses against the same sums, computed step by step in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from blair_rec.errors import TrainingError
from blair_rec.training.losses import SHORT, bpr, check_finite, full_softmax, gbce, sampled_scores, sampled_softmax
from blair_rec.training.negatives import Negatives


def problem(targets: int, items: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, targets and item vectors."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(targets, width, generator=generator, requires_grad=True),
        torch.randint(1, items, (targets,), generator=generator),
        torch.randn(items, width, generator=generator, requires_grad=True),
    )


def written_out(hidden: Tensor, targets: Tensor, weight: Tensor) -> float:
    """-log(exp(own score) / sum of exp over the items but the padding), averaged; NumPy, float64."""
    scores = hidden.detach().double().numpy() @ weight.detach().double().numpy()[1:].T
    own = scores[np.arange(len(scores)), targets.numpy() - 1]
    return float(np.mean(np.log(np.exp(scores - own[:, None]).sum(axis=1))))


chunks = st.none() | st.integers(1, 40)


@given(st.integers(1, 30), st.integers(2, 20), st.integers(1, 6), st.integers(0, 99), chunks)
def test_full_softmax_is_the_cross_entropy_among_all_items(
    targets: int, items: int, width: int, seed: int, chunk: int | None
) -> None:
    tensors = problem(targets, items, width, seed)
    assert full_softmax(*tensors, chunk).item() == pytest.approx(written_out(*tensors), rel=1e-5, abs=1e-6)


@given(st.integers(1, 30), st.integers(2, 20), st.integers(1, 6), st.integers(0, 99), chunks)
def test_its_gradients_are_those_of_torchs_cross_entropy_in_float64(
    targets: int, items: int, width: int, seed: int, chunk: int | None
) -> None:
    hidden, target, weight = problem(targets, items, width, seed)
    (3 * full_softmax(hidden, target, weight, chunk)).backward()
    exact_hidden, exact_weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    (3 * functional.cross_entropy(exact_hidden @ exact_weight[1:].T, target - 1)).backward()
    for ours, exact in ((hidden, exact_hidden), (weight, exact_weight)):
        assert ours.grad is not None and exact.grad is not None
        torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk", [None, 1, 7, 64])
@pytest.mark.parametrize("short", [SHORT, 299 * 20])  # all targets together, and about 20
@pytest.mark.parametrize("length, off", [(0.15, 0.004), (1.0, 0.02)])
def test_in_bfloat16_the_gradients_are_off_by_a_percent_or_less(
    length: float, off: float, short: int, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blair_rec.training.losses.SHORT", short)
    hidden, targets, weight = problem(64, 300, 32)
    vectors = (weight.detach() * length).requires_grad_()
    loss = full_softmax(hidden, targets, vectors, chunk, torch.bfloat16)
    loss.backward()
    exact_hidden, exact_weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, vectors))
    exact_loss = functional.cross_entropy(exact_hidden @ exact_weight[1:].T, targets - 1)
    exact_loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact_loss.item(), rel=0.005)
    for ours, exact in ((hidden.grad, exact_hidden.grad), (vectors.grad, exact_weight.grad)):
        assert ours is not None and exact is not None and ours.dtype == torch.float32
        assert 1e-4 < float((ours - exact).norm() / exact.norm()) < off


def test_the_padding_is_no_candidate_and_gets_no_gradient() -> None:
    hidden, targets, weight = problem(20, 9, 4)
    other = weight.detach().clone()
    other[0] = 1e3
    assert full_softmax(hidden, targets, other).item() == full_softmax(hidden, targets, weight).item()
    full_softmax(hidden, targets, weight).backward()
    assert weight.grad is not None and not weight.grad[0].any() and weight.grad[1:].any(dim=1).all()


def test_equal_scores_cost_the_logarithm_of_the_number_of_items() -> None:
    loss = full_softmax(torch.zeros(5, 3), torch.tensor([1, 2, 3, 4, 5]), torch.randn(8, 3))
    assert loss.item() == pytest.approx(np.log(7))


def test_a_hopeless_target_still_has_its_gradient() -> None:
    hidden = torch.tensor([[1.0]], requires_grad=True)
    loss = full_softmax(hidden, torch.tensor([1]), torch.tensor([[0.0], [-400.0], [400.0]]))
    loss.backward()
    assert 80 < loss.item() <= 800 and hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(800)


# Losses over negatives, each computed target by target and item by item


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def drawn_apart_from(target: Tensor, drawn: Tensor) -> list[int]:
    """Places in the draw that don't hold the target itself."""
    return [place for place, item in enumerate(drawn.tolist()) if item != int(target)]


def softmax_by_hand(hidden: Tensor, targets: Tensor, weight: Tensor, drawn: Tensor) -> Tensor:
    losses = []
    for state, target in zip(hidden, targets, strict=True):
        own = torch.exp(state @ weight[target])
        others = sum((torch.exp(state @ weight[drawn[place]]) for place in drawn_apart_from(target, drawn)), own * 0)
        losses.append(-torch.log(own / (own + others)))
    return torch.stack(losses).mean()


COUNTS = torch.linspace(0.1, 3.0, 60, dtype=torch.float64)
"""How often each item is drawn on average, by item id."""


def corrected_softmax_by_hand(hidden: Tensor, targets: Tensor, weight: Tensor, drawn: Tensor) -> Tensor:
    losses = []
    for state, target in zip(hidden, targets, strict=True):
        own = torch.exp(state @ weight[target])
        others = own * 0
        for place in drawn_apart_from(target, drawn):
            others = others + torch.exp(state @ weight[drawn[place]]) / COUNTS[drawn[place]]
        losses.append(-torch.log(own / (own + others)))
    return torch.stack(losses).mean()


def gbce_by_hand(hidden: Tensor, targets: Tensor, weight: Tensor, drawn: Tensor) -> Tensor:
    alpha = min(1.0, len(drawn) / (len(weight) - 2))
    beta = alpha * ((1 - 1 / alpha) * 0.6 + 1 / alpha)  # as the paper has it
    losses = []
    for state, target in zip(hidden, targets, strict=True):
        loss = -torch.log(sigmoid(state @ weight[target]) ** beta)
        for place in drawn_apart_from(target, drawn):
            loss = loss - torch.log(1 - sigmoid(state @ weight[drawn[place]]))
        losses.append(loss / (len(drawn) + 1))
    return torch.stack(losses).mean()


def bpr_by_hand(hidden: Tensor, targets: Tensor, weight: Tensor, drawn: Tensor) -> Tensor:
    losses = []
    for state, target in zip(hidden, targets, strict=True):
        loss = (state * 0).sum() + (weight * 0).sum()
        for place in drawn_apart_from(target, drawn):
            loss = loss - torch.log(sigmoid(state @ weight[target] - state @ weight[drawn[place]]))
        losses.append(loss / len(drawn))
    return torch.stack(losses).mean()


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def over_scores(loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Loss:
    """A loss over own and others' scores, from the same arguments as the ones by hand."""

    def whole(hidden: Tensor, targets: Tensor, weight: Tensor, drawn: Tensor) -> Tensor:
        own, others = sampled_scores(hidden, targets, drawn, lambda ids: functional.embedding(ids, weight))
        return loss(own, others, weight, drawn)

    return whole


LOSSES: dict[str, tuple[Loss, Loss]] = {
    "sampled_softmax": (over_scores(lambda own, others, *_: sampled_softmax(own, others)), softmax_by_hand),
    "corrected": (
        over_scores(lambda own, others, _, drawn: sampled_softmax(own, others, COUNTS[drawn].log().to(own.dtype))),
        corrected_softmax_by_hand,
    ),
    "gbce": (over_scores(lambda own, others, weight, _: gbce(own, others, len(weight) - 1, 0.6)), gbce_by_hand),
    "bpr": (over_scores(lambda own, others, *_: bpr(own, others)), bpr_by_hand),
}


@pytest.mark.parametrize("name", LOSSES)
@given(st.integers(1, 6), st.integers(3, 20), st.integers(1, 5), st.integers(1, 12), st.integers(0, 99))
def test_losses_over_negatives_and_their_gradients_are_those_by_hand(
    name: str, targets: int, items: int, width: int, drawn: int, seed: int
) -> None:
    ours, by_hand = LOSSES[name]
    hidden, target, weight = problem(targets, items, width, seed)
    ids = torch.randint(1, items, (drawn,), generator=torch.Generator().manual_seed(seed + 1))
    exact_hidden, exact_weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    loss, exact = ours(hidden, target, weight, ids), by_hand(exact_hidden, target, exact_weight, ids)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-5)
    (3 * loss).backward()
    (3 * exact).backward()
    for one, other in ((hidden, exact_hidden), (weight, exact_weight)):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_target_among_the_negatives_changes_only_the_mean(name: str) -> None:
    """If all negatives are the target itself, there is no negative left, and the loss is still finite."""
    hidden, _, weight = problem(3, 9, 4)
    target = torch.full((3,), 5)
    loss = LOSSES[name][0](hidden, target, weight, torch.tensor([5, 5]))
    loss.backward()
    assert math.isfinite(loss.item()) and hidden.grad is not None and hidden.grad.isfinite().all()
    if name != "gbce":  # whose loss also depends on the target's own score
        assert loss.item() == 0


def test_with_each_item_drawn_once_sampled_softmax_is_full_softmax() -> None:
    hidden, targets, weight = problem(20, 30, 4)
    every = torch.arange(1, 30)
    for log_counts in (None, torch.zeros(29)):
        own, others = sampled_scores(hidden, targets, every, lambda ids: weight[ids])
        assert sampled_softmax(own, others, log_counts).item() == pytest.approx(
            full_softmax(hidden, targets, weight).item(), rel=1e-5
        )


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_the_corrected_sum_estimates_the_sum_over_all_items_without_bias(sampling: str) -> None:
    hidden, targets, weight = (tensor.detach() for tensor in problem(4, 30, 3, seed=5))
    negatives = Negatives(np.arange(30) % 7 * 10, 200_000, sampling, seed=1)
    ids, log_counts = negatives.draw()
    own, others = sampled_scores(hidden, targets, ids, lambda ids: weight[ids])
    estimate = sampled_softmax(own, others, log_counts).item()
    assert estimate == pytest.approx(full_softmax(hidden, targets, weight).item(), rel=0.01)
    assert abs(sampled_softmax(own, others).item() - estimate) > 1, "without the correction it is another number"


def test_gbce_is_binary_cross_entropy_at_zero_and_discounts_the_target_at_one() -> None:
    own, others = torch.tensor([0.3, -1.0]), torch.tensor([[0.5, -0.2], [1.0, 0.0]])
    scores = torch.cat([own.unsqueeze(1), others], dim=1)
    labels = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    plain = functional.binary_cross_entropy_with_logits(scores, labels).item()
    assert gbce(own, others, n_items=101, t=0.0).item() == pytest.approx(plain)
    lighter = functional.binary_cross_entropy_with_logits(scores, labels, weight=torch.tensor([0.02, 1.0, 1.0])).item()
    assert gbce(own, others, n_items=101, t=1.0).item() == pytest.approx(lighter)


# What is drawn


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_items_are_drawn_as_often_as_they_say(sampling: str) -> None:
    counts = np.array([1000, 0, 5, 20, 74])
    negatives = Negatives(counts, 100_000, sampling, seed=3)
    ids, log_counts = negatives.draw()
    share = np.full(4, 0.25) if sampling == "uniform" else np.array([1, 6, 21, 75]) / 103
    seen = np.bincount(ids.numpy(), minlength=5)
    assert seen[0] == 0, "the padding is not an item"
    np.testing.assert_allclose(seen[1:] / 100_000, share, atol=0.01)
    np.testing.assert_allclose(log_counts.numpy(), np.log(100_000 * share[ids.numpy() - 1]), rtol=1e-5)


def test_a_seed_draws_the_same_negatives_and_every_step_draws_others() -> None:
    one, same, other = (Negatives(np.ones(50), 20, "uniform", seed) for seed in (1, 1, 2))
    first, second = one.draw()[0], one.draw()[0]
    assert torch.equal(first, same.draw()[0]) and torch.equal(second, same.draw()[0])
    assert not torch.equal(first, second) and not torch.equal(first, other.draw()[0])


# Losses that are not finite


def test_a_finite_loss_passes_and_any_other_stops_training_and_names_its_step() -> None:
    check_finite(3.0, 1)
    for value, name in ((math.nan, "nan"), (math.inf, "inf")):
        with pytest.raises(TrainingError, match=f"the loss is {name} at step 17; lower train.learning_rate, or put"):
            check_finite(value, 17)


def test_hidden_states_that_are_not_numbers_are_seen_in_the_loss() -> None:
    hidden, targets, weight = problem(5, 9, 4)
    broken = hidden.detach().clone()
    broken[3, 1] = torch.nan
    with pytest.raises(TrainingError, match="the loss is nan"):
        check_finite(full_softmax(broken, targets, weight).item(), 1)
