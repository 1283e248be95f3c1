"""The settings that a comparison passes to RecBole, except those that one of our own sections decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from blair_rec.config.section import FieldProblem, KeysAndValues, to_dict
from blair_rec.config.yaml.files import shown

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
"""RecBole keys that one of our sections decides, with the key to use instead."""

WITHOUT_EFFECT = (
    "clip_grad_norm",
    "enable_amp",
    "enable_scaler",
    "nproc",
    "save_dataset",
    "save_dataloaders",
    "worker",
)
"""RecBole keys that its own trainer and quick start read, but a comparison doesn't."""


def _handed_on(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse keys that one of our sections decides, and values that no config file can hold."""
    problems = []
    for key, value in settings.items():
        if key in OWNED_BY or key.startswith("blair_"):
            owner = OWNED_BY.get(key, "the other sections of this file")
            problems.append(f".{key} belongs to {owner}; set it only there")
        if key in WITHOUT_EFFECT:
            problems.append(f".{key} has no effect in a comparison; leave it out")
        try:
            json.dumps(to_dict(value))
        except (TypeError, ValueError) as error:
            problems.append(f".{key} is {shown(value)}, which can't be passed to RecBole ({error})")
    if problems:
        raise FieldProblem(problems)
    return settings


_KEYS = {"not": {"anyOf": [{"enum": [*OWNED_BY, *WITHOUT_EFFECT]}, {"pattern": "^blair_"}]}}
RecBoleSettings = Annotated[
    KeysAndValues, AfterValidator(_handed_on), WithJsonSchema({"type": ["object", "null"], "propertyNames": _KEYS})
]
