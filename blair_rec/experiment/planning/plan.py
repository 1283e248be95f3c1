"""Which runs a comparison is made of, and which of them are finished and still hold."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.plugin import PLUGIN_KEYS
from blair_rec.config.reading import to_dict
from blair_rec.config.sections import TextConfig, VariantConfig
from blair_rec.errors import BadRun, ChangedRuns, DatasetError, first_of
from blair_rec.evaluate.runs.results import RunResult, accept_code, for_every_seed, load_run, read_runs, run_name
from blair_rec.evaluate.runs.run_files import RANKS_FILE, RESULT_FILE, RUNS_FOLDER, WEIGHTS_FILE
from blair_rec.experiment.item_vectors import Vectors
from blair_rec.experiment.provenance import code_files, code_hash, hash_files, hash_of

# Planning takes neither torch nor RecBole, so that a dry run answers at once.


@dataclass(frozen=True)
class Run:
    """One training of the comparison."""

    variant: str
    seed: int
    """The first one of the comparison for a run that stands for all seeds."""
    setup: Mapping[str, Any]
    """The part of the config that this run depends on."""
    hashes: Mapping[str, str | None]
    """Of config, data, store and code, and of the members' runs for an average; the store's is None for a variant
    without text or one not encoded yet, the members' while one of them is not finished."""
    store: Path | None
    """Where the vectors are, or will be; None for a variant without text."""
    folder: Path
    done: bool
    seedless: bool = False
    """Whether nothing in it is drawn by lot, so that it is the run of every seed."""

    @property
    def name(self) -> str:
        """Such as id-1."""
        return self.folder.name

    @property
    def trained(self) -> int:
        """Epochs before the run's own: none."""
        return 0

    @property
    def epochs(self) -> int:
        """The last epoch, if nothing ends the training before; 0 for what isn't trained."""
        return int((self.setup.get("train") or {}).get("epochs", 0))


def plan(config: CompareConfig, out: Path, encodings: Mapping[str, Vectors], data: str) -> list[Run]:
    """The runs of a comparison, seed by seed, an average after its members, and which are finished.

    An average is finished while its members are the runs that it was made of; to make it again takes no training.

    `encodings` are the text variants' vectors, `data` is the data set's hash.
    """
    stores = {name: encoding.known_sha256() for name, encoding in encodings.items()}
    runs = []
    for seed in config.seeds:
        for name, variant in sorted(config.variants.items(), key=lambda item: bool(item[1].average)):
            seedless = is_seedless(config, name)
            if seedless and seed != config.seeds[0]:
                continue
            setup, code = run_setup(config, name, seed), code_hash(variant.uses_text)
            hashes = {"config": hash_of(setup), "data": data, "store": stores.get(name), "code": code}
            store = encodings[name].path if name in encodings else None
            folder = out / RUNS_FOLDER / run_name(name, seed)
            run = Run(name, seed, setup, hashes, store, folder, (folder / RESULT_FILE).is_file(), seedless)
            if variant.average:
                made = _as_made(setup, folder)
                run, before = with_members(run), with_members(dataclasses.replace(run, setup=made))
                same = run.done and before.hashes["members"] is not None
                same = same and before.hashes["members"] == _made_of(folder)
                run = before if same else dataclasses.replace(run, done=False)
            runs.append(run)
    return runs


def is_seedless(config: CompareConfig, name: str) -> bool:
    """Whether nothing of a variant is drawn by lot: it is run once, with the first seed, and that stands for all."""
    variant = config.variants[name]
    if variant.average:
        return all(is_seedless(config, member) for member in variant.average)
    return variant.scorer is not None and variant.control is None


def run_names(config: CompareConfig, variants: Collection[str], seeds: Collection[int]) -> list[str]:
    """The names of the runs of these variants with these seeds, each once."""
    first = config.seeds[0]
    names = [run_name(name, first if is_seedless(config, name) else seed) for seed in seeds for name in variants]
    return list(dict.fromkeys(names))


def member_folders(folder: Path, setup: Mapping[str, Any]) -> list[Path]:
    """The folders of the runs that the run in `folder` averages; none if it is no average."""
    names = setup.get("runs") or [run_name(member, setup["seed"]) for member in setup.get("average", ())]
    return [folder.with_name(name) for name in names]


def with_members(run: Run) -> Run:
    """The run with the hash of the runs that it averages, as they are now."""
    if not member_folders(run.folder, run.setup):
        return run
    return dataclasses.replace(run, hashes={**run.hashes, "members": members_hash(run.folder, run.setup)})


