"""Plan a comparison in a folder that has earlier runs: a run of some variants or seeds keeps the other ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from blair_rec import registry
from blair_rec.config.comparison import CompareConfig, load_config
from blair_rec.errors import BadRun, BlairRecError, ConfigError
from blair_rec.evaluate.runs.run_files import CONFIG_FILE, RESULT_FILE, RUNS_FOLDER
from blair_rec.experiment.item_vectors import Vectors, find_encodings
from blair_rec.experiment.planning.data_files import data_folder, data_hash
from blair_rec.experiment.planning.plan import Run, load_whole, made_from, made_of, plan, run_names
from blair_rec.experiment.planning.still_valid import changes

STORES_FOLDER = "stores"


@dataclass(frozen=True)
class Plan:
    """The runs and vectors of a comparison folder, and which runs are made now."""

    config: CompareConfig
    """The whole comparison, including what the folder keeps from earlier ones."""
    encodings: dict[str, Vectors]
    """By variant, for variants that use text and are run now or have finished runs."""
    runs: list[Run]
    """The runs of the whole comparison."""
    asked: list[Run]
    """The runs to make now, including finished ones."""
    warnings: tuple[str, ...] = ()
    """Warnings about the folder's earlier config and its variants. They are void if the comparison is refused."""


def plan_all(
    config: CompareConfig, out: Path, variants: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> Plan:
    """Plan the runs of `config` in `out`, of which only some variants and seeds may be made now.

    Variants and seeds that are only in the folder's earlier config are kept if their finished runs are still valid;
    others are left out, and the plan has a warning for each.

    Raises the errors of compare.planned.
    """
    variants, seeds = tuple(variants or config.variants), tuple(seeds or config.seeds)
    config.only(variants)  # raises for unknown variants, and averages without their members
    if not set(seeds) <= set(config.seeds):  # these seeds replace the config's
        config = config.changed(seeds=seeds)
    folder, data = data_folder(config.dataset), data_hash(config)
    stores = out / STORES_FOLDER
    finished = _variants_with_runs(config, out)
    encodings = find_encodings(config, folder, stores, only={*variants, *finished})
    warnings: list[str] = []
    before = _config_before(out, warnings)
    if before is not None:
        config, kept = _with_kept(config, before, out, encodings, data, warnings)
        encodings = {name: found for name in config.variants if (found := {**encodings, **kept}.get(name))}
    runs = plan(config, out, encodings, data)
    names = run_names(config, variants, seeds)
    asked = [run for run in runs if run.folder.name in names]
    _check_teachers(asked, runs)
    return Plan(config, encodings, runs, asked, tuple(warnings))


def _check_teachers(asked: Sequence[Run], runs: Sequence[Run]) -> None:
    """
    Raises:
        ConfigError: a student is made now, but the run of its teacher is neither finished nor made now.
        BadRun: this run, or one that it is made of, is damaged.
    """
    there = {run.folder for run in asked} | {run.folder for run in runs if run.done}
    for run in asked:
        lacking = [other for other in runs if other.folder in made_of(run.folder, run.setup)]
        lacking = [other for other in lacking if other.folder not in there]
        if "distill" in run.setup and lacking:
            folders = [lacking[0].folder, *made_of(lacking[0].folder, lacking[0].setup)]
            finished = [folder for folder in folders if (folder / RESULT_FILE).is_file()]
            for folder in finished:
                load_whole(folder)
            state = "which is not finished"
            if lacking[0].folder in finished:
                state = "which has to be made again, because its members are not finished or were made again"
            teacher = run.setup["distill"]["teacher"]
            raise ConfigError(
                f"{run.name} learns from {lacking[0].name}, {state}; name {teacher} and its members under --variants, "
                "too"
            )


def averages_of(remade: Collection[Path], runs: Sequence[Run]) -> list[Run]:
    """The finished averages and students among `runs` that have to be made again after those in the folders `remade`.

    The board can't show an average or a student of runs that were replaced. `runs` are in the order of the plan.
    """
    found, again = [], set(remade)
    for run in runs:
        sources = set(made_of(run.folder, run.setup))
        if sources and (run.folder / RESULT_FILE).is_file() and (sources & again or not run.done):
            if all(folder in again or (folder / RESULT_FILE).is_file() for folder in sources):
                found.append(dataclasses.replace(run, done=False))
                again.add(run.folder)
    return found


def _with_kept(
    config: CompareConfig,
    before: CompareConfig,
    out: Path,
    encodings: dict[str, Vectors],
    data: str,
    warnings: list[str],
) -> tuple[CompareConfig, dict[str, Vectors]]:
    """The config extended by the folder's earlier config, and the vectors of the added variants.

    Warnings about variants that are left out are appended to `warnings`.
    """
    added = {name: variant for name, variant in before.variants.items() if name not in config.variants}
    for name in _untrusted(before, added):
        warnings.append(
            f"the board leaves out {name}: it uses Python code and is only in the folder's {CONFIG_FILE}, whose code "
            "is not imported; add it to your config to keep it"
        )
        del added[name]
    # Keep the order of seeds: runs that don't depend on the seed have the first one in their name.
    seeds = (*before.seeds, *(seed for seed in config.seeds if seed not in before.seeds))
    if not added and set(seeds) == set(config.seeds):
        return config.changed(seeds=seeds), {}
    try:
        both = config.changed(variants={**config.variants, **added}, seeds=seeds)
        with_runs = _variants_with_runs(both, out) & set(added)
        found = find_encodings(both, data_folder(config.dataset), out / STORES_FOLDER, only=with_runs)
    except BlairRecError as error:
        warnings.append(f"the board leaves out variants that are only in the folder's {CONFIG_FILE}: {error}")
        return config, {}
    named, holding, left_out = run_names(both, config.variants, config.seeds), [], {}
    for run in plan(both, out, {**encodings, **found}, data):
        if run.done and run.folder.name not in named:
            gone = [folder for folder in made_of(run.folder, run.setup) if folder.name in left_out]
            if words := _changes(run) or [made_from(run.setup)] * bool(gone):
                left_out[run.folder.name] = words
            else:
                holding.append(run)
    for name, words in left_out.items():
        warnings.append(
            f"the board leaves out {name}: not in the config, and used different settings ({'; '.join(words)})"
        )
    kept_variants = {run.variant for run in holding}
    known = kept_variants | set(config.variants)
    kept_variants = {name for name in kept_variants if set(both.behind(name)) <= known}
    kept_seeds = {run.seed for run in holding if not run.seedless}
    names = before.variants if kept_variants else config.variants  # the order of the config with more variants
    order = [
        name for name in dict.fromkeys((*names, *both.variants)) if name in config.variants or name in kept_variants
    ]
    return config.changed(
        variants={name: both.variants[name] for name in order},
        seeds=tuple(seed for seed in seeds if seed in config.seeds or seed in kept_seeds),
    ), found


def _untrusted(config: CompareConfig, names: Collection[str]) -> list[str]:
    """The variants whose code must not be imported, and those that are made of them."""
    own = {name for name in names if not all(registry.is_trusted(*one) for one in config.outside(name))}
    return [name for name in names if name in own or own & set(config.behind(name))]


def _changes(run: Run) -> list[str]:
    try:
        return changes(run)
    except BadRun as error:
        return [str(error)]


def _variants_with_runs(config: CompareConfig, out: Path) -> set[str]:
    return {
        name
        for name in config.variants
        if any((out / RUNS_FOLDER / run / RESULT_FILE).is_file() for run in run_names(config, [name], config.seeds))
    }


def _config_before(out: Path, warnings: list[str]) -> CompareConfig | None:
    """The config in a folder; None if there is none, or it can't be read, with a warning."""
    path = out / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        return load_config(path)
    except ConfigError as error:
        warnings.append(f"{path} can't be read and is replaced: {error}")
        return None
