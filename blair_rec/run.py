"""One run: train a variant with a seed, evaluate it, and write its folder."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import blair_rec.recbole  # noqa: F401  (repairs RecBole before anything of it is used)
from blair_rec.config import CompareConfig
from blair_rec.errors import BlairRecError, DatasetError
from blair_rec.evaluate.metrics import check_k, metric_values
from blair_rec.evaluate.results import write_result
from blair_rec.files import partial_of, put_in_place, write_text
from blair_rec.item_vectors import item_vectors
from blair_rec.plan import Run
from blair_rec.provenance import provenance
from blair_rec.recommend.checkpoint import save_weights
from blair_rec.recommend.dataset import TextSequentialDataset
from blair_rec.recommend.models import count_parameters, model_class
from blair_rec.recommend.packing import can_pack
from blair_rec.recommend.scoring import Ranks, rank
from blair_rec.recommend.sequences import training_sequences
from blair_rec.recommend.settings import recbole_config
from blair_rec.recommend.trainer import (
    Budget,
    Epoch,
    every_position,
    fit,
    recbole_batches,
    recbole_way,
    seed_everything,
)
from blair_rec.text.store import EmbeddingStore

logger = logging.getLogger("blair_rec")

TOP_K = 20
"""Items kept per test case, for coverage, popularity and examples in reports."""
RANK_ARRAYS = (
    "user",
    "item",
    "higher_unmasked",
    "equal_unmasked",
    "higher_masked",
    "equal_masked",
    "target_in_history",
    "history_length",
)


class Data:
    """The data set of a comparison, read and split once for all runs.

    Raises:
        DatasetError: it can't be read, or leaves nothing to train, validate or test on.
        ConfigError: no such model, or a metric that looks further down than there are items.
    """

    def __init__(self, config: CompareConfig, folder: Path) -> None:
        self.model_class = model_class(config.model)
        self.folder = str(folder)
        settings = {**config.recbole, "blair_ties": config.ties}
        try:
            dataset = TextSequentialDataset(recbole_config(self.model_class, self.folder, settings))
        except BlairRecError:
            raise
        except ValueError as error:  # RecBole's own, pandas', or text that is no UTF-8
            raise DatasetError(f"data set {config.dataset!r} can't be read: {error}") from error
        self.train, self.valid, self.test = dataset.build()
        sizes = {"training": len(self.train), "validation": len(self.valid), "test": len(self.test)}
        if empty := [name for name, size in sizes.items() if size == 0]:
            raise DatasetError(
                f"data set {config.dataset!r}: the split leaves no {' and no '.join(empty)} case; "
                "leave-one-out needs users with at least three events"
            )
        if self.train.tied_neighbours:
            pairs = f"{self.train.tied_neighbours:,} of {self.train.neighbours:,} neighbouring events of a user"
            how = "their order is the file's" if config.ties == "stored" else "their order was drawn by lot"
            logger.info("%s have equal times; %s", pairs, how)
        self.item_tokens: list[str] = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
        check_k(config.evaluate.metrics, len(self.item_tokens) - 1)
        self.sequences = training_sequences(self.train)
        self.item_counts = np.bincount(self.sequences.items, minlength=len(self.item_tokens))


def train_run(
    config: CompareConfig,
    run: Run,
    data: Data,
    store: tuple[EmbeddingStore, Path] | None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> float:
    """Train, evaluate and write one run; its folder appears when it is whole."""
    variant, train = config.variants[run.variant], copy.copy(data.train)
    settings = {
        **config.recbole,
        "blair_items": variant.items,
        "blair_transforms": list(variant.transforms),
        "blair_control": variant.control,
        "blair_text_fields": list(config.text_of(variant).fields) or None,
        "train_batch_size": config.train.batch_size,
        "seed": run.seed,
    }
    settings = {key: value for key, value in settings.items() if value is not None}
    if store is not None:
        text = config.text_of(variant)
        train.item_vectors = item_vectors(store[0], data.item_tokens, text.missing_text)
    recbole = recbole_config(data.model_class, data.folder, settings)
    seed_everything(run.seed)
    if config.train.loss == "recbole" or not can_pack(data.model_class):
        batches = recbole_batches(recbole, train)  # before the model, which asks the config what the loader put there
        model = data.model_class(recbole, train).to(recbole["device"])
        losses = recbole_way(model, batches)
    else:
        model = data.model_class(recbole, train).to(recbole["device"])
        width = recbole["MAX_ITEM_LIST_LENGTH"]
        losses = every_position(model, data.sequences, width, config.train.batch_size, run.seed)

    def measure(split: Any, protocol: str) -> dict[str, float]:
        return _metrics(config, rank(model, split, config.evaluate.batch_size), protocol)

    begin = time.perf_counter()
    trained = fit(
        model,
        losses,
        lambda: measure(data.valid, config.evaluate.protocol),
        config.evaluate.metrics[0],
        Budget(
            config.train.epochs,
            config.train.patience,
            config.train.eval_every,
            config.train.learning_rate,
            config.train.weight_decay,
        ),
        on_epoch=on_epoch,
    )
    seconds = time.perf_counter() - begin
    ranks = rank(model, data.test, config.evaluate.batch_size, k=TOP_K)
    valid = rank(model, data.valid, config.evaluate.batch_size)

    partial = partial_of(run.folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_weights(model, partial / "model.safetensors", run.hashes["store"])
        write_text(
            partial / "history.jsonl", "".join(json.dumps(dataclasses.asdict(e)) + "\n" for e in trained.history)
        )
        write_text(partial / "items.json", json.dumps(data.item_tokens))
        np.savez_compressed(
            partial / "topk.npz",
            unmasked=ranks.topk_unmasked.astype(np.int32),
            masked=ranks.topk_masked.astype(np.int32),
        )
        result = {
            "variant": run.variant,
            "seed": run.seed,
            "model": config.model,
            "items": variant.items,
            "control": variant.control,
            "transforms": list(variant.transforms),
            "dataset": Path(data.folder).name,
            "selection": {
                "protocol": config.evaluate.protocol,
                "metric": config.evaluate.metrics[0],
                "value": trained.best_value,
                "epoch": trained.best_epoch,
            },
            "epochs": len(trained.history),
            "train_seconds": seconds,
            "encoder": dict(store[0].encoder) if store else None,
            "store_sha256": run.hashes["store"],
            "store": os.path.relpath(store[1], run.folder) if store else None,
            "parameters": count_parameters(model),
            "tied_neighbours": data.train.tied_neighbours,
            "trials": 0,
            "hashes": dict(run.hashes),
            "setup": run.setup,
            "provenance": provenance(torch.get_num_threads()),
            "valid": {protocol: _metrics(config, valid, protocol) for protocol in ("unmasked", "masked")},
        }
        arrays = {name: getattr(ranks, name) for name in RANK_ARRAYS}
        arrays["target_count"] = data.item_counts[ranks.item]
        arrays["n_candidates"] = np.array(len(data.item_tokens) - 1)
        write_result(partial, result, arrays)
        put_in_place(run.folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return trained.best_value


def _metrics(config: CompareConfig, ranks: Ranks, protocol: str) -> dict[str, float]:
    miss = ranks.target_in_history if protocol == "masked" else None
    higher, equal = getattr(ranks, f"higher_{protocol}"), getattr(ranks, f"equal_{protocol}")
    return metric_values(config.evaluate.metrics, higher, equal, miss)
