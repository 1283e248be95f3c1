"""Write and read finished runs on disk; no other module does.

result.json and ranks.npz are read immediately, the other files (run_files.py) when they are first needed. The folder of
a run is always complete: it is written under a name with a leading dot, which is ignored here, and then renamed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.names import ProtocolName
from blair_rec.config.section import default_of
from blair_rec.config.yaml.files import load_yaml
from blair_rec.errors import BadRun, ConfigError, NoRuns, UnpairedRuns, counted
from blair_rec.evaluate.metrics import Metric, parse_metric, per_user
from blair_rec.evaluate.runs.new_ranks import NEW_ITEMS_FILE, NewRanks, read_new_ranks
from blair_rec.evaluate.runs.recorded import SCHEMA, Result, result_of
from blair_rec.evaluate.runs.run_files import (
    CONFIG_FILE,
    CURVE_FILE,
    HISTORIES_FILE,
    ITEMS_FILE,
    LAST_ITEMS,
    PROTOCOLS,
    RANKS_FILE,
    RESULT_FILE,
    RUNS_FOLDER,
    TOPK_FILE,
    EpochRecord,
    Histories,
    RunRanks,
    curve_of,
    histories_of,
    parse_json,
    ranks_of,
    read_arrays,
    read_json,
    read_text,
    tokens_of,
    topk_of,
)
from blair_rec.files.contents import sha256_of
from blair_rec.files.writing import write_text

Content = TypeVar("Content")
HASHED = (RANKS_FILE, TOPK_FILE, HISTORIES_FILE, ITEMS_FILE, CURVE_FILE, NEW_ITEMS_FILE)
"""The files that boards are made from. result.json has the SHA-256 of each."""
# These have to be the same for all seeds of a variant, because results are averaged over seeds.
SHARED_BY_SEEDS = ("model", "items", "control", "transforms", "encoder", "store_sha256", "trials", "parameters")


@dataclass(frozen=True, eq=False)
class RunResult(Result):
    """A finished run: its result.json, ranks and folder. Other files are read when they are first needed."""

    folder: Path
    ranks: RunRanks
    contents: dict[str, Any] = field(default_factory=dict, kw_only=True)
    """The other files that were read so far, by name; the copies of a run for several seeds share it."""

    def _content(self, file: str, read: Callable[[], Content]) -> Content:
        """Read a file and check its hash when it is first needed. Raises BadRun."""
        if file not in self.contents:
            content = read()
            _check_hash(self.folder, file, self.files)
            self.contents[file] = content
        found: Content = self.contents[file]
        return found

    @property
    def histories(self) -> Histories:
        """The last items before every target. Raises BadRun."""
        folder, file = self.folder, HISTORIES_FILE
        return self._content(file, lambda: histories_of(folder, read_arrays(folder, file), self.ranks))

    @property
    def item_counts(self) -> NDArray[np.int64]:
        """[N] training events by item id. Raises BadRun."""
        return self.histories.item_counts

    def topk(self, protocol: ProtocolName) -> NDArray[np.int32]:
        """[cases, k] item ids, best first; 0 if there are fewer candidates. Raises BadRun."""
        folder, file = self.folder, TOPK_FILE
        return self._content(file, lambda: topk_of(folder, read_arrays(folder, file), self.ranks))[protocol]

    @property
    def item_tokens(self) -> tuple[str, ...]:
        """[N] by item id; the first one is the padding token. Raises BadRun."""
        folder, file = self.folder, ITEMS_FILE
        return self._content(file, lambda: tokens_of(folder, read_json(folder, file), self.ranks))

    @property
    def new_items(self) -> NewRanks | None:
        """The ranks of targets that are new items; None where none were hidden. Raises BadRun."""
        return self._content(NEW_ITEMS_FILE, lambda: read_new_ranks(self.folder))

    @property
    def curve(self) -> tuple[EpochRecord, ...]:
        """The epochs that ran; empty if nothing was trained. Raises BadRun."""
        return self._content(CURVE_FILE, lambda: _read_curve(self.folder))

    def per_user(self, metric: Metric | str, protocol: ProtocolName) -> NDArray[np.float64]:
        """[cases] float64, the metric of every test case, in the same order for all runs of a comparison."""
        return per_user(metric, *self.ranks.counts(protocol))


def run_name(variant: str, seed: int) -> str:
    """The name of a run and of its folder in DIR/runs."""
    return f"{variant}-{seed}"


def write_result(folder: Path, result: Mapping[str, Any], ranks: Mapping[str, np.ndarray]) -> None:
    """Write ranks.npz and result.json into an existing folder, which the caller renames when it is complete.

    All other files of the run have to be there already, because result.json gets their hashes.

    result: the keys of `Result`, as plain JSON values; "schema" and "files" are added. ranks: the arrays of `RunRanks`.
    Raises BadRun for anything that `load_run` could not read, such as a NaN; then nothing is written.
    """
    result = {"schema": SCHEMA, **result}
    ranks = {name: np.asarray(array) for name, array in ranks.items()}
    result_of(folder, result)
    ranks_of(folder, ranks)
    try:
        _to_json(result)
    except (TypeError, ValueError) as error:
        raise BadRun(folder, RESULT_FILE, str(error)) from error
    arrays: dict[str, Any] = {one.name: ranks[one.name] for one in fields(RunRanks)}
    np.savez_compressed(folder / RANKS_FILE, **arrays)
    files = {file: sha256_of(folder / file) for file in HASHED if (folder / file).is_file()}
    (folder / RESULT_FILE).write_text(_to_json({**result, "files": files}), encoding="utf-8")


def accept_code(folder: Path, code: str, changed: str) -> None:
    """Record in a finished run that it is also accepted for the code with hash `code`; `changed` says what changed.

    Raises BadRun if its result.json can't be read.
    """
    raw = read_json(folder, RESULT_FILE)
    accepted = {**result_of(folder, raw).accepted_code, code: changed}
    write_text(folder / RESULT_FILE, _to_json({**raw, "accepted_code": accepted}))


def _to_json(result: Mapping[str, Any]) -> str:
    return json.dumps(result, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_lists(
    folder: Path,
    ranks: Mapping[str, np.ndarray],
    topk: Mapping[str, np.ndarray],
    histories: Mapping[str, np.ndarray],
    item_tokens: Sequence[str],
    curve: Sequence[Mapping[str, Any]],
) -> None:
    """Write the other files of a run, topk.npz, histories.npz, items.json and history.jsonl, before `write_result`.

    ranks: as for `write_result`; the other files have to fit them. topk: [cases, k] integers, best first.
    histories: the arrays of `Histories`. curve: the keys of `EpochRecord`, one mapping per epoch.
    Raises BadRun for anything that a `RunResult` could not read; then nothing is written.
    """
    checked = ranks_of(folder, {name: np.asarray(array) for name, array in ranks.items()})
    topk = {protocol: np.asarray(items).astype(np.int32) for protocol, items in topk.items()}
    topk_of(folder, topk, checked)
    histories_of(folder, histories, checked)
    tokens_of(folder, list(item_tokens), checked)
    curve_of(folder, curve)
    arrays: dict[str, Any] = {protocol: topk[protocol] for protocol in PROTOCOLS}
    np.savez_compressed(folder / TOPK_FILE, **arrays)
    arrays = {one.name: histories[one.name] for one in fields(Histories)}
    np.savez_compressed(folder / HISTORIES_FILE, **arrays)
    (folder / ITEMS_FILE).write_text(json.dumps(list(item_tokens)), encoding="utf-8")
    (folder / CURVE_FILE).write_text("".join(json.dumps(line) + "\n" for line in curve), encoding="utf-8")


def last_items(row: np.ndarray, item: np.ndarray, cases: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut whole histories to their last items; return `offsets` and `items` of a `Histories`.

    row: [P] int64, the test case (0 .. cases - 1, ascending) of each item; item: [P] ids, oldest first.
    """
    ends = np.searchsorted(row, np.arange(cases), side="right")
    kept = ends[row] - np.arange(len(row)) <= LAST_ITEMS
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=cases))])
    return offsets.astype(np.int64), item[kept].astype(np.int32)


