"""trials.jsonl: the finished trials of a tuning, one per line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blair_rec.errors import ConfigError
from blair_rec.experiment.tuning.search_space import Settings
from blair_rec.files.writing import write_text

SCHEMA = 1
"""Version of the lines of trials.jsonl."""
TRIALS_FILE = "trials.jsonl"


@dataclass(frozen=True)
class Trial:
    """One configuration of one variant, trained up to a rung: a line of trials.jsonl."""

    variant: str
    number: int
    """From 1, in the order in which they are drawn."""
    settings: Settings
    epochs: int
    """The last epoch, unless patience stopped training earlier."""
    value: float
    """The best validation result, for the metric and protocol that select."""
    best_epoch: int
    seconds: float
    setup: str
    """Hash of the configuration; different hashes count as different trials."""
    key: str
    """Hash of configuration, data, text vectors and code; `value` is valid as long as it is the same."""


def write_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Replace the file by these trials."""
    lines = ({"schema": SCHEMA, **dataclasses.asdict(trial)} for trial in trials)
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_trials(path: Path) -> list[Trial]:
    """Read the trials of earlier sessions; empty without the file.

    Raises:
        ConfigError: a line is not a trial.
    """
    lines = path.read_bytes().rstrip().split(b"\n") if path.is_file() else []
    trials = []
    for number, line in enumerate(lines if lines != [b""] else [], start=1):
        try:
            content = dict(json.loads(line))
            if content.pop("schema", SCHEMA) != SCHEMA:  # earlier versions wrote none
                raise ValueError("another version of blair_rec wrote it")
            trials.append(_checked(Trial(**content)))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number} is not a trial ({error}); delete the line to repeat it") from None
    return trials


def _checked(trial: Trial) -> Trial:
    """The trial; raises ValueError for a value of another type, or a number that is not finite."""
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "Settings": dict}
    for one in dataclasses.fields(Trial):
        value = getattr(trial, one.name)
        finite = not isinstance(value, float) or math.isfinite(value)
        if isinstance(value, bool) or not isinstance(value, kinds[str(one.type)]) or not finite:
            raise ValueError(f"{one.name} is {value!r}")
    return trial
