"""Dropout from random bits is dropout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from blair_rec.models.dropout import BitDropout


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_probability(probability: float) -> None:
    n = 200_001
    dropped = int((BitDropout(7)(torch.ones(n), probability) == 0).sum())
    assert stats.binomtest(dropped, n, probability).pvalue > 1e-4


def test_what_stays_is_scaled_so_that_the_mean_stays() -> None:
    result = BitDropout(1)(torch.full((50, 41), 3.0), 0.25)
    assert set(result.unique().tolist()) == {0.0, 4.0}


def test_neighbours_are_dropped_independently() -> None:
    kept = BitDropout(2)(torch.ones(400, 500), 0.5).numpy() > 0
    for one, other in ((kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1]), (kept[:, 4:], kept[:, :-4])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.012  # five standard errors


def test_the_gradient_goes_where_the_numbers_went() -> None:
    x = torch.ones(1000, requires_grad=True)
    result = BitDropout(3)(x, 0.5)
    result.sum().backward()
    assert torch.equal(x.grad, result.detach())


def test_the_same_seed_drops_the_same_numbers_and_another_does_not() -> None:
    x = torch.ones(100)
    assert torch.equal(BitDropout(5)(x, 0.5), BitDropout(5)(x, 0.5))
    assert not torch.equal(BitDropout(5)(x, 0.5), BitDropout(6)(x, 0.5))
    once = BitDropout(5)
    assert not torch.equal(once(x, 0.5), once(x, 0.5))


def test_probability_zero_leaves_the_tensor_as_it_is() -> None:
    x = torch.randn(4)
    assert BitDropout(1)(x, 0.0) is x
