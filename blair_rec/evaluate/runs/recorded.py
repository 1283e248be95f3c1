"""Read the result.json of a run or a refit, to use it. The types and the hash of the set-up are checked here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blair_rec.config.names import ControlName, ProtocolName
from blair_rec.errors import BadRun
from blair_rec.evaluate.runs.checks import typed
from blair_rec.evaluate.runs.encoder_used import EncoderUsed
from blair_rec.evaluate.runs.run_files import RESULT_FILE, SCHEMA, Parameters, Selection, read_json


@dataclass(frozen=True)
class StageUsed:
    """The keys of a second stage that recommending with it needs."""

    candidates: int
    trees_sha256: str
    features: list[list[str]]


@dataclass(frozen=True)
class TeacherUsed:
    """The keys of a student's teacher that readers use."""

    teacher: str
    uses_text: list[str]


@dataclass(frozen=True)
class Source:
    """The keys of a run that a refit was made from, which readers use."""

    run: str


@dataclass(frozen=True)
class Recorded:
    """The keys of result.json that users of a run or of a refit read. Other keys are ignored."""

    variant: str
    seed: int
    model: str
    items: str
    control: ControlName | None
    transforms: list[str]
    dataset: str
    selection: Selection | None
    epochs: int
    train_seconds: float
    wall_seconds: float
    encoder: EncoderUsed | None
    store: str | None
    """The path of the store, relative to the run's folder."""
    store_sha256: str | None
    parameters: Parameters
    weights: dict[str, float]
    """The weights of an average, by member."""
    hashes: dict[str, str | None]
    setup: dict[str, Any]
    """The set-up (plan.run_setup), whose hash is "config" in `hashes`."""
    notes: list[str]
    rerank: StageUsed | None = None
    distill: TeacherUsed | None = None
    valid: dict[ProtocolName, dict[str, float]] = field(default_factory=dict)
    refit: bool = False
    trained_on: str = ""
    events: int = 0
    source: list[Source] = field(default_factory=list)


def read_recorded(folder: Path) -> dict[str, Any]:
    """Read the result.json of a run or a refit; its values have the types of `Recorded`. Raises BadRun."""
    raw = read_json(folder, RESULT_FILE)
    if not isinstance(raw, Mapping):
        raise BadRun(folder, RESULT_FILE, f"contains a {type(raw).__name__}, expected an object")
    if (found := raw.get("schema")) != SCHEMA:
        raise BadRun(folder, RESULT_FILE, f"has schema {found!r}, but this version of blair_rec reads {SCHEMA}")
    try:
        typed(Recorded, raw, "")
    except ValueError as error:
        raise BadRun(folder, RESULT_FILE, str(error)) from error
    setup = raw["setup"]
    before = {key: value for key, value in setup.items() if key != "refit"}  # a refit of one run keeps its run's hash
    if raw["hashes"].get("config") not in (hash_of(setup), hash_of(before)):
        raise BadRun(folder, RESULT_FILE, "setup is not the one that was written: its hash is not hashes.config")
    return dict(raw)


def hash_of(content: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
