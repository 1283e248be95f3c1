"""Train or count one finished run again on the whole log, for as many epochs as validation chose."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blair_rec.border.settings import CHANGE_SETTINGS, recbole_errors
from blair_rec.config.comparison import CompareConfig
from blair_rec.config.section import to_dict
from blair_rec.config.sections import TrainConfig
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.sequences import training_sequences
from blair_rec.data.whole import whole_log
from blair_rec.evaluate.runs.run_files import EpochRecord
from blair_rec.experiment.fit import build_model, counted_baseline
from blair_rec.experiment.loading import text_vectors
from blair_rec.experiment.splits.reading import TrainingData
from blair_rec.models.scorer import Scorer
from blair_rec.training.checkpoint import load_training, save_training
from blair_rec.training.epochs import EpochSteps
from blair_rec.training.loop import make_optimizer, run_epoch
from blair_rec.training.optimizer import LearningRate


class FittedAgain(NamedTuple):
    """The model of a run, trained or counted again on the whole log."""

    model: Scorer
    history: tuple[EpochRecord, ...]
    """One record for each epoch; empty if nothing is trained."""
    store: Path | None
    """The store of the items' text vectors; None if the run uses no text."""


def whole_data(data: TrainingData, test: TextSequentialDataset) -> TrainingData:
    """Return the same data, with the cases of all three splits for training."""
    whole = whole_log([data.train, data.valid, test])
    sequences = training_sequences(whole)
    counts = np.bincount(sequences.items, minlength=len(data.item_tokens))
    return dataclasses.replace(data, train=whole, sequences=sequences, item_counts=counts)


def fit_again(
    config: CompareConfig,
    run_dir: Path,
    result: Mapping[str, Any],
    data: TrainingData,
    store: str | Path | None,
    checkpoint: Path,
    progress: Callable[[str, int, int], None],
) -> FittedAgain:
    """Train or count a finished run's model again, on `data`. An existing `checkpoint` is resumed.

    Args:
        result: the run's result.json; the run is not an average.
        store: the store of its text vectors, if it was moved after the run.

    Raises:
        CheckpointError, StoreError, MissingEmbeddings, TextlessItems: the text vectors don't cover the items.
        TrainingError: a loss that is not finite.
    """
    setup, variant = result["setup"], config.variants[result["variant"]]
    opened, vectors = text_vectors(run_dir, result, data.item_tokens, store)
    path = None if opened is None else opened.path
    if setup["scorer"] is not None:
        return FittedAgain(counted_baseline(config, setup, data, vectors), (), path)
    _, model, steps = build_model(config, variant, setup, data, vectors)
    epochs = (result["selection"] or {}).get("epoch", 0)
    with recbole_errors(f"train {setup['model']} again", CHANGE_SETTINGS):
        history = train_for(
            model,
            steps,
            config.train_of(variant),
            epochs,
            checkpoint,
            lambda done, total: progress(run_dir.name, done, total),
        )
    return FittedAgain(model, history, path)


def train_for(
    model: Any,
    steps: EpochSteps,
    train: TrainConfig,
    epochs: int,
    checkpoint: Path,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[EpochRecord, ...]:
    """Train for `epochs` epochs and keep the last weights. A `checkpoint` is written after each epoch.

    The learning rate is scheduled over all of `train.epochs`, even if `epochs` is smaller: validation chose the number
    of epochs with that schedule.

    Raises:
        TrainingError: a loss that is not finite. CheckpointError: a checkpoint of other settings or of another model.
    """
    optimizer = make_optimizer(model, train)
    rate = LearningRate(optimizer, train.learning_rate, train.warmup_steps, train.schedule, train.epochs * len(steps))
    history: list[EpochRecord] = []
    settings = {"train": to_dict(train)}
    if checkpoint.is_file():
        state, _ = load_training(checkpoint, model, optimizer, steps.generators, settings)
        history = [EpochRecord(**epoch) for epoch in state["history"]]
        rate.go_on_from(state["steps"])
    total = epochs * len(steps)
    for epoch in range(len(history) + 1, epochs + 1):
        begin, before = time.perf_counter(), rate.steps

        def tell(done: int, loss: float, before: int = before) -> None:
            on_step(min(before + done, total), total)

        loss = run_epoch(model, optimizer, steps(epoch), tell)
        history.append(EpochRecord(epoch, loss, time.perf_counter() - begin, 0.0, None))
        state = {"history": [dataclasses.asdict(line) for line in history], "steps": rate.steps}
        save_training(checkpoint, model, optimizer, state, steps.generators, settings)
    model.eval()
    return tuple(history)
