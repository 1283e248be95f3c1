"""The settings that a comparison hands on to RecBole, without those that a section of its own decides on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from blair_rec.config.section import FieldProblem, KeysAndValues, to_dict

OWNED_BY = {
    "dataset": "dataset",
    "data_path": "dataset (a folder of atomic files)",
    "model": "model",
    "seed": "seeds",
    "reproducibility": "seeds",
    "epochs": "train.epochs",
    "stopping_step": "train.patience",
    "eval_step": "train.eval_every",
    "learning_rate": "train.learning_rate",
    "weight_decay": "train.weight_decay",
    "train_batch_size": "train.batch_size",
    "learner": "train (Adam)",
    "metrics": "evaluate.metrics",
    "topk": "evaluate.metrics",
    "valid_metric": "evaluate.metrics (the first one)",
    "eval_batch_size": "evaluate.batch_size",
    "checkpoint_dir": "the output folder (-o)",
    "device": "device",
}
"""RecBole keys that a typed section decides on, and where."""

WITHOUT_EFFECT = (
    "clip_grad_norm",
    "enable_amp",
    "enable_scaler",
    "nproc",
    "save_dataset",
    "save_dataloaders",
    "worker",
)
"""RecBole keys that its own trainer and quick start read, and a comparison doesn't."""


def _handed_on(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """RecBole's settings, without keys that a typed section decides on, and values that no config file could hold."""
    problems = []
    for key, value in settings.items():
        if key in OWNED_BY or key.startswith("blair_"):
            owner = OWNED_BY.get(key, "the typed sections")
            problems.append(f".{key} belongs to {owner}; set it there, so that one place decides")
        if key in WITHOUT_EFFECT:
            problems.append(f".{key} has no effect in a comparison; leave it out")
        try:
            json.dumps(to_dict(value))
        except (TypeError, ValueError) as error:
            problems.append(f".{key} is {value!r}, which can't be handed on ({error})")
    if problems:
        raise FieldProblem(problems)
    return settings


RecBoleSettings = Annotated[KeysAndValues, AfterValidator(_handed_on)]
