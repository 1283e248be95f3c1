"""Comparisons that train quickly, on a copy of the tiny data set, with a tiny encoder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from blair_rec.config.comparison import CompareConfig, read_config
from blair_rec.experiment.listener import Job, Listener

REPOSITORY = Path(__file__).resolve().parents[2]
VARIANTS = {
    "id": {"items": "id"},
    "text": {"items": "text", "transforms": ["whiten"]},
    "text_init": {"items": "text_init", "transforms": ["center"]},
    "shuffled": {"items": "text", "transforms": ["whiten"], "control": "shuffle"},
}


def tiny_at(folder: Path) -> Path:
    """A copy of datasets/tiny that a test may change, in folder/tiny."""
    return Path(shutil.copytree(REPOSITORY / "datasets" / "tiny", folder / "tiny"))


def raw_config(dataset: Path, encoder: str | Path, **sections: Any) -> dict[str, Any]:
    """The content of a comparison file; `sections` replace whole sections."""
    return {
        "dataset": str(dataset),
        "text": {"fields": ["title"], "encoder": str(encoder), "pooling": "cls"},
        "recbole": {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 10},
        "train": {"epochs": 2, "learning_rate": 0.01},
        "variants": VARIANTS,
        "seeds": [1, 2],
        **sections,
    }


def config_of(dataset: Path, encoder: str | Path, **sections: Any) -> CompareConfig:
    """The content of `raw_config` as a config."""
    return read_config(raw_config(dataset, encoder, **sections))


def write_config(path: Path, dataset: Path, encoder: str | Path, **sections: Any) -> Path:
    """The content of `raw_config` as a file."""
    path.write_text(yaml.safe_dump(raw_config(dataset, encoder, **sections), sort_keys=False), encoding="utf-8")
    return path


class Recorder(Listener):
    """Records the encoders that were used and the runs that were trained."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.started_runs: list[str] = []
        self.finished_runs: list[str] = []
        self.epochs = 0

    def encoding(self, encoder: str, done: int, total: int) -> None:
        if done == total:
            self.encoded.append(encoder)

    def started(self, job: Job) -> None:
        self.started_runs.append(job.name)

    def epoch(self, job: Job, epoch: Any) -> None:
        self.epochs += 1

    def finished(self, job: Job, value: float, seconds: float, settings: str = "") -> None:
        self.finished_runs.append(job.name)


class InterruptedIn(Recorder):
    """Raises KeyboardInterrupt in the given epoch, counted over all runs."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.stop = epoch

    def epoch(self, job: Job, epoch: Any) -> None:
        super().epoch(job, epoch)
        if self.epochs == self.stop:
            raise KeyboardInterrupt


def end_with_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the trainings that follow end with other weights than the same trainings before."""
    from blair_rec.experiment import fit

    original = fit.fit

    def changed(model: Any, *arguments: Any, **named: Any) -> Any:
        trained = original(model, *arguments, **named)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        return trained

    monkeypatch.setattr(fit, "fit", changed)
