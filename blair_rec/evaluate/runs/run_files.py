"""The files of a finished run: what each of them holds, checked when it is written and when it is read.

DIR/config.yaml                       the comparison; the order of its variants is kept
DIR/runs/text_init-1/result.json      a `Result`: what was run, with what, and what validation saw
DIR/runs/text_init-1/ranks.npz        `Ranks`: where the true item of every test case stood
DIR/runs/text_init-1/topk.npz         by protocol, the items ranked first in every test case
DIR/runs/text_init-1/histories.npz    `Histories`: the last items before every true item, and how common items are
DIR/runs/text_init-1/items.json       item tokens by item id
DIR/runs/text_init-1/history.jsonl    an `Epoch` a line: the learning curve, empty where nothing was trained
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from blair_rec.errors import BadRun, RefitRun, first_of
from blair_rec.evaluate.runs.checks import typed

ProtocolName = Literal["unmasked", "masked"]
PROTOCOLS: tuple[ProtocolName, ...] = ("unmasked", "masked")
SCHEMA = 1
RESULT_FILE, RANKS_FILE, CONFIG_FILE, RUNS_FOLDER = "result.json", "ranks.npz", "config.yaml", "runs"
TOPK_FILE, HISTORIES_FILE, ITEMS_FILE, CURVE_FILE = "topk.npz", "histories.npz", "items.json", "history.jsonl"
WEIGHTS_FILE = "model.safetensors"
LAST_ITEMS = 20
"""Of each history, that many items are kept: enough to show it."""


@dataclass(frozen=True)
class EncoderUsed:
    """The text encoder behind a run."""

    name: str
    """The encoder that made the vectors."""
    asked_for: str
    """The encoder that the configuration names; another one if a fallback stood in."""
    revision: str | None
    pooling: str | None
    max_length: int | None
    """In tokens."""

    def __str__(self) -> str:
        return self.name if self.name == self.asked_for else f"{self.name} (asked for: {self.asked_for})"


@dataclass(frozen=True)
class Selection:
    """The validation result that chose the weights."""

    protocol: ProtocolName
    metric: str
    value: float
    epoch: int


@dataclass(frozen=True)
class Parameters:
    """Numbers of scalars in the model."""

    trained: int
    frozen: int


@dataclass(frozen=True)
class Result:
    """result.json, key by key (next to "schema"). Keys that are not listed here are left alone."""

    variant: str
    seed: int
    model: str
    """RecBole's name, such as "SASRec"."""
    items: str
    """The item side: "id", "text_init", ..."""
    control: Literal["shuffle", "random"] | None
    transforms: list[str]
    dataset: str
    selection: Selection | None
    """None where nothing was trained, so nothing selected."""
    epochs: int
    """Epochs that ran, the ones after the best included."""
    train_seconds: float
    wall_seconds: float
    """From the first to the last step of the run: training, scoring and writing."""
    peak_memory_mb: int | None
    """The most that the process has held so far; None where the system can't say."""
    encoder: EncoderUsed | None
    """None for a variant without text."""
    store_sha256: str | None
    parameters: Parameters
    trials: int
    """Configurations that were tried before this one was chosen."""
    test_evaluations: int
    """Times that this variant was evaluated on the test split with this seed in this folder, changes of it included."""
    hashes: dict[str, str | None]
    """Of "config", "data", "store" and "code": a run is finished while they hold, or its other code is accepted."""
    provenance: dict[str, str | int | None]
    """Versions, commit, machine."""
    valid: dict[ProtocolName, dict[str, float]]
    """Metrics on the validation split."""
    notes: list[str]
    """What checks of data and text found before training, for a reader to know."""
    seedless: bool = field(default=False, kw_only=True)
    """Whether nothing in it is drawn by lot, so that it is the run of every seed."""
    accepted_code: dict[str, str] = field(default_factory=dict, kw_only=True)
    """By hash of other code that the run was accepted for: what had changed, in words."""


