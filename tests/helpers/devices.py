"""Two places to compute on: one that gives away every tensor without a device, on any machine, and a real GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import built, vectors_for, write_log

from blair_rec.config.sections import TrainConfig
from blair_rec.config.variant import VariantConfig
from blair_rec.data.dataset import ItemVectors, TextSequentialDataset
from blair_rec.data.sequences import training_sequences
from blair_rec.models.text_models import model_class
from blair_rec.ranking.scorers import Counted, build_baseline
from blair_rec.training.epochs import build_training

HAS_GPU = torch.cuda.is_available()
NEEDS_GPU = pytest.mark.skipif(not HAS_GPU, reason="torch finds no GPU here")
PLACES = ["meta", pytest.param("cuda:0", marks=NEEDS_GPU)]
"""meta: all data is on the CPU, and a tensor that is created without a device is on meta, where its first arithmetic
with any other tensor fails; cuda:0: the real thing."""
ITEMS, USERS = 40, 30


def device_of(place: str) -> str:
    """Where a model is in this place."""
    return "cpu" if place == "meta" else place


@contextmanager
def working_in(place: str) -> Iterator[None]:
    """Within this block a tensor without a device has none that fits, or, on a GPU, torch's usual one."""
    with torch.device("meta") if place == "meta" else nullcontext():
        yield


def write_world(folder: Path) -> Path:
    """A log of which every model can learn something, as each user has a step of their own, and the items' features."""
    events = [
        (f"u{user}", f"i{(user + time * (1 + user % 3)) % ITEMS}", 10 * time + user % 7)
        for user in range(USERS)
        for time in range(4 + user % 6)
    ]
    write_log(folder, events)
    rows = ["item_id:token\tkind:token\ttitle:token_seq", *(f"i{i}\tk{i % 4}\ta title of {i}" for i in range(ITEMS))]
    (folder / f"{folder.name}.item").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


class World:
    """A data set and a model of it, ready to be trained on a device."""

    def __init__(
        self,
        folder: Path,
        device: str,
        variant: dict[str, Any] | None = None,
        train: dict[str, Any] | None = None,
        model: str = "SASRec",
        **settings: Any,
    ) -> None:
        said = VariantConfig(**{"items": "id", **(variant or {})})
        self.train = TrainConfig(**{"epochs": 2, "batch_size": 32, "learning_rate": 0.01, **(train or {})})
        keys = {"blair_items": said.items, "blair_fusion": said.fusion, "blair_transforms": list(said.transforms)}
        keys |= {"blair_temperature": self.train.temperature, "blair_text_fields": ["title"] * said.uses_text}
        given = {key: value for key, value in keys.items() if value}
        self.config, self.splits = built(
            TextSequentialDataset,
            folder,
            model_class(model),
            **{**given, "device": device, "train_batch_size": self.train.batch_size, **settings},
        )
        for split in self.splits:
            split.item_vectors = vectors_for(split.item_num)
        self.sequences = training_sequences(self.splits[0])
        self.model, self.steps = build_training(
            model_class(model), self.config, self.splits[0], self.sequences, self.train, seed=3
        )

    @property
    def vectors(self) -> ItemVectors:
        """The vectors of the items' text."""
        vectors: ItemVectors = self.splits[0].item_vectors
        return vectors

    def scorer(self, name: str) -> Any:
        """Build a training-free scorer on the same device."""
        setup = {"scorer": name, "transforms": ["center"], "control": None, "seed": 1}
        baseline = build_baseline(setup, self.config, self.splits[0].item_num, self.vectors)
        if isinstance(baseline, Counted):
            baseline.count(self.sequences)
        return baseline


WITHOUT_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}
"""Two devices drop out other numbers."""
