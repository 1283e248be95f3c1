"""One (variant, seed) -> the best model by validation, and the history of how it got there."""

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

from blair_rec.border.collector import TopKCollector
from blair_rec.config.plugin import read_plugin_config
from blair_rec.config.sections import SAMPLED_LOSSES, TrainConfig
from blair_rec.data.sequences import training_sequences
from blair_rec.models.packed import can_pack
from blair_rec.models.similarity import scores_by_product
from blair_rec.models.text_models import item_side, shared_items
from blair_rec.training import parallel
from blair_rec.training.checkpoint import load_training, load_weights, save_training
from blair_rec.training.epochs import EveryPosition, RecboleWay, StepLosses, Steps, check_loss
from blair_rec.training.losses import check_finite
from blair_rec.training.optimizer import LearningRate, RowAdam

from recbole.trainer import Trainer

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
    total, seen = 0.0, 0
    for step, (loss, n_targets) in enumerate(losses, start=1):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value, n_targets = parallel.average(model.parameters(), loss.item(), n_targets)
        check_finite(value, step)
        optimizer.step()
        total += value * n_targets
        seen += n_targets
        on_step(step, value)
    return total / max(seen, 1)


def fit(
    model: nn.Module,
    steps: Steps,
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


class TextTrainer(Trainer):
    """RecBole's Trainer for our models: every-position steps, and checkpoints in safetensors instead of pickle."""

    saved_model_file: str
    _steps: Steps
    _rate: LearningRate

    def __init__(self, config: Any, model: Any) -> None:
        self._train = dataclasses.replace(
            read_plugin_config(config.external_config_dict).train,
            loss=config["blair_loss"],
            batch_size=config["train_batch_size"],
            learning_rate=config["learning_rate"],
            weight_decay=config["weight_decay"],
            epochs=config["epochs"],
        )
        check_loss(type(model), self._train)
        self._every_position = self._train.loss != "recbole" and can_pack(type(model))
        super().__init__(config, model)
        self.eval_collector = TopKCollector(config)
        model.scores_packed = self._every_position and scores_by_product(model)
        self.saved_model_file = str(Path(self.saved_model_file).with_suffix(".safetensors"))
        self._store_sha256 = config["blair_store_sha256"]
        self._generators: dict[str, torch.Generator] = {}
        self._resume_from: Path | None = None

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        if self._every_position and self.learner.lower() == "adam":
            return make_optimizer(self.model, self._train)
        optimizer: torch.optim.Optimizer = super()._build_optimizer(**kwargs)
        return optimizer

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float | tuple[float, ...]:
        if not self._every_position:
            result: float | tuple[float, ...] = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
            return result
        self._prepare(train_data)
        return run_epoch(self.model, self.optimizer, self._steps(epoch_idx + 1))

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = Path(kwargs.get("saved_model_file", self.saved_model_file))
        state = {
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "steps": self._rate.steps,
        }
        save_training(path, self.model, self.optimizer, state, self._generators, store_sha256=self._store_sha256)
        if verbose:
            self.logger.info(f"Saving current: {path}")

    def fit(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        """As RecBole's; after resume_checkpoint it goes on with the epoch behind the checkpoint's.

        Raises:
            CheckpointError: a checkpoint of another model, or trained over another store.
            TrainingError: a loss that is not finite.
        """
        self._prepare(train_data)
        if self._resume_from is not None:
            path, self._resume_from = self._resume_from, None
            state, _ = load_training(path, self.model, self.optimizer, self._generators, self._store_sha256)
            self.start_epoch, self.cur_step = state["epoch"] + 1, state["cur_step"]
            self.best_valid_score = state["best_valid_score"]
            self._rate.go_on_from(state["steps"])
            self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")
        return super().fit(train_data, *args, **kwargs)

    def _prepare(self, train_data: Any) -> None:
        """What needs the training data; once."""
        if hasattr(self, "_rate"):
            return
        train, width, seed = self._train, self.config["MAX_ITEM_LIST_LENGTH"], self.config["seed"]
        self._generators = {"loader": train_data.generator}
        if self._every_position:
            self._steps = EveryPosition(self.model, training_sequences(train_data._dataset), width, train, seed)
        else:
            self._steps = RecboleWay(self.model, train_data)
        total = self.epochs * len(self._steps)
        self._rate = LearningRate(self.optimizer, self.learning_rate, train.warmup_steps, train.schedule, total)

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Train on from a checkpoint of this trainer: the next `fit` does."""
        self._resume_from = Path(resume_file)
        self.saved_model_file = str(resume_file)

    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: Any = None, show_progress: bool = False
    ) -> Any:
        """As RecBole's; the best weights come from safetensors.

        Raises:
            CheckpointError: no such file, weights of another model, or trained over another store.
        """
        if eval_data and load_best_model:
            load_weights(self.model, Path(model_file or self.saved_model_file), self._store_sha256)
        self.model.eval()
        with torch.no_grad(), shared_items(self.model), self.model.scores_overwritten():
            return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