@dataclass(frozen=True, eq=False)
class RunRanks:
    """ranks.npz, array by array: one row per test case. Checked when made; raises ValueError saying what is wrong."""

    user: NDArray[np.int64]
    """[cases] RecBole's user id."""
    item: NDArray[np.int64]
    """[cases] id of the true item, 1 .. n_candidates."""
    higher_unmasked: NDArray[np.int64]
    """[cases] other candidates that score above the true item, the history among them."""
    equal_unmasked: NDArray[np.int64]
    """[cases] other candidates with the same score as the true item."""
    higher_masked: NDArray[np.int64]
    """[cases] as above, with the items of the history taken out of the candidates."""
    equal_masked: NDArray[np.int64]
    """[cases]"""
    target_in_history: NDArray[np.bool_]
    """[cases] the true item stands in its own history: under masking it can't be recommended, which is a miss."""
    history_length: NDArray[np.int64]
    """[cases] events before the true item."""
    target_count: NDArray[np.int64]
    """[cases] training events of the true item; 0 is a cold item."""
    n_candidates: NDArray[np.int64]
    """[] number of items, padding not counted."""

    def __post_init__(self) -> None:
        cases = np.size(self.user)
        for name in (one.name for one in fields(self)):
            array = getattr(self, name)
            dtype = np.dtype(bool if name == "target_in_history" else np.int64)
            shape = () if name == "n_candidates" else (cases,)
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                raise ValueError(f"{name} is {getattr(array, 'dtype', type(array).__name__)}, expected {dtype}")
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}: one entry per test case")
        if cases == 0:
            raise ValueError("there is not a single test case")
        self._all_within("item", self.item, 1, self.candidates)
        for name in ("user", "history_length", "target_count", "equal_unmasked", "equal_masked"):
            self._all_within(name, getattr(self, name), 0)
        for protocol in PROTOCOLS:
            higher, equal, _ = self.counts(protocol)
            self._all_within(f"higher_{protocol}", higher, 0)
            self._all_within(f"higher_{protocol} + equal_{protocol}", higher + equal, 0, self.candidates - 1)

    @staticmethod
    def _all_within(name: str, values: NDArray[np.int64], low: int, high: int | None = None) -> None:
        wrong = (values < low) | (values > (np.iinfo(np.int64).max if high is None else high))
        if wrong.any():
            bound = f"at least {low}" if high is None else f"{low} to {high}"
            raise ValueError(f"{name} is out of bounds in {wrong.sum()} of {len(values)} cases, expected {bound}")

    @property
    def candidates(self) -> int:
        """Number of items that are ranked, padding not counted."""
        return int(self.n_candidates)

    def counts(self, protocol: ProtocolName) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """higher, equal and miss of every test case: what the functions of `metrics` take."""
        if protocol == "masked":
            return self.higher_masked, self.equal_masked, self.target_in_history
        return self.higher_unmasked, self.equal_unmasked, np.zeros_like(self.target_in_history)


@dataclass(frozen=True, eq=False)
class Histories:
    """histories.npz, array by array. Checked when made; raises ValueError saying what is wrong."""

    offsets: NDArray[np.int64]
    """[cases + 1] the history of case c is items[offsets[c] : offsets[c + 1]]."""
    items: NDArray[np.int32]
    """[offsets[-1]] item ids: of every test case up to the last 20 items before the true one, oldest first."""
    item_counts: NDArray[np.int64]
    """[N] training events by item id; 0 for the padding."""

    def __post_init__(self) -> None:
        for name, dtype in (("offsets", np.int64), ("items", np.int32), ("item_counts", np.int64)):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
                raise ValueError(f"{name} has to be one row of {np.dtype(dtype)}")
        lengths = np.diff(self.offsets)
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise ValueError(f"offsets have to lead from 0 to the {len(self.items)} items")
        if wrong := int(((lengths < 0) | (lengths > LAST_ITEMS)).sum()):
            raise ValueError(f"{wrong} of {len(lengths)} histories are shorter than 0 or longer than {LAST_ITEMS}")
        if wrong := int(((self.items < 1) | (self.items >= len(self.item_counts))).sum()):
            raise ValueError(f"{wrong} of {len(self.items)} items are none of 1 to {len(self.item_counts) - 1}")
        if len(self.item_counts) == 0 or self.item_counts[0] != 0 or (self.item_counts < 0).any():
            raise ValueError("item_counts can't be counts: none may be negative, and the padding's is 0")

    def of(self, case: int) -> NDArray[np.int32]:
        """[up to 20] item ids of one test case, oldest first."""
        return self.items[self.offsets[case] : self.offsets[case + 1]]


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.jsonl."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over the targets of the epoch."""
    train_seconds: float
    valid_seconds: float
    valid: dict[str, float] | None
    """Metrics under the protocol of the selection; None in epochs without validation."""


def result_of(folder: Path, raw: Any) -> Result:
    """A parsed result.json as a Result. Raises BadRun, or RefitRun for what was trained on the test events, too."""
    if not isinstance(raw, Mapping):
        raise BadRun(folder, RESULT_FILE, f"holds a {type(raw).__name__}, expected an object")
    if raw.get("refit"):
        raise RefitRun(folder)
    if raw.get("schema") != SCHEMA:
        raise BadRun(
            folder, RESULT_FILE, f"has schema {raw.get('schema')!r}, and this version of blair_rec reads {SCHEMA}"
        )
    try:
        return typed(Result, raw, "")
    except ValueError as error:
        raise BadRun(folder, RESULT_FILE, str(error)) from error


