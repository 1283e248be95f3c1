"""Which runs a comparison is made of, and which of them are finished and still hold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blair_rec import registry
from blair_rec.config.comparison import CompareConfig
from blair_rec.config.names import NEW_ITEMS_DRAW
from blair_rec.config.plugin import PLUGIN_KEYS
from blair_rec.config.section import to_dict
from blair_rec.config.sections import TextConfig, VariantConfig
from blair_rec.errors import BadRun
from blair_rec.evaluate.runs.results import load_run, run_name
from blair_rec.evaluate.runs.run_files import RANKS_FILE, RESULT_FILE, RUNS_FOLDER, WEIGHTS_FILE
from blair_rec.experiment.item_vectors import Vectors
from blair_rec.experiment.provenance import code_hash, hash_files, hash_of, with_outside

# Planning takes neither torch nor RecBole, so that a dry run answers at once.

MEMBERS_FOLDER = "members"
"""Where a refit keeps the runs that it averages."""


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
    outside: Mapping[str, str] = field(default_factory=dict)
    """The hash of each package, or module, from outside that its numbers depend on."""

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

    Raises:
        ConfigError: code from outside that isn't there; UntrustedCode: as registry.load.
    """
    stores = {name: encoding.known_sha256() for name, encoding in encodings.items()}
    runs = []
    for seed in config.seeds:
        for name, variant in sorted(config.variants.items(), key=lambda item: bool(item[1].average)):
            seedless = is_seedless(config, name)
            if seedless and seed != config.seeds[0]:
                continue
            setup, outside = run_setup(config, name, seed), outside_code(config, name)
            code = with_outside(code_hash(variant.uses_text), outside)
            hashes = {"config": hash_of(setup), "data": data, "store": stores.get(name), "code": code}
            store = encodings[name].path if name in encodings else None
            folder = out / RUNS_FOLDER / run_name(name, seed)
            run = Run(name, seed, setup, hashes, store, folder, (folder / RESULT_FILE).is_file(), seedless, outside)
            if variant.average:
                made = _as_made(setup, folder)
                run, before = with_members(run), with_members(dataclasses.replace(run, setup=made))
                same = run.done and before.hashes["members"] is not None
                same = same and before.hashes["members"] == _made_of(folder)
                run = before if same else dataclasses.replace(run, done=False)
            runs.append(run)
    return runs


def outside_code(config: CompareConfig, name: str) -> dict[str, str]:
    """The hash of each package, or module, from outside that a variant's numbers depend on; vectors have their own.

    Raises:
        ConfigError: one isn't there; UntrustedCode: as registry.load.
    """
    found: dict[str, str] = {}
    for group, of in config.outside(name):
        if group != "encoders":
            found.update(registry.source_hash(group, of))
    return found


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
    """The folders of the runs that the run in `folder` averages; none if it is no average.

    They lie beside it; those of a refit, which is one folder of its own, lie in it.
    """
    names = setup.get("runs") or [run_name(member, setup["seed"]) for member in setup.get("average", ())]
    beside = folder / MEMBERS_FOLDER / folder.name if setup.get("refit") else folder
    return [beside.with_name(name) for name in names]


def with_members(run: Run) -> Run:
    """The run with the hash of the runs that it averages, as they are now."""
    if not member_folders(run.folder, run.setup):
        return run
    return dataclasses.replace(run, hashes={**run.hashes, "members": members_hash(run.folder, run.setup)})


def members_hash(folder: Path, setup: Mapping[str, Any]) -> str | None:
    """Of the runs that an average is made of, as they are now; None while one of them is not finished."""
    is_refit = setup.get("refit")
    kept = (WEIGHTS_FILE,) if is_refit else (RANKS_FILE, WEIGHTS_FILE)  # a refit is ranked nowhere
    files = [member / name for member in member_folders(folder, setup) for name in kept]
    root = folder if is_refit else folder.parent  # a refit may be moved, and called otherwise
    return hash_files(files, root) if all(path.is_file() for path in files) else None


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
        "evaluate": {
            "protocol": config.evaluate.protocol,
            "selection": config.evaluate.metrics[0],
            **_new_items_setup(config),
        },
        "seed": seed,
    }
    if variant.average:  # all else stands in the runs of its members
        of_seed = [run_name(member, seed) for member in variant.average]
        runs = [run_name(name, config.seeds[0] if is_seedless(config, name) else seed) for name in variant.average]
        named = {"runs": runs} if runs != of_seed else {}  # as it is read from the names otherwise
        return {**shared, "average": list(variant.average), "weights": variant.weights, **named}
    return {
        **shared,
        "model": config.model_of(variant),
        "recbole": to_dict(config.recbole_of(variant)),
        "train": _without_options(to_dict(config.train_of(variant))) if variant.is_trained else None,
        "scorer": variant.scorer,
        **_without_options(
            {name: to_dict(getattr(variant, name)) for cls, name in PLUGIN_KEYS.values() if cls is VariantConfig}
        ),
        "text": text and _text_setup(text),
    }


def _new_items_setup(config: CompareConfig) -> dict[str, Any]:
    """Which items are hidden; nothing where none are, so that runs without them keep their hash."""
    which = config.evaluate.new_items
    if which is None:
        return {}
    return {"new_items": which, **({} if isinstance(which, str) else {"draw": NEW_ITEMS_DRAW})}


def _without_options(said: dict[str, Any]) -> dict[str, Any]:
    """Without options for code from outside where there are none: runs without such code never heard of them."""
    return {name: value for name, value in said.items() if value or name not in ("options", "loss_options")}


def _text_setup(text: TextConfig) -> dict[str, Any]:
    """What a run says of its vectors: how they were made, or where they came from."""
    names = ("encoder", "fields", "template", "missing_text") if text.store is None else ("store", "missing_text")
    return {name: to_dict(getattr(text, name)) for name in names}
