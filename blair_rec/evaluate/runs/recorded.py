"""The result.json of a run or a refit: its keys, their types, and the hash of its set-up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from blair_rec.config.names import ControlName, ProtocolName
from blair_rec.errors import BadRun, RefitRun
from blair_rec.evaluate.runs.checks import typed
from blair_rec.evaluate.runs.encoder_used import EncoderUsed
from blair_rec.evaluate.runs.run_files import RESULT_FILE, read_json

Keys = TypeVar("Keys", bound="RunKeys")
SCHEMA = 1


@dataclass(frozen=True)
class Selection:
    """The validation result that selected the weights."""

    protocol: ProtocolName
    metric: str
    value: float
    epoch: int


@dataclass(frozen=True)
class Parameters:
    """Numbers of scalar parameters of the model."""

    trained: int
    frozen: int


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
class RunKeys:
    """The keys of result.json (plus "schema") that both runs and refits have. Keys that no class lists are ignored."""

    variant: str
    seed: int
    model: str
    """RecBole's name, such as "SASRec"."""
    items: str
    """The item side: "id", "text_init", ..."""
    control: ControlName | None
    transforms: list[str]
    dataset: str
    selection: Selection | None
    """None if nothing was trained, so nothing was selected."""
    epochs: int
    """Number of epochs that ran, including those after the best."""
    train_seconds: float
    wall_seconds: float
    """Time of the whole run: training, scoring and writing."""
    encoder: EncoderUsed | None
    """None for a variant without text."""
    store_sha256: str | None
    parameters: Parameters
    hashes: dict[str, str | None]
    """Hashes of "config", "data", "store" and "code". A run stays valid while they match, or its code is accepted."""
    notes: list[str]
    """Notes for readers: what checks of data, text and settings found."""


@dataclass(frozen=True)
class Result(RunKeys):
    """The keys of a run that is ranked. Runs of early versions lack those with a default."""

    peak_memory_mb: int | None
    """Peak memory of the process so far; None if the system doesn't report it."""
    trials: int
    """Number of configurations that were tried before this one was chosen."""
    test_evaluations: int
    """How often this variant and seed were evaluated on the test split in this folder, also with other settings."""
    provenance: dict[str, str | int | None]
    """Versions, commit, machine."""
    valid: dict[ProtocolName, dict[str, float]]
    """Metrics on the validation split."""
    seedless: bool = field(default=False, kw_only=True)
    """Whether it doesn't depend on the seed, so that it is valid for every seed."""
    elsewhere: bool = field(default=False, kw_only=True)
    """Whether another system made its scores, or a member's. Then parameters and costs are unknown."""
    depth: dict[ProtocolName, int] = field(default_factory=dict, kw_only=True)
    """The largest cutoff that can be measured on lists of another system; empty if all items have scores."""
    accepted_code: dict[str, str] = field(default_factory=dict, kw_only=True)
    """By hash of the code that the run was accepted for: what changed, in words."""
    setup: dict[str, Any] | None = field(default=None, kw_only=True)
    """The part of the config that its numbers depend on; None in runs of early versions."""
    store: str | None = field(default=None, kw_only=True)
    """The path of the store of text vectors, relative to the run's folder."""
    code_files: dict[str, str] | None = field(default=None, kw_only=True)
    """The hash of each module that its numbers depend on; None in runs of early versions."""
    files: dict[str, str] = field(default_factory=dict, kw_only=True)
    """SHA-256 of each other file that boards are made from, by name; empty in runs of early versions."""


@dataclass(frozen=True)
class Recorded(RunKeys):
    """The keys of a run or a refit whose model is used."""

    store: str | None
    """The path of the store, relative to the run's folder."""
    weights: dict[str, float]
    """The weights of an average, by member."""
    setup: dict[str, Any]
    """The set-up (plan.run_setup), whose hash is "config" in `hashes`."""
    rerank: StageUsed | None = None
    distill: TeacherUsed | None = None
    valid: dict[ProtocolName, dict[str, float]] = field(default_factory=dict)
    refit: bool = False
    trained_on: str = ""
    events: int = 0
    source: list[Source] = field(default_factory=list)


def result_of(folder: Path, raw: Any) -> Result:
    """Convert a parsed result.json to a Result. Raises BadRun, or RefitRun if it was also trained on test events."""
    if isinstance(raw, Mapping) and raw.get("refit"):
        raise RefitRun(folder)
    return _checked(Result, folder, raw)


def read_recorded(folder: Path) -> dict[str, Any]:
    """Read the result.json of a run or a refit; its values have the types of `Recorded`. Raises BadRun."""
    raw = read_json(folder, RESULT_FILE)
    _checked(Recorded, folder, raw)
    setup = raw["setup"]
    before = {key: value for key, value in setup.items() if key != "refit"}  # a refit of one run keeps its run's hash
    if raw["hashes"].get("config") not in (hash_of(setup), hash_of(before)):
        raise BadRun(folder, RESULT_FILE, "setup is not the one that was written: its hash is not hashes.config")
    return dict(raw)


def _checked(kind: type[Keys], folder: Path, raw: Any) -> Keys:
    """Convert a parsed result.json to the keys of `kind`. Raises BadRun."""
    if not isinstance(raw, Mapping):
        raise BadRun(folder, RESULT_FILE, f"contains a {type(raw).__name__}, expected an object")
    if (found := raw.get("schema")) != SCHEMA:
        raise BadRun(folder, RESULT_FILE, f"has schema {found!r}, but this version of blair_rec reads {SCHEMA}")
    try:
        checked: Keys = typed(kind, raw, "")
    except ValueError as error:
        raise BadRun(folder, RESULT_FILE, str(error)) from error
    return checked


def hash_of(content: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Describe each leaf by which two JSON values differ, such as 'train.epochs: 3 -> 5'."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*now, *(key for key in before if key not in now)]
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{where}{'.' * bool(where)}{key}")
        ]
    return [] if before == now else [f"{where}: {before!r} -> {now!r}"]
