"""One (variant, seed) -> the best model by validation, and the history of how it got there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.recommend.checkpoint import load_training, load_weights, save_training
from blair_rec.recommend.dropout import BitDropout
from blair_rec.recommend.losses import check_finite, full_softmax
from blair_rec.recommend.models import item_side, shared_items
from blair_rec.recommend.packing import can_pack, hidden_states
from blair_rec.recommend.sequences import TrainingSequences, training_sequences

from recbole.data.dataloader import TrainDataLoader
from recbole.data.utils import create_samplers
from recbole.trainer import Trainer
from recbole.utils import init_seed

StepLosses = Iterator[tuple[Tensor, int]]
"""For each step its mean loss and its number of targets; the optimiser steps before the next is asked for."""


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


def every_position(
    model: Any, sequences: TrainingSequences, width: int, targets_per_batch: int, seed: int
) -> Callable[[int], StepLosses]:
    """Step losses of an epoch, where one pass over a window teaches all its positions."""

    def losses(epoch: int) -> StepLosses:
        dropout = BitDropout(hash_seed(seed, epoch))
        for packed in sequences.batches(width, targets_per_batch, seed=hash_seed(seed, epoch)):
            packed = packed.to(model.device)
            learnt = torch.nonzero(packed.targets).squeeze(1)
            with shared_items(model):
                hidden = hidden_states(model, packed, dropout)
                if len(learnt) < len(hidden):
                    hidden = hidden[learnt]
                yield full_softmax(hidden, packed.targets[learnt], item_side(model).weight), len(learnt)

    return losses


def recbole_way(model: Any, loader: Any) -> Callable[[int], StepLosses]:
    """Step losses of an epoch, with RecBole's own batches and the model's own loss."""

    def losses(epoch: int) -> StepLosses:
        for interaction in loader:
            with shared_items(model):
                loss = model.calculate_loss(interaction.to(model.device))
                yield torch.stack(loss).sum() if isinstance(loss, tuple) else loss, len(interaction)

    return losses


def seed_everything(seed: int) -> None:
    """Python, NumPy and torch, as RecBole does it."""
    init_seed(seed, True)


def recbole_batches(config: Any, train: Any) -> TrainDataLoader:
    """RecBole's own loader over a training split, with the sampler that the config asks for."""
    sampler, _, _ = create_samplers(config, train, [train, train, train])
    return TrainDataLoader(config, train, sampler, shuffle=True)


def run_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, losses: StepLosses) -> float:
    """One pass of training; the mean loss over its targets.

    Raises:
        TrainingError: a loss that is not finite.
    """
    model.train()
    total, seen = 0.0, 0
    for step, (loss, n_targets) in enumerate(losses, start=1):
        check_finite(loss, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.item() * n_targets
        seen += n_targets
    return total / max(seen, 1)


@dataclass(frozen=True)
class Budget:
    """How long and how fast to train."""

    epochs: int
    patience: int
    """Validations in a row without a new best before training stops."""
    eval_every: int
    """Epochs between two validations."""
    learning_rate: float
    weight_decay: float


def fit(
    model: nn.Module,
    losses: Callable[[int], StepLosses],
    validate: Callable[[], Mapping[str, float]],
    metric: str,
    budget: Budget,
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoint: Path | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
) -> Trained:
    """Train until the validation metric has not risen for `patience` validations; the best weights are restored.

    Where a `checkpoint` is named it is written after every epoch, and one that is there already is trained on from,
    bit for bit as if training had never stopped. `generators` are what the losses draw from, next to the global ones.

    Raises:
        TrainingError: a loss that is not finite.
        CheckpointError: a checkpoint of another model, or not a whole one.
    """
    optimizer = torch.optim.Adam(
        model.parameters(), lr=budget.learning_rate, weight_decay=budget.weight_decay, fused=True
    )
    history: list[Epoch] = []
    best_epoch, best_value, without_best = 0, -np.inf, 0
    best = _copy(model)
    if checkpoint is not None and checkpoint.is_file():
        state, best = load_training(checkpoint, model, optimizer, generators or {})
        history = [Epoch(**epoch) for epoch in state["history"]]
        best_epoch, best_value, without_best = state["best_epoch"], state["best_value"], state["without_best"]
    for epoch in range(len(history) + 1, budget.epochs + 1):
        if without_best > budget.patience:
            break
        begin = time.perf_counter()
        loss = run_epoch(model, optimizer, losses(epoch))
        trained = time.perf_counter()
        due = epoch % budget.eval_every == 0 or epoch == budget.epochs
        valid = dict(validate()) if due else None
        history.append(Epoch(epoch, loss, trained - begin, time.perf_counter() - trained, valid))
        on_epoch(history[-1])
        if valid is not None and valid[metric] > best_value:
            best_epoch, best_value, without_best, best = epoch, valid[metric], 0, _copy(model)
        elif valid is not None:
            without_best += 1
        if checkpoint is not None:
            state = {
                "history": [dataclasses.asdict(line) for line in history],
                "best_epoch": best_epoch,
                "best_value": best_value,
                "without_best": without_best,
            }
            save_training(checkpoint, model, optimizer, state, generators or {}, best)
    model.load_state_dict(best)
    model.eval()
    return Trained(tuple(history), best_epoch, float(best_value))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def hash_seed(seed: int, epoch: int) -> int:
    """A seed of its own for each epoch of a run."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


class TextTrainer(Trainer):
    """RecBole's Trainer for our models: every-position steps, and checkpoints in safetensors instead of pickle."""

    saved_model_file: str

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        self.saved_model_file = str(Path(self.saved_model_file).with_suffix(".safetensors"))
        self._sequences: TrainingSequences | None = None
        self._store_sha256 = config["blair_store_sha256"]
        self._generators: dict[str, torch.Generator] = {}
        self._resume_from: Path | None = None

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float | tuple[float, ...]:
        if self.config["blair_loss"] == "recbole" or not can_pack(type(self.model)):
            result: float | tuple[float, ...] = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
            return result
        if self._sequences is None:
            self._sequences = training_sequences(train_data._dataset)
        losses = every_position(
            self.model,
            self._sequences,
            self.config["MAX_ITEM_LIST_LENGTH"],
            self.config["train_batch_size"],
            self.config["seed"],
        )
        return run_epoch(self.model, self.optimizer, losses(epoch_idx + 1))

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = Path(kwargs.get("saved_model_file", self.saved_model_file))
        state = {"epoch": epoch, "cur_step": self.cur_step, "best_valid_score": float(self.best_valid_score)}
        save_training(path, self.model, self.optimizer, state, self._generators, store_sha256=self._store_sha256)
        if verbose:
            self.logger.info(f"Saving current: {path}")

    def fit(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        """As RecBole's; after resume_checkpoint it goes on with the epoch behind the checkpoint's.

        Raises:
            CheckpointError: a checkpoint of another model, or trained over another store.
            TrainingError: a loss that is not finite.
        """
        self._generators = {"loader": train_data.generator}
        if self._resume_from is not None:
            path, self._resume_from = self._resume_from, None
            state, _ = load_training(path, self.model, self.optimizer, self._generators, self._store_sha256)
            self.start_epoch, self.cur_step = state["epoch"] + 1, state["cur_step"]
            self.best_valid_score = state["best_valid_score"]
            self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")
        return super().fit(train_data, *args, **kwargs)

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
        with torch.no_grad(), shared_items(self.model):
            return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
