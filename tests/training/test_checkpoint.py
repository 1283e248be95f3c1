"""A checkpoint names the settings of its training, and no training with other settings resumes from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_trainer import SMALL, Interrupted, built, train_config

from blair_rec.border.settings import recbole_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import CheckpointError
from blair_rec.models.text_models import model_class
from blair_rec.training.checkpoint import STATE, save_weights, settings_of
from blair_rec.training.epochs import recbole_batches, seed_everything
from blair_rec.training.loop import fit
from blair_rec.training.trainer import TextTrainer

torch.set_num_threads(1)


def trainer_of(tiny: Path, **given: Any) -> tuple[TextTrainer, Any]:
    """RecBole's trainer of a small SASRec, and its batches."""
    cls = model_class("SASRec")
    common = {**SMALL, "seed": 1, "train_batch_size": 128, "epochs": 3, "stopping_step": 99, "valid_metric": "NDCG@10"}
    config = recbole_config(cls, str(tiny), {**common, **given})
    split, _, _ = TextSequentialDataset(config).build()
    seed_everything(1)
    loader = recbole_batches(config, split)
    return TextTrainer(config, cls(config, split)), loader


def interrupted(tiny: Path, **given: Any) -> Path:
    """The checkpoint of a training that was killed after its first epoch."""
    trainer, loader = trainer_of(tiny, **given)
    save = trainer._save_checkpoint

    def save_and_stop(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        raise Interrupted

    trainer._save_checkpoint = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        trainer.fit(loader, saved=True, verbose=False)
    return Path(trainer.saved_model_file)


def resumed(tiny: Path, checkpoint: Path, **given: Any) -> TextTrainer:
    trainer, loader = trainer_of(tiny, **given)
    trainer.resume_checkpoint(checkpoint)
    trainer.fit(loader, saved=False, verbose=False)
    return trainer


NEGATIVES = {"blair_loss": "bpr", "blair_negatives": 9}


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"learner": "adamw"}, r"learner: 'adam' -> 'adamw'"),
        ({}, {"learner": "sgd"}, r"learner: 'adam' -> 'sgd'"),
        ({"learner": "adagrad"}, {}, r"learner: 'adagrad' -> 'adam'"),
        ({}, {"weight_decay": 0.1}, r"weight_decay: 0.0 -> 0.1"),
        ({}, {"learning_rate": 0.1}, r"learning_rate: 0.001 -> 0.1"),
        ({}, {"train_batch_size": 64}, r"train_batch_size: 128 -> 64"),
        ({}, {"blair_loss": "recbole"}, r"blair_loss: 'full_softmax' -> 'recbole'"),
        (NEGATIVES, {**NEGATIVES, "blair_negatives": 8}, r"blair_negatives: 9 -> 8"),
        ({}, {"blair_temperature": 0.2}, r"blair_temperature: None -> 0.2"),
        ({}, {"blair_precision": "bfloat16"}, r"blair_precision: 'float32' -> 'bfloat16'"),
        ({}, {"blair_stride": 2}, r"blair_stride: None -> 2"),
        ({}, {"blair_warmup_steps": 2}, r"blair_warmup_steps: 0 -> 2"),
        ({"blair_schedule": "cosine"}, {"blair_schedule": "cosine", "epochs": 4}, r"epochs: 3 -> 4"),
        ({}, {"hidden_dropout_prob": 0.1}, r"hidden_dropout_prob: 0.5 -> 0.1"),
        ({}, {"hidden_size": 16}, r"hidden_size: 8 -> 16"),
        ({}, {"seed": 2}, r"seed: 1 -> 2"),
        ({}, {"valid_metric": "Recall@10"}, r"valid_metric: 'NDCG@10' -> 'Recall@10'"),
        (
            {"blair_loss": "recbole"},
            {"blair_loss": "recbole", "clip_grad_norm": {"max_norm": 5}},
            r"clip_grad_norm: None -> {'max_norm': 5}",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_recboles_resume_refuses_a_checkpoint_of_other_settings(
    tiny: Path, before: dict[str, Any], now: dict[str, Any], said: str
) -> None:
    checkpoint = interrupted(tiny, **before)
    with pytest.raises(CheckpointError, match=rf"{checkpoint} is .* used different settings \({said}\); restore these"):
        resumed(tiny, checkpoint, **now)


def test_recboles_resume_refuses_a_checkpoint_of_other_events(tiny: Path) -> None:
    checkpoint = interrupted(tiny)
    events = tiny / "tiny.inter"
    lines = events.read_text(encoding="utf-8").splitlines(keepends=True)
    events.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"used different settings \(training events: "):
        resumed(tiny, checkpoint)


def test_recboles_resume_may_train_longer_elsewhere_and_measure_more(tiny: Path) -> None:
    moved = Path(shutil.copytree(tiny, tiny.parent / "moved" / "tiny"))
    more = {"epochs": 5, "stopping_step": 3, "eval_step": 2, "topk": [5, 10], "metrics": ["NDCG", "Recall"]}
    more |= {"eval_batch_size": 7, "checkpoint_dir": "other", "show_progress": False, "state": "ERROR", "worker": 0}
    ours = resumed(moved, interrupted(tiny), **more).model.state_dict()
    whole, loader = trainer_of(tiny, epochs=5)
    whole.fit(loader, saved=False, verbose=False)
    assert all(torch.equal(value, ours[name]) for name, value in whole.model.state_dict().items())


def test_a_default_that_is_written_out_is_the_same_setting(tiny: Path) -> None:
    resumed(tiny, interrupted(tiny), blair_precision="float32", blair_items="id", learner="adam", blair_split=None)


@pytest.mark.parametrize("changed", [{"learning_rate": 0.02}, {"weight_decay": 0.1}, {"batch_size": 64}])
def test_our_loop_refuses_a_checkpoint_of_other_settings(tiny: Path, changed: dict[str, Any]) -> None:
    def go(until: int | None, **settings: Any) -> None:
        train = train_config(**settings)
        model, steps, _ = built(tiny, train)
        fit(model, steps, lambda: {"m": 0.0}, "m", train, checkpoint=Path("x.safetensors"), until=until)

    go(1)
    (name,) = changed
    with pytest.raises(CheckpointError, match=rf"x.safetensors is .* used different settings \(train.{name}: "):
        go(None, **changed)
    go(None)


def test_a_checkpoint_without_settings_or_state_is_an_error(tiny: Path) -> None:
    checkpoint = interrupted(tiny)
    assert settings_of(checkpoint)["learner"] == "adam"
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    state = json.loads(metadata[STATE])
    del state["settings"]
    save_file(load_file(checkpoint), checkpoint, metadata={**metadata, STATE: json.dumps(state)})
    with pytest.raises(CheckpointError, match="is of an earlier version, which did not record the settings; delete"):
        resumed(tiny, checkpoint)
    save_weights(trainer_of(tiny)[0].model, checkpoint, None)
    with pytest.raises(CheckpointError, match="holds only weights, not the training state to resume from; delete"):
        resumed(tiny, checkpoint)
