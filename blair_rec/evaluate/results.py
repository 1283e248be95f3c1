"""Finished runs on disk: what runs/VARIANT-SEED/ holds, written and read here and nowhere else.

    DIR/config.yaml                       the comparison; the order of its variants is kept
    DIR/runs/text_init-1/result.json      a `Result`: what was run, with what, and what validation saw
    DIR/runs/text_init-1/ranks.npz        `Ranks`: where the true item of every test case stood

A folder of a run is complete: it is made under a name with a leading dot, which is skipped here, and then renamed.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import yaml
from numpy.typing import NDArray

from blair_rec.errors import BadRun, ConfigError, NoRuns, UnpairedRuns, first_of
from blair_rec.evaluate.metrics import Metric, per_user

ProtocolName = Literal["unmasked", "masked"]
PROTOCOLS: tuple[ProtocolName, ...] = ("unmasked", "masked")
SCHEMA = 1
RESULT_FILE, RANKS_FILE, CONFIG_FILE, RUNS_FOLDER = "result.json", "ranks.npz", "config.yaml", "runs"


@dataclass(frozen=True)
class EncoderUsed:
    """The text encoder behind a run."""

    name: str
    """The encoder that made the vectors."""
    asked_for: str
    """The encoder that the configuration names; another one if a fallback stood in."""
    revision: str | None
    pooling: str
    max_length: int
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
    encoder: EncoderUsed | None
    """None for a variant without text."""
    store_sha256: str | None
    parameters: Parameters
    trials: int
    """Configurations that were tried before this one was chosen."""
    hashes: dict[str, str | None]
    """Of "config", "data", "store" and "code": a run is finished while they hold."""
    provenance: dict[str, str | int | None]
    """Versions, commit, machine."""
    valid: dict[ProtocolName, dict[str, float]]
    """Metrics on the validation split."""


@dataclass(frozen=True, eq=False)
class Ranks:
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
        for field in fields(self):
            array = getattr(self, field.name)
            dtype = np.dtype(bool if field.name == "target_in_history" else np.int64)
            shape = () if field.name == "n_candidates" else (cases,)
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                raise ValueError(f"{field.name} is {getattr(array, 'dtype', type(array).__name__)}, expected {dtype}")
            if array.shape != shape:
                raise ValueError(f"{field.name} has shape {array.shape}, expected {shape}: one entry per test case")
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
class RunResult(Result):
    """A finished run: its result.json, its ranks, and where they lie."""

    folder: Path
    ranks: Ranks

    def per_user(self, metric: Metric | str, protocol: ProtocolName) -> NDArray[np.float64]:
        """[cases] float64, the metric of every test case, in an order that all runs of a comparison share."""
        return per_user(metric, *self.ranks.counts(protocol))


def run_name(variant: str, seed: int) -> str:
    """The folder of a run below DIR/runs."""
    return f"{variant}-{seed}"


def write_result(folder: Path, result: Mapping[str, Any], ranks: Mapping[str, np.ndarray]) -> None:
    """result.json and ranks.npz into a folder that exists and that the caller renames when it is complete.

    result: the keys of `Result`, as plain JSON values; "schema" is added. ranks: the arrays of `Ranks`.
    Raises BadRun for anything that `load_run` would not read back, a NaN among it; nothing is written then.
    """
    result = {"schema": SCHEMA, **result}
    ranks = {name: np.asarray(array) for name, array in ranks.items()}
    _result_of(folder, result)
    _ranks_of(folder, ranks)
    try:
        text = json.dumps(result, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise BadRun(folder, RESULT_FILE, str(error)) from error
    (folder / RESULT_FILE).write_text(text + "\n", encoding="utf-8")
    arrays: dict[str, Any] = {field.name: ranks[field.name] for field in fields(Ranks)}
    np.savez_compressed(folder / RANKS_FILE, **arrays)


def load_run(folder: Path) -> RunResult:
    """One finished run. Raises BadRun naming the file that is missing, damaged, or not what it should be."""
    folder = Path(folder)
    try:
        raw = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRun(folder, RESULT_FILE, "is missing") from None
    except (OSError, ValueError) as error:  # ValueError: no JSON, or no UTF-8
        raise BadRun(folder, RESULT_FILE, f"can't be read: {error}") from error
    result = _result_of(folder, raw)
    try:
        arrays = _arrays_in(folder / RANKS_FILE)
    except FileNotFoundError:
        raise BadRun(folder, RANKS_FILE, "is missing") from None
    # What a cut or overwritten file raises depends on where it was hit: the zip (RuntimeError: a flag or method that is
    # not ours), a stream inside, or an array's header.
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadRun(folder, RANKS_FILE, f"can't be read: {error}") from error
    values = {field.name: getattr(result, field.name) for field in fields(Result)}
    return RunResult(**values, folder=folder, ranks=_ranks_of(folder, arrays))


def load_runs(comparison: Path, only: Collection[str] | None = None) -> list[RunResult]:
    """All finished runs of a comparison, by the order of variants in its config.yaml (by name without one), then seed.

    `only` are the names of folders; others may hold runs of another comparison, and are not even looked into.

    Raises NoRuns, BadRun (a run that can't be read), UnpairedRuns (runs over different test cases), ConfigError.
    """
    comparison = Path(comparison)
    runs_folder = comparison / RUNS_FOLDER
    found = sorted(runs_folder.iterdir()) if runs_folder.is_dir() else []
    found = [folder for folder in found if only is None or folder.name in only]
    runs = [load_run(folder) for folder in found if folder.is_dir() and not folder.name.startswith(".")]
    if not runs:
        raise NoRuns(comparison)
    for run in runs:
        # A copied folder would count a seed twice.
        if run.folder.name != run_name(run.variant, run.seed):
            raise BadRun(run.folder, RESULT_FILE, f"belongs to {run_name(run.variant, run.seed)}")
    order = {variant: place for place, variant in enumerate(_variants_in(comparison / CONFIG_FILE))}
    runs.sort(key=lambda run: (order.get(run.variant, len(order)), run.variant, run.seed))
    check_paired(runs)
    return runs


def check_paired(runs: Sequence[RunResult]) -> None:
    """Raises UnpairedRuns unless all runs ranked the same items for the same test cases, in the same order."""
    first, *others = runs
    for run in others:
        ours, theirs = first.ranks, run.ranks
        problem = None
        if run.dataset != first.dataset:
            problem = f"the data sets are {first.dataset} and {run.dataset}"
        elif ours.candidates != theirs.candidates:
            problem = f"they rank {ours.candidates:,} and {theirs.candidates:,} items"
        elif len(ours.user) != len(theirs.user):
            problem = f"they hold {len(ours.user):,} and {len(theirs.user):,} test cases"
        elif differing := int(((ours.user != theirs.user) | (ours.item != theirs.item)).sum()):
            problem = f"user or true item differ in {differing:,} of {len(ours.user):,} test cases"
        elif differing := int((ours.target_in_history != theirs.target_in_history).sum()):
            problem = f"the histories differ: {differing:,} true items stand in only one of them"
        if problem is not None:
            raise UnpairedRuns(run_name(first.variant, first.seed), run_name(run.variant, run.seed), problem)


def _variants_in(path: Path) -> list[str]:
    """The names of the variants in a comparison's config.yaml; none where there is no such file."""
    if not path.exists():
        return []
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} can't be read: {error}; restore it, or delete it: variants are then ordered by name"
        ) from error
    variants = config.get("variants") if isinstance(config, dict) else None
    return [str(name) for name in variants] if isinstance(variants, dict) else []


