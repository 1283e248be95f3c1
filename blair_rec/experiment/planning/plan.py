"""The runs of a comparison, and which of them are finished and still valid."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from blair_rec import registry
from blair_rec.config.comparison import CompareConfig
from blair_rec.config.names import (
    CANDIDATES,
    DISTILL_TEMPERATURE,
    DISTILL_WEIGHT,
    NEW_ITEMS_DRAW,
    TAUGHT_ITEMS,
)
from blair_rec.config.plugin import PLUGIN_KEYS
from blair_rec.config.section import to_dict
from blair_rec.config.sections import TextConfig
from blair_rec.config.variant import VariantConfig
from blair_rec.errors import BadRun
from blair_rec.evaluate.runs.recorded import hash_of
from blair_rec.evaluate.runs.results import RunResult, load_run, run_name
from blair_rec.evaluate.runs.run_files import RANKS_FILE, RESULT_FILE, RUNS_FOLDER, WEIGHTS_FILE
from blair_rec.experiment.elsewhere.files import files_hash
from blair_rec.experiment.item_vectors import Vectors
from blair_rec.experiment.provenance import code_hash, hash_files, with_outside

# Planning imports neither torch nor RecBole, so that a dry run is fast.

MEMBERS_FOLDER = "members"
"""The folder in which a refit keeps the runs that it averages."""


@dataclass(frozen=True)
class Run:
    """One training of the comparison."""

    variant: str
    seed: int
    """For a run that is valid for all seeds: the first seed of the comparison."""
    setup: Mapping[str, Any]
    """The part of the config that this run depends on."""
    hashes: Mapping[str, str | None]
    """Hashes of config, data, store and code, and for an average or a student of the runs that it is made of. The
    store's hash is None without text and before encoding, "members" is None while one of these runs is not finished.
    Runs of other systems have the hash of their files, "from", which is None while one of them is missing."""
    store: Path | None
    """The folder of the text vectors, which may not exist yet; None for a variant without text."""
    folder: Path
    done: bool
    seedless: bool = False
    """Whether it doesn't depend on the seed, so that it is valid for every seed."""
    outside: Mapping[str, str] = field(default_factory=dict)
    """The hash of each package or module of others that its numbers depend on."""

    @property
    def name(self) -> str:
        """The name of the run, such as id-1."""
        return self.folder.name

    @property
    def trained(self) -> int:
        """Epochs trained before the run: none."""
        return 0

    @property
    def epochs(self) -> int:
        """The last epoch, unless training stops early; 0 if nothing is trained."""
        return int((self.setup.get("train") or {}).get("epochs", 0))


def plan(config: CompareConfig, out: Path, encodings: Mapping[str, Vectors], data: str) -> list[Run]:
    """Plan the runs of a comparison, seed by seed, each after those that it is made of, and find which are finished.

    An average counts as finished as long as its members are the runs it was made from; making it again needs no
    training. A student counts as finished as long as its teacher is the run that it learned from. A finished training
    with other settings counts as finished in any case: it is refused later (still_valid), and not replaced.

    `encodings` are the vectors of the text variants, `data` is the hash of the data set.

    Raises:
        ConfigError: code of another package is missing; UntrustedCode: see registry.load.
    """
    stores = {name: encoding.known_sha256() for name, encoding in encodings.items()}
    runs: list[Run] = []
    unfinished: set[Path] = set()
    for seed in config.seeds:
        for name, variant in sorted(config.variants.items(), key=lambda named: _order(config, named[0])):
            seedless = is_seedless(config, name)
            if seedless and seed != config.seeds[0]:
                continue
            setup, outside = run_setup(config, name, seed), outside_code(config, name)
            code = with_outside(code_hash(variant.uses_text), outside)
            hashes = {"config": hash_of(setup), "data": data, "store": stores.get(name), "code": code}
            if variant.is_elsewhere:
                hashes["from"] = files_hash(variant, seed)
            store = encodings[name].path if name in encodings else None
            folder = out / RUNS_FOLDER / run_name(name, seed)
            run = Run(name, seed, setup, hashes, store, folder, (folder / RESULT_FILE).is_file(), seedless, outside)
            if variant.made_of:
                made = _as_made(setup, folder)
                run, before = with_members(run), with_members(dataclasses.replace(run, setup=made))
                same = run.done and before.hashes["members"] is not None
                same = same and before.hashes["members"] == _made_of(folder)
                same = same and not unfinished & set(made_of(folder, made))
                if same:
                    run = before
                elif not (run.done and _trained_otherwise(folder, setup)):
                    run = dataclasses.replace(run, done=False)
            runs.append(run)
            unfinished |= set() if run.done else {run.folder}
    return runs


