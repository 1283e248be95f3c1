"""The files of a finished run, checked when they are written and when they are read.

DIR/config.yaml                       the comparison, with its variants in order
DIR/runs/text_init-1/result.json      what was run, with which settings, and its validation metrics: see recorded.py
DIR/runs/text_init-1/ranks.npz        `RunRanks`: the rank of the target of every test case
DIR/runs/text_init-1/topk.npz         by protocol, the top-k items of every test case
DIR/runs/text_init-1/histories.npz    `Histories`: the last items before every target, and training events of items
DIR/runs/text_init-1/items.json       item tokens by item id
DIR/runs/text_init-1/history.jsonl    one `EpochRecord` per line: the learning curve, empty if nothing was trained
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from blair_rec.config.names import ProtocolName
from blair_rec.errors import BadRun, counted, first_of
from blair_rec.evaluate.runs.checks import typed
from blair_rec.lines.arrays import load_arrays

PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
RESULT_FILE, RANKS_FILE, CONFIG_FILE, RUNS_FOLDER = "result.json", "ranks.npz", "config.yaml", "runs"
TOPK_FILE, HISTORIES_FILE, ITEMS_FILE, CURVE_FILE = "topk.npz", "histories.npz", "items.json", "history.jsonl"
WEIGHTS_FILE = "model.safetensors"
LAST_ITEMS = 20
"""Number of last items kept of each history, for display."""


@dataclass(frozen=True, eq=False)
class RunRanks:
    """The arrays of ranks.npz, one row per test case. Checked when created; raises ValueError with the problem."""

    user: NDArray[np.int64]
    """[cases] RecBole's user id."""
    item: NDArray[np.int64]
    """[cases] id of the target, 1 .. n_candidates."""
    higher_unmasked: NDArray[np.int64]
    """[cases] number of other candidates that score above the target, including items of the history."""
    equal_unmasked: NDArray[np.int64]
    """[cases] number of other candidates tied with the target."""
    higher_masked: NDArray[np.int64]
    """[cases] as higher_unmasked, with the items of the history removed from the candidates."""
    equal_masked: NDArray[np.int64]
    """[cases] as equal_unmasked, with the items of the history removed from the candidates."""
    target_in_history: NDArray[np.bool_]
    """[cases] whether the target is in the history: then masking removes it, which is a miss."""
    history_length: NDArray[np.int64]
    """[cases] number of events before the target."""
    target_count: NDArray[np.int64]
    """[cases] number of training events of the target; 0 for a cold item."""
    n_candidates: NDArray[np.int64]
    """[] number of items, without padding."""

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
            raise ValueError("there are no test cases")
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
            raise ValueError(f"{name} is out of bounds in {wrong.sum()} of {counted(len(values), 'case')}: not {bound}")

    @property
    def candidates(self) -> int:
        """Number of ranked items, without padding."""
        return int(self.n_candidates)

    def counts(self, protocol: ProtocolName) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """higher, equal and miss of every test case: the arguments of the functions in `metrics`."""
        if protocol == "masked":
            return self.higher_masked, self.equal_masked, self.target_in_history
        return self.higher_unmasked, self.equal_unmasked, np.zeros_like(self.target_in_history)


@dataclass(frozen=True, eq=False)
class Histories:
    """The arrays of histories.npz. Checked when created; raises ValueError with the problem."""

    offsets: NDArray[np.int64]
    """[cases + 1] the history of case c is items[offsets[c] : offsets[c + 1]]."""
    items: NDArray[np.int32]
    """[offsets[-1]] item ids: for every test case up to 20 last items before the target, oldest first."""
    item_counts: NDArray[np.int64]
    """[N] training events by item id; 0 for the padding."""

    def __post_init__(self) -> None:
        for name, dtype in (("offsets", np.int64), ("items", np.int32), ("item_counts", np.int64)):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
                raise ValueError(f"{name} has to be one-dimensional with dtype {np.dtype(dtype)}")
        lengths = np.diff(self.offsets)
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise ValueError(f"offsets have to begin with 0 and end with the number of items, {len(self.items)}")
        if wrong := int(((lengths < 0) | (lengths > LAST_ITEMS)).sum()):
            raise ValueError(f"lengths of histories are not in 0 to {LAST_ITEMS}: {wrong} of {len(lengths)}")
        if wrong := int(((self.items < 1) | (self.items >= len(self.item_counts))).sum()):
            raise ValueError(f"item ids are not in 1 to {len(self.item_counts) - 1}: {wrong} of {len(self.items)}")
        if len(self.item_counts) == 0 or self.item_counts[0] != 0 or (self.item_counts < 0).any():
            raise ValueError("item_counts are not valid: counts can't be negative, and the padding's count has to be 0")

    def of(self, case: int) -> NDArray[np.int32]:
        """[up to 20] item ids of one test case, oldest first."""
        return self.items[self.offsets[case] : self.offsets[case + 1]]


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.jsonl."""

    epoch: int
    """From 1."""
    loss: float
    """Mean loss over the targets of the epoch."""
    train_seconds: float
    valid_seconds: float
    valid: dict[str, float] | None
    """Validation metrics under the protocol of the selection; None in epochs without validation."""


def read_text(folder: Path, file: str) -> str:
    """The text of a file. Raises BadRun."""
    try:
        return (folder / file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadRun(folder, file, "is missing") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise BadRun(folder, file, f"can't be read: {error}") from error


def parse_json(folder: Path, file: str, text: str) -> Any:
    """Parse the text of `file` as JSON. Raises BadRun."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRun(folder, file, f"can't be read: {error}") from error


