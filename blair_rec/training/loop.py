"""Our own training loop: epochs, validation, early stopping and checkpoints."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.config.section import to_dict
from blair_rec.config.sections import TrainConfig
from blair_rec.evaluate.runs.run_files import EpochRecord
from blair_rec.models.text_models import item_side
from blair_rec.training import parallel
from blair_rec.training.checkpoint import load_training, save_training
from blair_rec.training.epochs import EpochSteps, StepLosses
from blair_rec.training.losses import check_finite
from blair_rec.training.optimizer import LearningRate, RowAdam

logger = logging.getLogger("blair_rec")

READ_TOGETHER = {"cpu": 1, "cuda": 32}
"""Number of steps whose losses are read together, by kind of device."""
OnStep = Callable[[int, int, float], None]
"""Called after each step of an epoch: steps done, steps in total (an estimate), and the loss of this step."""


@dataclass(frozen=True)
class Trained:
    """Result of a finished training; the best weights are back in the model."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    best_value: float


def make_optimizer(model: Any, train: TrainConfig) -> RowAdam:
    """Return Adam. If a step reads few rows of a table with one row per item, it updates only these rows.

    Weight decay changes every row, so with it the whole table is updated.
    """
    if train.draws_items and not train.weight_decay and parallel.adds_rows():
        item_side(model).sparse = True
    return RowAdam(model.parameters(), train.learning_rate, train.weight_decay)


def run_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: StepLosses,
    on_step: Callable[[int, float], None] = lambda done, loss: None,
) -> float:
    """Train for one epoch and return the mean loss over its targets.

    Raises:
        TrainingError: a loss that is not finite.
    """
    model.train()
    read = _LossReader()
    for loss, n_targets in losses:
        if loss.requires_grad:  # a recorded step has set the gradients already
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
    """Reads the losses of an epoch's steps: each one on a CPU; many together on a GPU, since reading waits for it."""

    def __init__(self) -> None:
        self.total, self.targets = 0.0, 0
        self._steps = 0
        self._waiting: list[tuple[Tensor, int]] = []

    def after(self, loss: Tensor, n_targets: int) -> list[tuple[int, float]]:
        """Take the loss [] of one more step; return the (step, loss) pairs that have become known with it.

        Raises:
            TrainingError: one of them is not finite. On a CPU that step has not changed the weights yet.
        """
        self._waiting.append((loss.reshape(()), n_targets))
        together = READ_TOGETHER.get(loss.device.type, READ_TOGETHER["cuda"])
        return self.rest() if len(self._waiting) >= together else []

    def rest(self) -> list[tuple[int, float]]:
        """Read and return the pairs that are left. Raises the same errors as `after`."""
        if not self._waiting:
            return []
        values = torch.stack([loss for loss, _ in self._waiting]).tolist()
        known = []
        for value, (_, n_targets) in zip(values, self._waiting, strict=True):
            self._steps += 1
            check_finite(value, self._steps)
            self.total += value * n_targets
            self.targets += n_targets
            known.append((self._steps, value))
        self._waiting = []
        return known


def fit(
    model: Any,
    steps: EpochSteps,
    validate: Callable[[], Mapping[str, float]],
    metric: str,
    train: TrainConfig,
    *,
    on_epoch: Callable[[EpochRecord], None] = lambda epoch: None,
    on_step: OnStep = lambda done, total, loss: None,
    checkpoint: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    until: int | None = None,
) -> Trained:
    """Train until more than `train.patience` validations in a row bring no new best; then restore the best weights.

    `checkpoint` is written after every epoch. If the file exists, training resumes from it, bit for bit as if it had
    never stopped. With several processes, only the first one validates and writes. `settings` are all that the weights
    depend on (default: `train`); a checkpoint of other ones is refused. `until` is an epoch to stop after for now;
    training can later resume from the checkpoint.

    Raises:
        TrainingError: a loss that is not finite.
        CheckpointError: a checkpoint of other settings or of another model, or not a whole one.
    """
    settings = {"train": to_dict(train)} if settings is None else settings
    optimizer = make_optimizer(model, train)
    rate = LearningRate(optimizer, train.learning_rate, train.warmup_steps, train.schedule, train.epochs * len(steps))
    history: list[EpochRecord] = []
    best_epoch, best_value, without_best = 0, -np.inf, 0
    best = _copy(model)
    if checkpoint is not None and checkpoint.is_file():
        state, best = load_training(checkpoint, model, optimizer, steps.generators, settings)
        history = [EpochRecord(**epoch) for epoch in state["history"]]
        best_epoch, best_value, without_best = state["best_epoch"], state["best_value"], state["without_best"]
        rate.go_on_from(state["steps"])
        if until is None:  # tuning resumes from every checkpoint that it asked for
            logger.info("training goes on after epoch %d, from its checkpoint", len(history))
    last = train.epochs if until is None else min(until, train.epochs)
    for epoch in range(len(history) + 1, last + 1):
        if without_best > train.patience:
            break
        begin = time.perf_counter()
        loss = run_epoch(model, optimizer, steps(epoch), lambda done, loss: on_step(done, len(steps), loss))
        trained = time.perf_counter()
        due = epoch % train.eval_every == 0 or epoch == train.epochs
        valid = parallel.from_first(lambda: dict(validate())) if due else None
        history.append(EpochRecord(epoch, loss, trained - begin, time.perf_counter() - trained, valid))
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
            save_training(checkpoint, model, optimizer, state, steps.generators, settings, best)
    model.load_state_dict(best)
    model.eval()
    return Trained(tuple(history), best_epoch, float(best_value))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
