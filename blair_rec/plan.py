"""Which runs a comparison is made of, and which of them are finished and still hold."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blair_rec.config import CompareConfig
from blair_rec.config_sections import TextConfig, VariantConfig
from blair_rec.errors import BadRun, ChangedRuns, DatasetError
from blair_rec.evaluate.results import RunResult, load_run, load_runs, run_name
from blair_rec.evaluate.run_files import RANKS_FILE, RESULT_FILE, RUNS_FOLDER, WEIGHTS_FILE
from blair_rec.item_vectors import Vectors
from blair_rec.plugin_config import PLUGIN_KEYS
from blair_rec.provenance import code_hash, hash_files, hash_of
from blair_rec.sections import to_dict

# Planning takes neither torch nor RecBole, so that a dry run answers at once.


@dataclass(frozen=True)
class Run:
    """One training of the comparison."""

    variant: str
    seed: int
    setup: Mapping[str, Any]
    """The part of the config that this run depends on."""
    hashes: Mapping[str, str | None]
    """Of config, data, store and code, and of the members' runs for an average; the store's is None for a variant
    without text or one not encoded yet, the members' while one of them is not finished."""
    store: Path | None
    """Where the vectors are, or will be; None for a variant without text."""
    folder: Path
    done: bool

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
            setup = run_setup(config, name, seed)
            hashes = {"config": hash_of(setup), "data": data, "store": stores.get(name), "code": code_hash()}
            store = encodings[name].path if name in encodings else None
            folder = out / RUNS_FOLDER / run_name(name, seed)
            run = Run(name, seed, setup, hashes, store, folder, (folder / RESULT_FILE).is_file())
            if variant.average:
                run = with_members(run)
                same = run.done and run.hashes["members"] is not None and run.hashes["members"] == _made_of(folder)
                run = dataclasses.replace(run, done=same)
            runs.append(run)
    return runs


def member_folders(folder: Path, setup: Mapping[str, Any]) -> list[Path]:
    """The folders of the runs that the run in `folder` averages; none if it is no average."""
    return [folder.with_name(run_name(member, setup["seed"])) for member in setup.get("average", ())]


def with_members(run: Run) -> Run:
    """The run with the hash of the runs that it averages, as they are now."""
    if not member_folders(run.folder, run.setup):
        return run
    return dataclasses.replace(run, hashes={**run.hashes, "members": members_hash(run.folder, run.setup)})


def members_hash(folder: Path, setup: Mapping[str, Any]) -> str | None:
    """Of the runs that an average is made of, as they are now; None while one of them is not finished."""
    files = [member / name for member in member_folders(folder, setup) for name in (RANKS_FILE, WEIGHTS_FILE)]
    return hash_files(files, folder.parent) if all(path.is_file() for path in files) else None


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
        "trials": variant.trials,
        "seed": seed,
    }
    if variant.average:  # all else stands in the runs of its members
        return {**shared, "average": list(variant.average), "weights": variant.weights}
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
    words = _setup_changes(result, run.setup)
    if result.hashes.get("data") != run.hashes["data"]:
        words.append("the data set's files")
    if run.store is not None:
        if Path(_read(result).get("store") or "").name != run.store.name:
            words.append("the items' text, or the encoder's weights or settings")
        elif run.hashes["store"] not in (None, result.store_sha256):
            words.append("the text vectors")
    if result.hashes.get("code") != run.hashes["code"]:
        words.append("the version of blair_rec")
    return words


def refuse_changed(runs: list[Run], out: Path) -> None:
    """Raises ChangedRuns if finished runs were made under other conditions, BadRun if they are damaged."""
    _refuse({run.folder.name: changes(run) for run in runs if run.done}, out)


def finished_runs(config: CompareConfig, out: Path) -> list[RunResult]:
    """The finished runs of `config` in `out`; runs of other variants and seeds may lie beside them.

    Raises:
        NoRuns: there is none; BadRun: damaged ones; UnpairedRuns: over different test cases.
        ChangedRuns: some were made with another config, as after a `--fresh` that was interrupted.
    """
    names = {run_name(variant, seed) for variant in config.variants for seed in config.seeds}
    found = load_runs(out, only=names)
    changed = {}
    for result in found:
        setup = run_setup(config, result.variant, result.seed)
        changed[result.folder.name] = _setup_changes(result, setup)
        if "average" in setup and result.hashes.get("members") != members_hash(result.folder, setup):
            changed[result.folder.name].append("the runs that it averages")
    _refuse(changed, out)
    return found


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
        f"data set {dataset!r}: there is no such folder; give a folder of atomic files (NAME/NAME.inter), "
        "or ml-100k, which RecBole brings"
    )


def data_hash(config: CompareConfig) -> str:
    """SHA-256 over the interaction files of the data set."""
    folder = data_folder(config.dataset)
    files = list(folder.glob(f"{folder.name}*.inter"))
    if not files:
        raise DatasetError(f"{folder} holds no {folder.name}.inter; a data set's files carry the name of its folder")
    return hash_files(files, folder)


def _refuse(changed: Mapping[str, list[str]], out: Path) -> None:
    stale = [name for name, words in changed.items() if words]
    if stale:
        raise ChangedRuns(out, stale, list(dict.fromkeys(word for words in changed.values() for word in words)))


def _read(result: RunResult) -> dict[str, Any]:
    """All of result.json, what RunResult leaves out included."""
    raw: dict[str, Any] = json.loads((result.folder / RESULT_FILE).read_text(encoding="utf-8"))
    return raw


def _setup_changes(result: RunResult, setup: Mapping[str, Any]) -> list[str]:
    if result.hashes.get("config") == hash_of(setup):
        return []
    return _differences(_read(result).get("setup", {}), setup) or ["its config"]


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
