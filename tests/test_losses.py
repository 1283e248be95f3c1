"""Training losses against the same sums written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from blair_rec.errors import TrainingError
from blair_rec.recommend.losses import check_finite, full_softmax


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


def test_a_finite_loss_passes_and_another_stops_training_with_its_step() -> None:
    check_finite(torch.tensor(3.0), 1)
    for value, name in ((torch.nan, "nan"), (torch.inf, "inf")):
        with pytest.raises(TrainingError, match=f"the loss is {name} at step 17; lower train.learning_rate"):
            check_finite(torch.tensor(value), 17)


def test_hidden_states_that_are_not_numbers_are_seen_in_the_loss() -> None:
    hidden, targets, weight = problem(5, 9, 4)
    broken = hidden.detach().clone()
    broken[3, 1] = torch.nan
    with pytest.raises(TrainingError, match="the loss is nan"):
        check_finite(full_softmax(broken, targets, weight), 1)
