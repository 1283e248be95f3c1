"""Checkpoints of a pre-training: the one to resume from, which has to be whole and of the same training."""

from __future__ import annotations

import json
import shutil
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from blair_rec.device import process_count, process_rank
from blair_rec.errors import OutputError, PretrainingError
from blair_rec.files.writing import write_text
from blair_rec.pretrain.trainer import WEIGHTS, WHOLE

MARK = "identity.json"
"""File next to the checkpoints that holds the settings of their training."""
IN_WORDS = {"pairs_sha256": "the pairs", "start_files": "the encoder's files"}
"""Names for a message, of what identifies a training besides its settings."""
PARTS = (WEIGHTS, "optimizer.pt", "scheduler.pt", "trainer_state.json")
"""Files of a whole checkpoint. Hugging Face's Trainer begins silently with new ones if some are missing."""


def is_first() -> bool:
    """Return whether this is the only process, or the first one of torchrun."""
    return process_rank() == 0


def last_checkpoint(work: Path, identity: Mapping[str, Any], fresh: bool) -> Path | None:
    """Return the last complete checkpoint of the same training; None if the training begins again.

    The first process removes incomplete checkpoints, with `fresh` all of them, and records the identity.

    Args:
        identity: all settings that the weights depend on.

    Raises:
        PretrainingError: the checkpoints are of another training, or the last one is damaged.
    """
    settings = dict(identity)
    if (processes := process_count()) > 1:
        settings["processes"] = processes  # a step has the pairs of all of them
    whole = [] if fresh else _whole(work)
    if is_first():
        for folder in {*work.glob("checkpoint-*")} - {*whole}:
            shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(settings, indent=1, sort_keys=True)
    if whole:
        _refuse_other_settings(work, json.loads(text))
    if is_first():
        write_text(work / MARK, text)
    if not whole:
        return None
    _refuse_damaged(whole[-1], processes)
    return whole[-1]


def step_of(checkpoint: Path) -> int:
    """Return the number of steps that were done when the checkpoint was saved."""
    return int(checkpoint.name.partition("-")[2])


def stopped(step: int, work: Path) -> str:
    """Return what a training that was interrupted after this step has kept."""
    if not (whole := _whole(work)):
        return f"stopped after step {step}, before the first checkpoint; the same command starts again (see save_steps)"
    kept = step_of(whole[-1])
    return f"stopped after step {step}; the same command goes on after step {kept}, whose checkpoint is kept"


def _whole(work: Path) -> list[Path]:
    """The complete checkpoints, from the first to the last."""
    named = [folder for folder in work.glob("checkpoint-*") if folder.name.partition("-")[2].isdecimal()]
    return sorted((folder for folder in named if (folder / WHOLE).is_file()), key=step_of)


def _refuse_other_settings(work: Path, now: Mapping[str, Any]) -> None:
    try:
        known = json.loads((work / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if not isinstance(known, dict):
        raise PretrainingError(
            f"{work / MARK} is missing or damaged, so the settings of the checkpoints there are unknown; train again "
            "with --fresh"
        )
    if changed := changed_names(known, now):
        raise PretrainingError(
            f"{work} holds checkpoints of a training that used different settings ({', '.join(changed)}); "
            "restore these settings, or train again with --fresh"
        )


def changed_names(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs between the identities of two trainings, for a message."""
    return [IN_WORDS.get(name, name) for name in {**before, **now} if before.get(name) != now.get(name)]


def _refuse_damaged(folder: Path, processes: int) -> None:
    random_states = [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]
    for name in (*PARTS, *random_states):
        if problem := _problem(folder / name):
            raise PretrainingError(
                f"{folder} is damaged: {name} {problem}; delete this folder to resume from the checkpoint before it, "
                "or train again with --fresh"
            )


def _problem(path: Path) -> str | None:
    """Return what is wrong with a file of a checkpoint; PyTorch's own files are zip files."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return None
        else:
            with zipfile.ZipFile(path) as archive:
                return "has wrong bytes" if archive.testzip() else None
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, EOFError, NotImplementedError, SafetensorError, zipfile.BadZipFile) as error:
        return f"can't be read ({error})"
    return None


@contextmanager
def room_for_checkpoints(work: Path) -> Iterator[None]:
    """Turn the errors of a checkpoint that can't be written into OutputError; PyTorch has no class of its own for them.

    Raises:
        OutputError: a checkpoint can't be written, for instance because the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if all(frame.name != "_save_checkpoint" for frame in traceback.extract_tb(error.__traceback__)):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutputError(
            f"a checkpoint can't be written into {work} ({reason}); free some space, then run the same command again: "
            "it resumes"
        ) from error