def load_run(folder: Path) -> RunResult:
    """Load one finished run. Raises BadRun, which names the file that is missing, damaged or wrong."""
    folder = Path(folder)
    result = result_of(folder, read_json(folder, RESULT_FILE))
    ranks = ranks_of(folder, read_arrays(folder, RANKS_FILE))
    _check_hash(folder, RANKS_FILE, result.files)
    return RunResult(**{one.name: getattr(result, one.name) for one in fields(Result)}, folder=folder, ranks=ranks)


def _read_curve(folder: Path) -> tuple[EpochRecord, ...]:
    """Read the history.jsonl of a run. Raises BadRun."""
    lines = read_text(folder, CURVE_FILE).splitlines()
    return curve_of(folder, [parse_json(folder, CURVE_FILE, line) for line in lines])


def _check_hash(folder: Path, file: str, files: Mapping[str, str]) -> None:
    """Raise BadRun if a file is not the one that was written with its run; `files` is that of `Result`."""
    if not files:  # an early version wrote the run
        return
    found = sha256_of(folder / file) if (folder / file).is_file() else None
    if found != files.get(file):
        problem = f"is not the file that this run wrote: its SHA-256 is not that in {RESULT_FILE}"
        raise BadRun(folder, file, problem if found else "is missing")


def load_runs(comparison: Path) -> list[RunResult]:
    """Load all finished runs of a comparison as `read_runs` does; a run valid for all seeds is repeated for each."""
    config = _config_in(Path(comparison) / CONFIG_FILE)
    seeds = config.get("seeds", default_of(CompareConfig, "seeds")) if config else ()
    return for_every_seed(read_runs(comparison), seeds)


