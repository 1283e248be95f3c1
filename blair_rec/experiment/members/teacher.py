"""Make the lists that a student learns from its teacher's finished run, and record the teacher in the student's run."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blair_rec.config.comparison import CompareConfig
from blair_rec.errors import ConfigError
from blair_rec.evaluate.runs.recorded import hash_of
from blair_rec.evaluate.runs.results import load_run
from blair_rec.experiment.fit import Fitted
from blair_rec.experiment.loading import load_model
from blair_rec.experiment.planning.plan import Run, made_of, run_setup
from blair_rec.experiment.planning.teachers import finished_teachers
from blair_rec.experiment.splits.reading import TrainingData
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.teacher import taught_lists
from blair_rec.training.distillation import TaughtLists, Teaching

logger = logging.getLogger("blair_rec")

LISTS = ".lists.safetensors"
"""The end of the name of a file with lists, next to the checkpoint of the student that learns from them."""


def teaching(
    config: CompareConfig, setup: Mapping[str, Any], folder: Path, data: TrainingData, checkpoint: Path | None
) -> Teaching:
    """Return the lists of the teacher whose finished run is in `folder`, and how a student learns from them.

    Args:
        setup: the set-up of the student's run.
        checkpoint: the student's checkpoint; the lists are kept next to it, so that training resumes bit for bit.

    Raises:
        BadRun, CheckpointError: the teacher's run is damaged. ConfigError: the teacher can't teach.
    """
    said, lists = setup["distill"], None
    kept = None if checkpoint is None else checkpoint.with_suffix(LISTS)
    if kept is not None and kept.is_file():
        n_items = len(data.item_tokens)
        lists = TaughtLists.load(kept, (data.sequences.n_targets, min(said["items"], n_items - 1)), n_items)
        if lists is None:
            logger.warning("%s is damaged, so the lists of %s are made again", kept, folder.name)
    if lists is None:
        begin = time.perf_counter()
        loaded = load_model(folder, dataset=data.train, device=config.computed_on)
        teacher = loaded.model if isinstance(loaded.model, Ensemble) else Ensemble([loaded.model])
        masked = config.evaluate.protocol == "masked"
        lists = taught_lists(teacher, data.sequences, loaded.width, masked, said["items"])
        logger.info(
            "%s: lists for %d training positions in %.0f s, NDCG@10 %.4f there",
            folder.name,
            len(lists.items),
            time.perf_counter() - begin,
            lists.ndcg,
        )
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            lists.save(kept)
    return Teaching(lists, said["weight"], said["temperature"])


def finished_teacher(config: CompareConfig, student: str, seed: int, comparison: Path, data: str) -> Path:
    """Return the folder of the finished run of a student's teacher in another comparison.

    Args:
        data: the hash of the data set.

    Raises:
        ConfigError: it is not finished, or what it is made of has other settings or data than `config` says.
        BadRun: it, or what it is made of, is damaged.
    """
    runs = finished_teachers(config, student, seed, comparison, data)
    for result in runs:
        if result.hashes["config"] != hash_of(run_setup(config, result.variant, result.seed)):
            raise ConfigError(
                f"{student} learns from {config.variants[student].distill}, and {result.folder} has other settings "
                "than this config; compare the teacher with the tuned config first"
            )
    return runs[0].folder


def as_student(config: CompareConfig, run: Run, fitted: Fitted, taught: Teaching, seconds: float) -> Fitted:
    """Return the fitted student with the costs of its teacher added, and with notes and facts about the teacher.

    Args:
        seconds: the time that making the lists took.
    """
    (folder,) = made_of(run.folder, run.setup)
    teacher, name = load_run(folder), run.setup["distill"]["teacher"]
    behind = dict.fromkeys([name, *config.behind(name)])
    texts = [one for one in behind if config.variants[one].uses_text]
    trained = [one for one in behind if config.variants[one].is_trained]
    return dataclasses.replace(
        fitted,
        seconds=fitted.seconds + seconds + teacher.train_seconds,
        trials=fitted.trials + teacher.trials,
        notes=[*fitted.notes, *_notes(name, texts, trained, config.variants[run.variant].uses_text)],
        teacher={
            **run.setup["distill"],
            "positions": len(taught.lists.items),
            "ndcg_at_positions": taught.lists.ndcg,
            "uses_text": texts,
            "trained": trained,
            "seconds_for_lists": seconds,
        },
    )


def _notes(teacher: str, texts: list[str], trained: list[str], own_text: bool) -> list[str]:
    """Notes for readers of the board."""
    named, of_teacher = f"learned the ranking of {teacher}", [one for one in trained if one != teacher]
    if texts:
        through = "" if texts == [teacher] else f" ({', '.join(texts)})"
        named += f", which uses text{through}"
        named += "" if own_text else "; so it is no model without text"
    else:
        named += ", which uses no text"
    notes = [named]
    if trained:
        whose = f"{', '.join(of_teacher)} of its teacher" if of_teacher else "its teacher"
        verb = "were" if len(of_teacher) > 1 else "was"
        notes.append(f"{whose} {verb} trained on the positions that the lists are for")
    return notes