def _order(config: CompareConfig, name: str) -> int:
    """A variant's place in a plan: after all that it is made of. Other systems are checked before any training."""
    variant = config.variants[name]
    if variant.is_elsewhere:
        return 0
    return 1 + max((max(1, _order(config, other)) for other in variant.made_of), default=0)


def outside_code(config: CompareConfig, name: str) -> dict[str, str]:
    """The hash of each package or module of others that a variant's numbers depend on, without those of encoders.

    Raises:
        ConfigError: one is missing; UntrustedCode: see registry.load.
    """
    found: dict[str, str] = {}
    for group, of in config.outside(name):
        if group != "encoders":
            found.update(registry.source_hash(group, of))
    return found


def is_seedless(config: CompareConfig, name: str) -> bool:
    """Whether a variant doesn't depend on the seed: it is run once, with the first seed, and is valid for all."""
    variant = config.variants[name]
    if variant.members:
        return all(is_seedless(config, member) for member in variant.members)
    if variant.is_elsewhere:
        return not variant.elsewhere_by_seed
    return variant.scorer is not None and variant.control is None


def run_names(config: CompareConfig, variants: Collection[str], seeds: Collection[int]) -> list[str]:
    """The names of the runs of these variants with these seeds, each once."""
    first = config.seeds[0]
    names = [run_name(name, first if is_seedless(config, name) else seed) for seed in seeds for name in variants]
    return list(dict.fromkeys(names))


def member_folders(folder: Path, setup: Mapping[str, Any]) -> list[Path]:
    """The folders of the runs that an average or a second stage in `folder` is made from; empty for other runs.

    They are next to it; those of a refit, which is a folder without neighbours, are inside.
    """
    members = setup.get("average") or setup.get("rerank") or ()
    names = setup.get("runs") or [run_name(member, setup["seed"]) for member in members]
    beside = folder / MEMBERS_FOLDER / folder.name if setup.get("refit") else folder
    return [beside.with_name(name) for name in names]


def made_of(folder: Path, setup: Mapping[str, Any]) -> list[Path]:
    """The folders of the finished runs that the run in `folder` is made of: its members, or its teacher."""
    if teacher := setup.get("distill"):
        return [folder.with_name(teacher["run"])]
    return member_folders(folder, setup)


def made_from(setup: Mapping[str, Any]) -> str:
    """Name the runs that a run is made of, such as "the runs that it averages"."""
    if "distill" in setup:
        return "the run that it learned from"
    return "the runs that it averages" if "average" in setup else "the runs whose best items it orders"


def made_how(setup: Mapping[str, Any]) -> str:
    """Say what a run does with the runs that it is made of, such as "averages"."""
    if "distill" in setup:
        return "learns from"
    return "averages" if "average" in setup else "orders the best items of"


def load_whole(folder: Path) -> RunResult:
    """Load a finished run that others are made of, and check that its weights can be read, too.

    Raises:
        BadRun: the result, the ranks or the weights are missing or damaged.
    """
    run = load_run(folder)
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="numpy"):
            pass
    except (OSError, SafetensorError) as error:
        raise BadRun(folder, WEIGHTS_FILE, f"can't be read: {error}") from None
    return run


def with_members(run: Run) -> Run:
    """The run with the current hash of the runs that it is made of."""
    if not made_of(run.folder, run.setup):
        return run
    return dataclasses.replace(run, hashes={**run.hashes, "members": members_hash(run.folder, run.setup)})