def _result_of(folder: Path, raw: Any) -> Result:
    """A parsed result.json as a Result."""
    if not isinstance(raw, Mapping):
        raise BadRun(folder, RESULT_FILE, f"holds a {type(raw).__name__}, expected an object")
    if raw.get("schema") != SCHEMA:
        raise BadRun(
            folder, RESULT_FILE, f"has schema {raw.get('schema')!r}, and this version of blair_rec reads {SCHEMA}"
        )
    try:
        return _typed(Result, raw, "")
    except ValueError as error:
        raise BadRun(folder, RESULT_FILE, str(error)) from error


def _arrays_in(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file; pickled objects are refused."""
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise ValueError("it holds a single array")
    with loaded as archive:
        return {name: archive[name] for name in archive.files}


def _ranks_of(folder: Path, arrays: Mapping[str, np.ndarray]) -> Ranks:
    """The arrays of a ranks.npz as Ranks."""
    names = [field.name for field in fields(Ranks)]
    if missing := [name for name in names if name not in arrays]:
        raise BadRun(folder, RANKS_FILE, f"lacks {len(missing)} of {len(names)} arrays ({first_of(missing)})")
    try:
        return Ranks(**{name: arrays[name] for name in names})
    except ValueError as error:
        raise BadRun(folder, RANKS_FILE, str(error)) from error


def _typed(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the annotation `kind` asks for it, or a ValueError that says where it is something else."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        options = [option for option in args if option is not NoneType]
        if value is None and NoneType in args:
            return None
        if len(options) == 1:
            return _typed(options[0], value, where)
        if any(_is_plain(option, value) for option in options):
            return value
    elif is_dataclass(kind) and isinstance(value, Mapping):
        make: Any = kind
        hints, names = get_type_hints(kind), [field.name for field in fields(kind)]
        if missing := [name for name in names if name not in value]:
            raise ValueError(f"{where} lacks {len(missing)} of {len(names)} keys ({first_of(missing)})".strip())
        inside = f"{where}." if where else ""
        return make(**{name: _typed(hints[name], value[name], inside + name) for name in names})
    elif origin is dict and isinstance(value, Mapping):
        return {
            _typed(args[0], key, f"a key of {where}"): _typed(args[1], entry, f"{where}.{key}")
            for key, entry in value.items()
        }
    elif origin is list and isinstance(value, (list, tuple)):
        return [_typed(args[0], entry, f"{where}[{place}]") for place, entry in enumerate(value)]
    elif origin is Literal and value in args:
        return value
    elif kind in (str, int, float) and _is_plain(kind, value):
        return kind(value)
    name = kind.__name__ if isinstance(kind, type) and not args else str(kind).replace("typing.", "")
    raise ValueError(f"{where} is {value!r} ({type(value).__name__}), expected {name}")


def _is_plain(kind: Any, value: Any) -> bool:
    """Whether a value is such a str, int or float; True is no number, and neither is NaN."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not isinstance(value, bool)