def for_every_seed(runs: Sequence[RunResult], seeds: Sequence[int]) -> list[RunResult]:
    """The runs, where each run that doesn't depend on the seed is repeated for each seed of the others.

    If no run depends on the seed, `seeds` of the comparison are used. A repeated run replaces all others of its
    variant, because earlier versions made one run for each seed.
    """
    standing = {run.variant: run for run in reversed(runs) if run.seedless}
    drawn = {run.seed for run in runs if run.variant not in standing}
    found: list[RunResult] = []
    for run in runs:
        if run.variant not in standing:
            found.append(run)
        elif run is standing[run.variant]:
            found += [replace(run, seed=seed) for seed in sorted(drawn or seeds or {run.seed})]
    return found


def read_runs(comparison: Path, only: Collection[str] | None = None) -> list[RunResult]:
    """Read the finished runs of a comparison, ordered as the variants in its config.yaml (or by name), then by seed.

    `only` are the names of the folders to read; other folders may be runs of another comparison.

    Raises NoRuns, BadRun (a run can't be read), UnpairedRuns (runs have different test cases), ConfigError.
    """
    comparison = Path(comparison)
    runs_folder = comparison / RUNS_FOLDER
    found = sorted(runs_folder.iterdir()) if runs_folder.is_dir() else []
    found = [folder for folder in found if only is None or folder.name in only]
    runs = [load_run(folder) for folder in found if folder.is_dir() and not folder.name.startswith(".")]
    if not runs:
        raise NoRuns(comparison)
    for run in runs:
        # A copy of a folder would count a seed twice.
        if run.folder.name != run_name(run.variant, run.seed):
            raise BadRun(run.folder, RESULT_FILE, f"belongs to the run {run_name(run.variant, run.seed)}")
    order = {variant: place for place, variant in enumerate(_variants_in(comparison / CONFIG_FILE))}
    runs.sort(key=lambda run: (order.get(run.variant, len(order)), run.variant, run.seed))
    check_paired(runs)
    return runs


def check_depth(runs: Sequence[RunResult], metrics: Sequence[str]) -> None:
    """Raise ConfigError if the lists of another system are shorter than the cutoff of a metric."""
    for run in runs:
        for protocol, depth in run.depth.items():
            if shallow := [text for text in metrics if parse_metric(text).k > depth]:
                name = run_name(run.variant, run.seed)
                raise ConfigError(
                    f"{shallow[0]} can't be measured for {name}: its longest list has {counted(depth, 'item')} "
                    f"({protocol}); give "
                    "longer lists under `from`, or choose a smaller cutoff"
                )


def check_paired(runs: Sequence[RunResult]) -> None:
    """Raise UnpairedRuns unless all runs ranked the same items for the same test cases, in the same order."""
    first, *others = runs
    for run in others:
        ours, theirs = first.ranks, run.ranks
        problem = None
        if run.dataset != first.dataset:
            problem = f"the data sets are {first.dataset} and {run.dataset}"
        elif ours.candidates != theirs.candidates:
            problem = f"they rank {ours.candidates:,} and {counted(theirs.candidates, 'item')}"
        elif len(ours.user) != len(theirs.user):
            problem = f"they have {len(ours.user):,} and {counted(len(theirs.user), 'test case')}"
        elif differing := int(((ours.user != theirs.user) | (ours.item != theirs.item)).sum()):
            problem = f"user or target differ in {differing:,} of {counted(len(ours.user), 'test case')}"
        elif differing := int((ours.target_in_history != theirs.target_in_history).sum()):
            problem = f"the histories differ in whether they contain the target in {counted(differing, 'test case')}"
        if problem is not None:
            raise UnpairedRuns(run_name(first.variant, first.seed), run_name(run.variant, run.seed), problem)


def check_same_setup(runs: Sequence[RunResult]) -> None:
    """Raise UnpairedRuns if the seeds of a variant used different settings, such as another encoder."""
    first, *others = runs
    for run in others:
        names = run_name(first.variant, first.seed), run_name(run.variant, run.seed)
        if run.seed == first.seed:
            raise UnpairedRuns(*names, f"{first.folder} and {run.folder} are the same variant and seed")
        for key in SHARED_BY_SEEDS:
            ours, theirs = getattr(first, key), getattr(run, key)
            if ours != theirs and not (key == "parameters" and run.items == "rerank"):  # trees grow as they have to
                raise UnpairedRuns(*names, f"{key} of this variant is {ours} in the first and {theirs} in the second")


def _config_in(path: Path) -> dict[str, Any]:
    """A comparison's config.yaml, unchecked, so that runs of earlier versions can be read; empty without the file."""
    if not path.exists():
        return {}
    try:
        return load_yaml(path)
    except ConfigError as error:
        raise ConfigError(
            f"{path.name} can't be read: {error}; restore it, or delete it to order variants by name"
        ) from error


def _variants_in(path: Path) -> list[str]:
    """The names of the variants in a comparison's config.yaml; empty without the file."""
    variants = _config_in(path).get("variants")
    return [str(name) for name in variants] if isinstance(variants, dict) else []