def members_hash(folder: Path, setup: Mapping[str, Any]) -> str | None:
    """Of the runs that an average is made of, as they are now; None while one of them is not finished."""
    files = [member / name for member in member_folders(folder, setup) for name in (RANKS_FILE, WEIGHTS_FILE)]
    return hash_files(files, folder.parent) if all(path.is_file() for path in files) else None


def _as_made(setup: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """An average's set-up as the finished run in `folder` has it, if an earlier version made that one.

    Its members had a run for each seed, where now one may stand for all; the set-up names no runs then.
    """
    try:
        before = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")).get("setup")
    except (OSError, ValueError, AttributeError):  # not there, or damaged, which is found when it is loaded
        return setup
    if not isinstance(before, Mapping) or "runs" in before:
        return setup
    return {key: value for key, value in setup.items() if key != "runs"}


def _made_of(folder: Path) -> str | None:
    """The hash of the runs that a finished average is made of; None for a damaged one, which is made again."""
    try:
        return load_run(folder).hashes.get("members")
    except BadRun:
        return None


def run_setup(config: CompareConfig, variant_name: str, seed: int) -> dict[str, Any]:
    """The part of the config that decides on one run's numbers; the encoder's settings stand in the store."""
    variant = config.variants[variant_name]
    text = config.text_of(variant) if variant.uses_text else None
    shared = {
        "dataset": Path(config.dataset).name,
        "ties": config.ties,
        "split": to_dict(config.split),
        "evaluate": {"protocol": config.evaluate.protocol, "selection": config.evaluate.metrics[0]},
        "seed": seed,
    }
    if variant.average:  # all else stands in the runs of its members
        of_seed = [run_name(member, seed) for member in variant.average]
        runs = [run_name(name, config.seeds[0] if is_seedless(config, name) else seed) for name in variant.average]
        named = {"runs": runs} if runs != of_seed else {}  # as it is read from the names otherwise
        return {**shared, "average": list(variant.average), "weights": variant.weights, **named}
    return {
        **shared,
        "model": config.model,
        "recbole": to_dict(config.recbole_of(variant)),
        "train": to_dict(config.train_of(variant)) if variant.is_trained else None,
        "scorer": variant.scorer,
        **{name: to_dict(getattr(variant, name)) for cls, name in PLUGIN_KEYS.values() if cls is VariantConfig},
        "text": text and _text_setup(text),
    }


def _text_setup(text: TextConfig) -> dict[str, Any]:
    """What a run says of its vectors: how they were made, or where they came from."""
    names = ("encoder", "fields", "template", "missing_text") if text.store is None else ("store", "missing_text")
    return {name: to_dict(getattr(text, name)) for name in names}


def changes(run: Run) -> list[str]:
    """How a finished run differs from what is asked for now, in words; empty if it still holds.

    Raises:
        BadRun: its files are missing or damaged.
    """
    result = load_run(run.folder)
    return _changes_beside_code(result, run) + code_changes(result, run)


def _changes_beside_code(result: RunResult, run: Run) -> list[str]:
    words = _setup_changes(result, run.setup)
    if result.hashes.get("data") != run.hashes["data"]:
        words.append("the data set's files")
    if run.store is not None:
        if Path(_read(result).get("store") or "").name != run.store.name:
            words.append("the items' text, or the encoder's weights or settings")
        elif run.hashes["store"] not in (None, result.store_sha256):
            words.append("the text vectors")
    return words


def code_changes(result: RunResult, run: Run) -> list[str]:
    """Which modules that decide on a run's numbers have changed since; empty if none, or if that was accepted."""
    code = run.hashes["code"]
    if code == result.hashes.get("code") or code in result.accepted_code:
        return []
    before, now = _read(result).get("code_files"), code_files(bool(run.setup.get("text")))
    if not isinstance(before, Mapping):
        return ["the code of blair_rec (an earlier version, which didn't note its files)"]
    changed = [path for path in sorted({*before, *now}) if before.get(path) != now.get(path)]
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return [f"the code of blair_rec ({first_of(changed, 5)}{more})"]


def refuse_changed(runs: list[Run], out: Path, accept: bool = False) -> None:
    """Raises ChangedRuns if finished runs were made under other conditions, BadRun if they are damaged.

    With `accept` runs of which the code alone has changed are kept, and note that. None notes it while one is refused.
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
    """The finished runs of `config` in `out`, one that stands for all seeds once for each; other runs may lie there.

    What was tried before a variant was chosen is the config's to say: a larger budget may choose the same one again.

    Raises:
        NoRuns: there is none; BadRun: damaged ones; UnpairedRuns: over different test cases.
        ChangedRuns: some were made with another config, as after a `--fresh` that was interrupted.
    """
    found = read_runs(out, only=run_names(config, config.variants, config.seeds))
    changed = {}
    for result in found:
        setup = _as_made(run_setup(config, result.variant, result.seed), result.folder)
        changed[result.folder.name] = _setup_changes(result, setup)
        if "average" in setup and result.hashes.get("members") != members_hash(result.folder, setup):
            changed[result.folder.name].append("the runs that it averages")
    _refuse(changed, out)
    found = [
        dataclasses.replace(
            result, seedless=is_seedless(config, result.variant), trials=_trials(config, result.variant)
        )
        for result in found
    ]
    return for_every_seed(found, config.seeds)


def _trials(config: CompareConfig, name: str) -> int:
    variant = config.variants[name]
    return variant.trials + sum(_trials(config, member) for member in variant.average)


def data_folder(dataset: str) -> Path:
    """Where the atomic files lie: a folder, or the data set that RecBole itself brings.

    Raises:
        DatasetError: neither.
    """
    folder = Path(dataset)
    if folder.is_dir():
        return folder
    spec = importlib.util.find_spec("recbole")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "dataset_example" / dataset
        if dataset and bundled.is_dir():
            return bundled
    raise DatasetError(
        f"data set {dataset!r}: there is no such folder; give a folder of atomic files (NAME/NAME.inter), which is "
        "looked for in the working directory and then beside the comparison file, or ml-100k, which RecBole brings"
    )


def data_hash(config: CompareConfig) -> str:
    """SHA-256 over the files of the data set that RecBole reads: the interactions, and other features it loads.

    Raises:
        DatasetError: no such data set, or one without its interactions.
    """
    folder = data_folder(config.dataset)
    parts = config.recbole.get("benchmark_filename") or ()
    names = [f"{folder.name}.{part}.inter" for part in parts] or [f"{folder.name}.inter"]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DatasetError(f"{folder} holds no {missing[0]}; a data set's files carry the name of its folder")
    kinds = _features_read(config, folder.name)
    beside = [
        path
        for path in folder.iterdir()
        if path.name.startswith(f"{folder.name}.") and path.suffix != ".inter" and path.is_file()
        if kinds is None or path.suffix.removeprefix(".") in kinds
    ]
    return hash_files([*(folder / name for name in names), *beside], folder)


def _features_read(config: CompareConfig, dataset: str) -> set[str] | None:
    """The endings of the files whose columns RecBole loads next to .inter; None for all that are there."""
    if "load_col" in config.recbole:
        columns = config.recbole["load_col"]
        return None if columns is None else set(columns)
    model = config.model.removeprefix("BLaIR")  # the rest as RecBole's configurator chooses its defaults
    if model in ("GRU4RecKG", "KSR"):
        return {"ent"}
    if dataset != "ml-100k":
        return set()
    return {"DIN": {"user", "item"}, "DIEN": {"user", "item"}}.get(
        model, {"item"} if model in ("GRU4RecF", "SASRecF", "FDSA", "S3Rec") else set()
    )


def _refuse(changed: Mapping[str, list[str]], out: Path, only_code: bool = False) -> None:
    stale = [name for name, words in changed.items() if words]
    if stale:
        words = list(dict.fromkeys(word for words in changed.values() for word in words))
        raise ChangedRuns(out, stale, words, only_code)


def _read(result: RunResult) -> dict[str, Any]:
    """All of result.json, what RunResult leaves out included."""
    raw: dict[str, Any] = json.loads((result.folder / RESULT_FILE).read_text(encoding="utf-8"))
    return raw


def _setup_changes(result: RunResult, setup: Mapping[str, Any]) -> list[str]:
    if result.hashes.get("config") == hash_of(setup):
        return []
    before = _read(result).get("setup")
    if not isinstance(before, Mapping):
        return ["its config"]
    # Earlier versions also wrote down how many configurations had been tried.
    return _differences({key: value for key, value in before.items() if key != "trials"}, setup)


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    """'train.epochs: 3 -> 5' for every leaf that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*now, *(key for key in before if key not in now)]
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{where}{'.' * bool(where)}{key}")
        ]
    return [] if before == now else [f"{where}: {before!r} -> {now!r}"]
