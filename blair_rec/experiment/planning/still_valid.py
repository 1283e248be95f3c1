"""Check whether finished runs are still valid, and describe what has changed since they were made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blair_rec.config.comparison import CompareConfig
from blair_rec.errors import ChangedRuns, first_of
from blair_rec.evaluate.runs.recorded import differences, hash_of
from blair_rec.evaluate.runs.results import RunResult, accept_code, for_every_seed, load_run, read_runs
from blair_rec.experiment.planning.plan import (
    Run,
    _as_made,
    is_seedless,
    made_from,
    made_of,
    members_hash,
    run_names,
    run_setup,
)
from blair_rec.experiment.provenance import code_files


def changes(run: Run) -> list[str]:
    """Describe how a finished run differs from the planned one; empty if it is still valid.

    Raises:
        BadRun: its files are missing or damaged.
    """
    result = load_run(run.folder)
    return _changes_beside_code(result, run) + code_changes(result, run)


def _changes_beside_code(result: RunResult, run: Run) -> list[str]:
    words = _setup_changes(result, run.setup)
    if result.hashes.get("data") != run.hashes["data"]:
        words.append("the data set's files")
    if run.hashes.get("from") not in (None, result.hashes.get("from")):  # None: the files were removed since
        words.append("the files of the other system")
    if run.store is not None:
        if Path(result.store or "").name != run.store.name:
            words.append("the items' text, or the encoder's weights or settings")
        elif run.hashes["store"] not in (None, result.store_sha256):
            words.append("the text vectors")
    return words


def code_changes(result: RunResult, run: Run) -> list[str]:
    """Name the changed modules that affect a run's numbers; empty if there are none, or the change was accepted."""
    code = run.hashes["code"]
    if code == result.hashes.get("code") or code in result.accepted_code:
        return []
    before = result.code_files
    now = {**code_files(bool(run.setup.get("text"))), **run.outside}
    if before is None:
        return ["the code of blair_rec (an earlier version, which didn't record its files)"]
    changed = [path for path in sorted({*before, *now}) if before.get(path) != now.get(path)]
    ours = [path for path in changed if path.endswith(".py")]
    more = f" and {len(ours) - 5} more" if len(ours) > 5 else ""
    words = [f"the code of blair_rec ({first_of(ours, 5)}{more})"] if ours else []
    return words + [f"the code of {package}" for package in changed if package not in ours]


def refuse_changed(runs: list[Run], out: Path, accept: bool = False) -> None:
    """Raise ChangedRuns if finished runs used different settings, data, text or code, BadRun if they are damaged.

    With `accept`, runs of which only the code has changed are kept, and this is recorded in them; if any run is
    refused, nothing is recorded.
    """
    done = {run.folder: (run, load_run(run.folder)) for run in runs if run.done}
    other = {folder: _changes_beside_code(result, run) for folder, (run, result) in done.items()}
    code = {folder: code_changes(result, run) for folder, (run, result) in done.items()}
    refused = {folder.name: words + code[folder] * (not accept) for folder, words in other.items()}
    _refuse(refused, out, only_code=not any(other.values()))
    for folder, words in code.items():
        if words:
            accept_code(folder, str(done[folder][0].hashes["code"]), words[0])


def finished_runs(config: CompareConfig, out: Path) -> list[RunResult]:
    """Load the finished runs of `config` in `out`; a run that is valid for all seeds is repeated for each.

    Other runs in `out` are ignored. The number of trials is taken from the config, not from the runs: tuning with a
    larger budget may choose the same settings again.

    Raises:
        NoRuns: there are none; BadRun: some are damaged; UnpairedRuns: they have different test cases.
        ChangedRuns: some used another config, for instance after an interrupted `--fresh`.
    """
    found = read_runs(out, only=run_names(config, config.variants, config.seeds))
    changed = {}
    for result in found:
        setup = _as_made(run_setup(config, result.variant, result.seed), result.folder)
        changed[result.folder.name] = _setup_changes(result, setup)
        members = members_hash(result.folder, setup)
        if made_of(result.folder, setup) and result.hashes.get("members") != members:
            changed[result.folder.name].append(made_from(setup) + " (not finished)" * (members is None))
    _refuse(changed, out)
    found = [
        dataclasses.replace(
            result,
            seedless=is_seedless(config, result.variant),
            trials=_trials(config, result.variant),
            **_label(config, result.variant),
        )
        for result in found
    ]
    return for_every_seed(found, config.seeds)


def _label(config: CompareConfig, name: str) -> dict[str, Any]:
    """The present label of another system; nothing for other variants."""
    variant = config.variants[name]
    return {"model": config.model_of(variant)} if variant.is_elsewhere else {}


def _trials(config: CompareConfig, name: str) -> int:
    variant = config.variants[name]
    return variant.trials + sum(_trials(config, member) for member in variant.made_of)


def _refuse(changed: Mapping[str, list[str]], out: Path, only_code: bool = False) -> None:
    stale = [name for name, words in changed.items() if words]
    if stale:
        words = list(dict.fromkeys(word for words in changed.values() for word in words))
        raise ChangedRuns(out, stale, words, only_code)


def _setup_changes(result: RunResult, setup: Mapping[str, Any]) -> list[str]:
    if result.hashes.get("config") == hash_of(setup):
        return []
    if (before := result.setup) is None:
        return ["its config"]
    # Earlier versions also recorded the number of trials.
    return differences({key: value for key, value in before.items() if key != "trials"}, setup)
