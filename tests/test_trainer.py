"""Training: what it minimises, when it stops, and that it can be repeated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import blair_rec.recbole  # noqa: F401
from blair_rec.errors import TrainingError
from blair_rec.recommend.dataset import TextSequentialDataset
from blair_rec.recommend.models import model_class
from blair_rec.recommend.sequences import training_sequences
from blair_rec.recommend.settings import recbole_config
from blair_rec.recommend.trainer import (
    Budget,
    Epoch,
    TextTrainer,
    every_position,
    fit,
    recbole_batches,
    recbole_way,
    run_epoch,
    seed_everything,
)

RATES = {"learning_rate": 0.01, "weight_decay": 0.0}
SMALL = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 6}


def built(tiny: Path, **settings: Any) -> tuple[Any, Any, Any]:
    """A small SASRec, its config and its training split."""
    cls = model_class("SASRec")
    config = recbole_config(cls, str(tiny), {**SMALL, "seed": 1, **settings})
    train, _, _ = TextSequentialDataset(config).build()
    seed_everything(1)
    return cls(config, train), config, train


class Scripted:
    """A model of one number, and validation results that are given."""

    def __init__(self, values: list[float]) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        self.values = values
        self.seen: list[float] = []

    def losses(self, epoch: int) -> Iterator[tuple[Tensor, int]]:
        yield (self.model.weight**2).sum(), 1

    def validate(self) -> Mapping[str, float]:
        self.seen.append(self.model.weight.item())
        return {"m": self.values[len(self.seen) - 1]}

    def fit(self, **settings: Any) -> Any:
        budget = Budget(**{"epochs": len(self.values), "patience": 2, "eval_every": 1, **settings, **RATES})
        return fit(self.model, self.losses, self.validate, "m", budget)


def test_it_stops_after_patience_and_puts_the_best_weights_back() -> None:
    world = Scripted([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])
    trained = world.fit()
    assert len(trained.history) == 5, "epochs 3, 4 and 5 bring no new best, and patience is 2"
    assert (trained.best_epoch, trained.best_value) == (2, 0.3)
    assert world.model.weight.item() == pytest.approx(world.seen[1], abs=0)


def test_it_validates_every_so_often_and_always_at_the_end() -> None:
    trained = Scripted([0.1, 0.2, 0.3]).fit(epochs=5, eval_every=2)
    assert [epoch.valid is not None for epoch in trained.history] == [False, True, False, True, True]


def test_a_loss_that_is_not_a_number_is_named_with_its_step() -> None:
    model = nn.Linear(1, 1)

    def losses() -> Iterator[tuple[Tensor, int]]:
        yield model.weight.sum(), 1
        yield model.weight.sum() * torch.nan, 1

    with pytest.raises(TrainingError, match="the loss is nan at step 2; lower train.learning_rate"):
        run_epoch(model, torch.optim.SGD(model.parameters(), lr=0.1), losses())


def test_the_loss_of_an_epoch_is_the_mean_over_its_targets() -> None:
    model = nn.Linear(1, 1)
    values = [(2.0, 3), (6.0, 1)]
    losses = ((model.weight.sum() * 0 + value, n) for value, n in values)
    assert run_epoch(model, torch.optim.SGD(model.parameters(), lr=0.1), losses) == pytest.approx(3.0)


def test_one_seed_trains_to_the_same_weights_bit_for_bit(tiny: Path) -> None:
    results = []
    for _ in range(2):
        model, config, train = built(tiny)
        losses = every_position(model, training_sequences(train), 6, 64, seed=1)
        epochs: list[Epoch] = []
        fit_one(model, losses, epochs)
        results.append(([epoch.loss for epoch in epochs], [p.detach().clone() for p in model.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(one, other) for one, other in zip(results[0][1], results[1][1], strict=True))


def fit_one(model: Any, losses: Any, epochs: list[Epoch]) -> None:
    fit(
        model,
        losses,
        lambda: {"m": float(len(epochs))},
        "m",
        Budget(epochs=3, patience=3, eval_every=1, **RATES),
        on_epoch=epochs.append,
    )


def test_every_position_learns_each_target_once_an_epoch(tiny: Path) -> None:
    model, _, train = built(tiny)
    sequences = training_sequences(train)
    model.train()
    seen = sum(n for _, n in every_position(model, sequences, 6, 64, seed=3)(1))
    assert seen == sequences.n_targets == len(train)


@pytest.mark.parametrize("way", ["every position", "recbole"])
def test_training_lowers_the_loss(tiny: Path, way: str) -> None:
    model, config, train = built(tiny, train_batch_size=128)
    if way == "recbole":
        losses = recbole_way(model, recbole_batches(config, train))
    else:
        losses = every_position(model, training_sequences(train), 6, 128, seed=1)
    epochs: list[Epoch] = []
    fit_one(model, losses, epochs)
    assert epochs[0].loss <= np.log(train.item_num) + 0.1, "an untrained model guesses"
    assert epochs[-1].loss < epochs[0].loss - 0.05


@pytest.mark.parametrize("way", ["every position", "recbole"])
def test_stopping_and_going_on_gives_the_same_weights_bit_for_bit(tiny: Path, way: str) -> None:
    def train(epochs: int, checkpoint: Path | None) -> dict[str, Tensor]:
        model, config, train = built(tiny, train_batch_size=128)
        if way == "recbole":  # draws its batches and its dropout from states that the checkpoint has to hold
            loader = recbole_batches(config, train)
            losses, generators = recbole_way(model, loader), {"loader": loader.generator}
        else:
            losses, generators = every_position(model, training_sequences(train), 6, 128, seed=1), {}
        fit(
            model,
            losses,
            lambda: {"m": next(rising)},
            "m",
            Budget(epochs=epochs, patience=9, eval_every=1, **RATES),
            checkpoint=checkpoint,
            generators=generators,
        )
        return dict(model.state_dict())

    rising = itertools.count(0.0)  # the best epoch is always the last
    path = tiny.parent / "checkpoint.safetensors"
    train(2, path)
    torch.manual_seed(99)  # another process has other random states
    resumed = train(4, path)
    whole = train(4, None)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_recboles_resume_goes_on_bit_for_bit(tiny: Path) -> None:
    def trainer(epochs: int) -> tuple[Any, Any]:
        model, config, train = built(tiny, epochs=epochs, stopping_step=99, valid_metric="NDCG@10")
        return TextTrainer(config, model), recbole_batches(config, train)

    first, loader = trainer(2)
    first.fit(loader, saved=True, verbose=False)
    second, loader = trainer(4)
    torch.manual_seed(99)
    second.resume_checkpoint(first.saved_model_file)
    second.fit(loader, saved=True, verbose=False)
    whole, loader = trainer(4)
    whole.fit(loader, saved=False, verbose=False)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.model.state_dict().items())