def read_text(folder: Path, file: str) -> str:
    """A file of text. Raises BadRun."""
    try:
        return (folder / file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadRun(folder, file, "is missing") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8
        raise BadRun(folder, file, f"can't be read: {error}") from error


def parse_json(folder: Path, file: str, text: str) -> Any:
    """What a text says that stands in `file`. Raises BadRun."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadRun(folder, file, f"can't be read: {error}") from error


def read_json(folder: Path, file: str) -> Any:
    """A file that is JSON as a whole. Raises BadRun."""
    return parse_json(folder, file, read_text(folder, file))


def read_arrays(folder: Path, file: str) -> dict[str, np.ndarray]:
    """Every array of an .npz file; pickled objects are refused. Raises BadRun."""
    try:
        loaded = np.load(folder / file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds a single array")
        with loaded as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise BadRun(folder, file, "is missing") from None
    # What a cut or overwritten file raises depends on where it was hit: the zip (RuntimeError: a flag or method that is
    # not ours), a stream inside, or an array's header.
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadRun(folder, file, f"can't be read: {error}") from error


def _pick(folder: Path, file: str, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """These arrays out of a file's; what else a later version put there is left alone."""
    if missing := [name for name in names if name not in arrays]:
        raise BadRun(folder, file, f"lacks {len(missing)} of {len(names)} arrays ({first_of(missing)})")
    return {name: arrays[name] for name in names}


def ranks_of(folder: Path, arrays: Mapping[str, np.ndarray]) -> RunRanks:
    """The arrays of a ranks.npz as RunRanks. Raises BadRun."""
    picked = _pick(folder, RANKS_FILE, arrays, [one.name for one in fields(RunRanks)])
    try:
        return RunRanks(**picked)
    except ValueError as error:
        raise BadRun(folder, RANKS_FILE, str(error)) from error


def histories_of(folder: Path, arrays: Mapping[str, np.ndarray], ranks: RunRanks) -> Histories:
    """The arrays of a histories.npz as Histories of the same test cases. Raises BadRun."""
    picked = _pick(folder, HISTORIES_FILE, arrays, [one.name for one in fields(Histories)])
    try:
        histories = Histories(**picked)
    except ValueError as error:
        raise BadRun(folder, HISTORIES_FILE, str(error)) from error
    sizes = len(histories.offsets) - 1, len(histories.item_counts) - 1
    if sizes != (len(ranks.user), ranks.candidates):
        problem = f"holds {sizes[0]} test cases and {sizes[1]} items"
        raise BadRun(folder, HISTORIES_FILE, f"{problem}, the ranks {len(ranks.user)} and {ranks.candidates}")
    for name, ours, theirs in (
        ("history_length", np.diff(histories.offsets), np.minimum(ranks.history_length, LAST_ITEMS)),
        ("target_count", histories.item_counts[ranks.item], ranks.target_count),
    ):
        if differing := int((ours != theirs).sum()):
            raise BadRun(folder, HISTORIES_FILE, f"contradicts {name} of {differing} of {len(ours)} test cases")
    return histories


def topk_of(folder: Path, arrays: Mapping[str, np.ndarray], ranks: RunRanks) -> dict[ProtocolName, NDArray[np.int32]]:
    """The arrays of a topk.npz, by protocol. Raises BadRun."""
    _pick(folder, TOPK_FILE, arrays, PROTOCOLS)
    for protocol in PROTOCOLS:
        items = arrays[protocol]
        if items.dtype != np.int32 or items.ndim != 2 or len(items) != len(ranks.user):
            found = f"{items.dtype} {list(items.shape)}"
            raise BadRun(folder, TOPK_FILE, f"{protocol} is {found}, expected int32 [{len(ranks.user)}, k]")
        if wrong := int(((items < 0) | (items > ranks.candidates)).any(axis=1).sum()):
            raise BadRun(folder, TOPK_FILE, f"{protocol} names items that there aren't in {wrong} test cases")
    return {protocol: arrays[protocol] for protocol in PROTOCOLS}


def tokens_of(folder: Path, raw: Any, ranks: RunRanks) -> tuple[str, ...]:
    """A parsed items.json. Raises BadRun."""
    try:
        tokens = typed(list[str], raw, "items")
    except ValueError as error:
        raise BadRun(folder, ITEMS_FILE, str(error)) from error
    if len(tokens) != ranks.candidates + 1:
        raise BadRun(folder, ITEMS_FILE, f"names {len(tokens)} items, expected {ranks.candidates} and the padding")
    return tuple(tokens)


def curve_of(folder: Path, raw: Sequence[Any]) -> tuple[EpochRecord, ...]:
    """The parsed lines of a history.jsonl. Raises BadRun."""
    try:
        return tuple(typed(EpochRecord, line, f"line {number}") for number, line in enumerate(raw, start=1))
    except ValueError as error:
        raise BadRun(folder, CURVE_FILE, str(error)) from error