def members_hash(folder: Path, setup: Mapping[str, Any]) -> str | None:
    """The current hash of the runs that a run is made of; None while one of them is not finished."""
    is_refit = setup.get("refit")
    kept = (WEIGHTS_FILE,) if is_refit else (RANKS_FILE, WEIGHTS_FILE)  # a refit has no ranks
    files = [member / name for member in made_of(folder, setup) for name in kept]
    root = folder if is_refit else folder.parent  # a refit may be moved or renamed
    return hash_files(files, root) if all(path.is_file() for path in files) else None


def _as_made(setup: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """An average's setup in the form of the finished run in `folder`, which an earlier version may have made.

    Then its members had one run per seed, where now one may be valid for all, and the setup has no key `runs`.
    """
    try:
        before = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")).get("setup")
    except (OSError, ValueError, AttributeError):  # missing, or damaged, which loading reports
        return setup
    if not isinstance(before, Mapping) or "runs" in before:
        return setup
    return {key: value for key, value in setup.items() if key != "runs"}


def _made_of(folder: Path) -> str | None:
    """The hash of the runs that a finished average was made from; None if it is damaged, so it is made again."""
    try:
        return load_run(folder).hashes.get("members")
    except BadRun:
        return None


def _trained_otherwise(folder: Path, setup: Mapping[str, Any]) -> bool:
    """Whether a finished run was trained, with other settings."""
    try:
        recorded = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        return bool(recorded["setup"].get("train")) and recorded["hashes"]["config"] != hash_of(setup)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):  # damaged: it is made again
        return False


def run_setup(config: CompareConfig, variant_name: str, seed: int) -> dict[str, Any]:
    """The part of the config that affects one run's numbers; the encoder's settings are in the store."""
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
    if variant.is_elsewhere:  # the files have a hash of their own, so that they can be moved
        return {**shared, "from": list(variant.elsewhere_of(seed))}
    if variant.members:  # everything else is in the runs of its members
        of_seed = [run_name(member, seed) for member in variant.members]
        runs = [run_name(name, config.seeds[0] if is_seedless(config, name) else seed) for name in variant.members]
        named = {"runs": runs} if runs != of_seed else {}  # without the key, names follow from members and seed
        top = {} if variant.average else {"candidates": variant.candidates or CANDIDATES}
        return {**shared, variant.kind: list(variant.members), "weights": variant.weights, **top, **named}
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
        **_distill_setup(config, variant, seed),
    }


def _distill_setup(config: CompareConfig, variant: VariantConfig, seed: int) -> dict[str, Any]:
    """A student's teacher and how it learns from it; nothing for other variants, whose runs keep their hash."""
    if variant.distill is None:
        return {}
    weight, temperature = variant.distill_weight, variant.distill_temperature
    said = {
        "teacher": variant.distill,
        "run": run_names(config, [variant.distill], [seed])[0],
        "weight": DISTILL_WEIGHT if weight is None else weight,
        "temperature": DISTILL_TEMPERATURE if temperature is None else temperature,
        "items": TAUGHT_ITEMS,
    }
    return {"distill": said}


def _new_items_setup(config: CompareConfig) -> dict[str, Any]:
    """Which items are hidden; nothing where none are, so that runs without them keep their hash."""
    which = config.evaluate.new_items
    if which is None:
        return {}
    return {"new_items": which, **({} if isinstance(which, str) else {"draw": NEW_ITEMS_DRAW})}


def _without_options(said: dict[str, Any]) -> dict[str, Any]:
    """The settings without empty options, so that the hashes of runs that use none stay the same."""
    return {name: value for name, value in said.items() if value or name not in ("options", "loss_options")}


def _text_setup(text: TextConfig) -> dict[str, Any]:
    """The settings of the text vectors: how they are made, or the given store."""
    names = ("encoder", "fields", "template", "missing_text") if text.store is None else ("store", "missing_text")
    return {name: to_dict(getattr(text, name)) for name in names}
