"""Our own training loop: epochs, validation, early stopping and checkpoints."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.config.names import SAMPLED_LOSSES
from blair_rec.config.sections import TrainConfig
from blair_rec.models.text_models import item_side
from blair_rec.training import parallel
from blair_rec.training.checkpoint import load_training, save_training
from blair_rec.training.epochs import EpochSteps, StepLosses
from blair_rec.training.losses import check_finite
from blair_rec.training.optimizer import LearningRate, RowAdam

READ_TOGETHER = {"cpu": 1, "cuda": 32}
"""Steps whose losses are read in one go, by kind of device."""
OnStep = Callable[[int, int, float], None]
"""Told after each step of an epoch: how many are done, of about how many, and the loss of this one."""


@dataclass(frozen=True)
class Epoch:
    """One line of history.jsonl."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over the targets of the epoch."""
    train_seconds: float
    valid_seconds: float
    valid: Mapping[str, float] | None
    """Metrics by name; None in epochs without validation."""


@dataclass(frozen=True)
class Trained:
    """What a finished training leaves, with the best weights back in the model."""

    history: tuple[Epoch, ...]
    best_epoch: int
    best_value: float


def make_optimizer(model: Any, train: TrainConfig) -> RowAdam:
    """Adam; where a step reads few rows of a table that has one for each item, it moves no others.

    A weight decay concerns every row, so with one the whole table is moved.
    """
    if train.loss in SAMPLED_LOSSES and not train.weight_decay and parallel.adds_rows():
        item_side(model).sparse = True
    return RowAdam(model.parameters(), train.learning_rate, train.weight_decay)


def run_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: StepLosses,
    on_step: Callable[[int, float], None] = lambda done, loss: None,
) -> float:
    """One pass of training; the mean loss over its targets.

    Raises:
        TrainingError: a loss that is not finite.
    """
    model.train()
    read = _LossReader()
    for loss, n_targets in losses:
        if loss.requires_grad:  # a recorded step has put the gradients in their place already
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        known = read.after(*parallel.average(model.parameters(), loss.detach(), n_targets))
        optimizer.step()
        for step, value in known:
            on_step(step, value)
    for step, value in read.rest():
        on_step(step, value)
    return read.total / max(read.targets, 1)


class _LossReader:
    """The losses of an epoch's steps: on a CPU read at once, on a GPU, which has to be waited for, some at a time."""

    def __init__(self) -> None:
        self.total, self.targets = 0.0, 0
        self._steps = 0
        self._waiting: list[tuple[Tensor, int]] = []

    def after(self, loss: Tensor, n_targets: int) -> list[tuple[int, float]]:
        """Take the loss [] of one more step; the (step, loss) that are read by now and were not told before.

        Raises:
            TrainingError: one of them is not finite. On a CPU the step has moved no weight then.
        """
        self._waiting.append((loss.reshape(()), n_targets))
        together = READ_TOGETHER.get(loss.device.type, READ_TOGETHER["cuda"])
        return self.rest() if len(self._waiting) >= together else []

    def rest(self) -> list[tuple[int, float]]:
        """Those that are left. Raises as `after`."""
        if not self._waiting:
            return []
        values = torch.stack([loss for loss, _ in self._waiting]).tolist()
        told = []
        for value, (_, n_targets) in zip(values, self._waiting, strict=True):
            self._steps += 1
            check_finite(value, self._steps)
            self.total += value * n_targets
            self.targets += n_targets
            told.append((self._steps, value))
        self._waiting = []
        return told


def fit(
    model: Any,
    steps: EpochSteps,
    validate: Callable[[], Mapping[str, float]],
    metric: str,
    train: TrainConfig,
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_step: OnStep = lambda done, total, loss: None,
    checkpoint: Path | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
    until: int | None = None,
) -> Trained:
    """Train until more than `train.patience` validations in a row brought no new best; the best weights are restored.

    Where a `checkpoint` is named it is written after every epoch, and one that is there already is trained on from,
    bit for bit as if training had never stopped. `generators` are what the steps draw from, next to the global ones.
    Of several processes the first one alone validates and writes. `until` is an epoch to stop after for now, for
    training that its checkpoint goes on with.

    Raises:
        TrainingError: a loss that is not finite.
        CheckpointError: a checkpoint of another model, or not a whole one.
    """
    optimizer = make_optimizer(model, train)
    rate = LearningRate(optimizer, train.learning_rate, train.warmup_steps, train.schedule, train.epochs * len(steps))
    history: list[Epoch] = []
    best_epoch, best_value, without_best = 0, -np.inf, 0
    best = _copy(model)
    if checkpoint is not None and checkpoint.is_file():
        state, best = load_training(checkpoint, model, optimizer, generators or {})
        history = [Epoch(**epoch) for epoch in state["history"]]
        best_epoch, best_value, without_best = state["best_epoch"], state["best_value"], state["without_best"]
        rate.go_on_from(state["steps"])
    last = train.epochs if until is None else min(until, train.epochs)
    for epoch in range(len(history) + 1, last + 1):
        if without_best > train.patience:
            break
        begin = time.perf_counter()
        loss = run_epoch(model, optimizer, steps(epoch), lambda done, loss: on_step(done, len(steps), loss))
        trained = time.perf_counter()
        due = epoch % train.eval_every == 0 or epoch == train.epochs
        valid = parallel.from_first(lambda: dict(validate())) if due else None
        history.append(Epoch(epoch, loss, trained - begin, time.perf_counter() - trained, valid))
        on_epoch(history[-1])
        if valid is not None and valid[metric] > best_value:
            best_epoch, best_value, without_best, best = epoch, valid[metric], 0, _copy(model)
        elif valid is not None:
            without_best += 1
        if checkpoint is not None and parallel.rank() == 0:
            state = {
                "history": [dataclasses.asdict(line) for line in history],
                "best_epoch": best_epoch,
                "best_value": best_value,
                "without_best": without_best,
                "steps": rate.steps,
            }
            save_training(checkpoint, model, optimizer, state, generators or {}, best)
    model.load_state_dict(best)
    model.eval()
    return Trained(tuple(history), best_epoch, float(best_value))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
