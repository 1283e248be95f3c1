"""A student's steps: soft targets, the loss against float64, plain training as a special case, learning an order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import config_of

from blair_rec.errors import ConfigError
from blair_rec.experiment.fit import build_model
from blair_rec.experiment.planning.plan import run_setup
from blair_rec.experiment.splits.reading import training_data
from blair_rec.training import distillation, parallel
from blair_rec.training.distillation import Distilled, TaughtLists, Teaching, distillation_loss, soft_targets
from blair_rec.training.loop import make_optimizer, run_epoch


def test_soft_targets_are_a_softmax_over_the_standardised_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "BLOCK", 1)
    scores = np.array([[9.0, 4.0, 2.0, -np.inf], [1.0, 1.0, 1.0, 1.0]], dtype=np.float32)
    shares = soft_targets(scores, 2.0)
    spread = np.std([9.0, 4.0, 2.0])
    powers = np.exp(np.array([9.0, 4.0, 2.0]) / spread / 2)
    np.testing.assert_allclose(shares[0], [*(powers / powers.sum()), 0], rtol=1e-6)
    np.testing.assert_allclose(shares[1], 0.25)
    np.testing.assert_allclose(soft_targets(100 * scores + 7, 2.0), shares, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1e-310, 5e-324, 1e308])
def test_soft_targets_are_shares_for_any_temperature(temperature: float) -> None:
    scores = np.array([[9.0, 4.0, 2.0, -np.inf], [-np.inf] * 4], dtype=np.float32)
    expected = [1, 0, 0, 0] if temperature < 1 else [1 / 3, 1 / 3, 1 / 3, 0]
    np.testing.assert_allclose(soft_targets(scores, temperature), [expected, [0] * 4], rtol=1e-6)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.9, 1.0])
def test_the_loss_is_that_of_both_cross_entropies_in_float64(part: float) -> None:
    torch.manual_seed(1)
    query, weight = (torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in (5, 20))
    targets, items = torch.randint(1, 20, (5,)), torch.stack([torch.randperm(19)[:4] + 1 for _ in range(5)])
    shares = torch.rand(5, 4, dtype=torch.float64).softmax(1)
    loss = distillation_loss(query, targets, weight, items, shares, part, torch.float64)
    found = torch.autograd.grad(loss, (query, weight))

    logs = torch.log_softmax(query @ weight[1:].T, 1)
    true = -sum(logs[n, targets[n] - 1] for n in range(5)) / 5
    taught = -sum(shares[n, k] * logs[n, items[n, k] - 1] for n in range(5) for k in range(4)) / 5
    expected = (1 - part) * true + part * taught
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (query, weight)))


def built(tiny: Path, **train: Any) -> tuple[Any, Any, Any, Any]:
    """Return a model of item ids on the tiny data set, its plain steps, the data and the train section."""
    base = {"learning_rate": 0.01, "batch_size": 64, **train}
    sizes = {"hidden_size": 32, "inner_size": 32, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 10}
    keep_all = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    config = config_of(tiny, "none", variants={"id": {"items": "id"}}, train=base, recbole={**sizes, **keep_all})
    data = training_data(config, tiny)
    variant = config.variants["id"]
    _, model, steps = build_model(config, variant, run_setup(config, "id", 1), data, None)
    return model, steps, data, config.train_of(variant)


def distilled(model: Any, data: Any, train: Any, items: np.ndarray, scores: np.ndarray, part: float) -> Distilled:
    lists = TaughtLists(items.astype(np.int32), scores.astype(np.float32), 0.0)
    return Distilled(model, data.sequences, 10, train, 1, Teaching(lists, part, 1.0))


@pytest.mark.parametrize(("part", "columns"), [(0.0, 3), (0.9, 1)])
def test_a_teacher_that_knows_the_next_item_teaches_what_plain_training_does(
    tiny: Path, part: float, columns: int
) -> None:
    model, steps, data, train = built(tiny)
    true = data.sequences.items[data.sequences.is_target]
    items = np.stack([true, *[np.ones_like(true)] * (columns - 1)], axis=1)  # with part 0 the list doesn't matter
    mine = distilled(model, data, train, items, np.zeros(items.shape), part)
    model.train()
    with torch.no_grad():
        plain, taught = ([(loss.item(), number) for loss, number in way(2)] for way in (steps, mine))
    assert len(plain) > 1
    assert [number for _, number in plain] == [number for _, number in taught]
    assert [loss for loss, _ in taught] == pytest.approx([loss for loss, _ in plain], rel=1e-5)


@pytest.mark.parametrize("part", [0.5, 1.0])
def test_where_no_candidate_is_left_the_loss_is_the_plain_cross_entropy(tiny: Path, part: float) -> None:
    model, steps, data, train = built(tiny)
    items = np.ones((data.sequences.n_targets, 3))
    mine = distilled(model, data, train, items, np.full(items.shape, -np.inf), part)
    with torch.no_grad():
        plain, taught = ([loss.item() for loss, _ in way(2)] for way in (steps, mine))
    assert taught == pytest.approx(plain, rel=1e-5)


def test_processes_share_the_targets_of_every_step(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, data, train = built(tiny)
    nothing = np.ones((data.sequences.n_targets, 1))
    steps = distilled(model, data, train, nothing, nothing, 0.5)
    with torch.no_grad():
        whole = [number for _, number in steps(1)]
        shared = []
        for rank in range(2):
            monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(parallel, "share", lambda rank=rank: slice(rank, None, 2))
            shared.append([number for _, number in steps(1)])
    assert [sum(parts) for parts in zip(*shared, strict=True)] == whole


def test_a_sampled_loss_is_refused(tiny: Path) -> None:
    model, _, data, train = built(tiny, loss="sampled_softmax")
    nothing = np.zeros((data.sequences.n_targets, 1))
    with pytest.raises(ConfigError, match="full_softmax, not for sampled_softmax"):
        distilled(model, data, train, nothing, nothing, 0.5)


def test_a_student_learns_the_order_of_its_teacher(tiny: Path) -> None:
    """The teacher ranks the three items after the last one of the history, by id, which no event of the data says."""
    model, _, data, train = built(tiny)
    n_items = len(data.item_tokens) - 1
    last = data.sequences.items[np.flatnonzero(data.sequences.is_target) - 1]
    items = (last[:, None] + np.arange(3)) % n_items + 1
    scores = np.tile([2.0, 1.0, 0.0], (len(last), 1))

    def agreement() -> float:
        model.eval()
        with torch.no_grad():
            valid = data.valid[torch.arange(len(data.valid))]
            found = model.full_sort_predict(valid.to(model.device)).cpu()
        found[:, 0] = -np.inf
        history, length = valid[model.ITEM_SEQ].numpy(), valid[model.ITEM_SEQ_LEN].numpy()
        expected = (history[np.arange(len(length)), length - 1][:, None] + np.arange(3)) % n_items + 1
        return float((found.topk(3).indices.numpy() == expected).all(1).mean())

    assert agreement() < 0.05
    steps, optimizer = distilled(model, data, train, items, scores, 0.9), make_optimizer(model, train)
    for epoch in range(1, 31):
        run_epoch(model, optimizer, steps(epoch))
    assert agreement() > 0.6  # of all orders of three items, about one in 80,000 is right by chance