def read_json(folder: Path, file: str) -> Any:
    """Read a JSON file. Raises BadRun."""
    return parse_json(folder, file, read_text(folder, file))


def read_arrays(folder: Path, file: str) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file; pickled objects are refused. Raises BadRun."""
    try:
        return load_arrays(folder / file)
    except FileNotFoundError:
        raise BadRun(folder, file, "is missing") from None
    except (OSError, ValueError) as error:
        raise BadRun(folder, file, f"can't be read: {error}") from error


def _pick(folder: Path, file: str, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named arrays of a file; others, from later versions, are ignored."""
    if missing := [name for name in names if name not in arrays]:
        raise BadRun(folder, file, f"lacks {len(missing)} of {counted(len(names), 'array')} ({first_of(missing)})")
    return {name: arrays[name] for name in names}


def ranks_of(folder: Path, arrays: Mapping[str, np.ndarray]) -> RunRanks:
    """Convert the arrays of a ranks.npz to RunRanks. Raises BadRun."""
    picked = _pick(folder, RANKS_FILE, arrays, [one.name for one in fields(RunRanks)])
    try:
        return RunRanks(**picked)
    except ValueError as error:
        raise BadRun(folder, RANKS_FILE, str(error)) from error


def histories_of(folder: Path, arrays: Mapping[str, np.ndarray], ranks: RunRanks) -> Histories:
    """Convert the arrays of a histories.npz to Histories; they have to fit `ranks`. Raises BadRun."""
    picked = _pick(folder, HISTORIES_FILE, arrays, [one.name for one in fields(Histories)])
    try:
        histories = Histories(**picked)
    except ValueError as error:
        raise BadRun(folder, HISTORIES_FILE, str(error)) from error
    sizes, wanted = (len(histories.offsets) - 1, len(histories.item_counts) - 1), (len(ranks.user), ranks.candidates)
    if sizes != wanted:
        problem = f"test cases: {sizes[0]}, items: {sizes[1]}; but {RANKS_FILE} has {wanted[0]} and {wanted[1]}"
        raise BadRun(folder, HISTORIES_FILE, problem)
    for name, ours, theirs in (
        ("history_length", np.diff(histories.offsets), np.minimum(ranks.history_length, LAST_ITEMS)),
        ("target_count", histories.item_counts[ranks.item], ranks.target_count),
    ):
        if differing := int((ours != theirs).sum()):
            raise BadRun(folder, HISTORIES_FILE, f"contradicts {name} in {differing} of {counted(len(ours), 'case')}")
    return histories


def topk_of(folder: Path, arrays: Mapping[str, np.ndarray], ranks: RunRanks) -> dict[ProtocolName, NDArray[np.int32]]:
    """Check the arrays of a topk.npz and return them by protocol. Raises BadRun."""
    _pick(folder, TOPK_FILE, arrays, PROTOCOLS)
    for protocol in PROTOCOLS:
        items = arrays[protocol]
        if items.dtype != np.int32 or items.ndim != 2 or len(items) != len(ranks.user):
            found = f"{items.dtype} {list(items.shape)}"
            raise BadRun(folder, TOPK_FILE, f"{protocol} is {found}, expected int32 [{len(ranks.user)}, k]")
        if wrong := int(((items < 0) | (items > ranks.candidates)).any(axis=1).sum()):
            raise BadRun(folder, TOPK_FILE, f"{protocol}: unknown item ids in {wrong} of {counted(len(items), 'case')}")
    return {protocol: arrays[protocol] for protocol in PROTOCOLS}


def tokens_of(folder: Path, raw: Any, ranks: RunRanks) -> tuple[str, ...]:
    """Check a parsed items.json. Raises BadRun."""
    try:
        tokens = typed(list[str], raw, "items")
    except ValueError as error:
        raise BadRun(folder, ITEMS_FILE, str(error)) from error
    if (found := len(tokens)) != ranks.candidates + 1:
        raise BadRun(folder, ITEMS_FILE, f"has {found} item tokens, expected {ranks.candidates} and the padding token")
    return tuple(tokens)


def curve_of(folder: Path, raw: Sequence[Any]) -> tuple[EpochRecord, ...]:
    """Check the parsed lines of a history.jsonl. Raises BadRun."""
    try:
        return tuple(typed(EpochRecord, line, f"line {number}") for number, line in enumerate(raw, start=1))
    except ValueError as error:
        raise BadRun(folder, CURVE_FILE, str(error)) from error
