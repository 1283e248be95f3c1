"""Choose the finished runs to use: those of the best variant on validation, or of the one that the user names."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from blair_rec.config.comparison import CompareConfig, load_config
from blair_rec.errors import BadRun, ChangedRuns, ConfigError, check_whole, first_of, shell_line
from blair_rec.evaluate.runs.recorded import hash_of, read_recorded
from blair_rec.evaluate.runs.results import RunResult, load_run
from blair_rec.evaluate.runs.run_files import CONFIG_FILE, RESULT_FILE
from blair_rec.experiment.planning.plan import member_folders, run_setup
from blair_rec.experiment.planning.still_valid import finished_runs

logger = logging.getLogger("blair_rec")


@dataclass(frozen=True)
class Chosen:
    """A variant of a comparison, and its chosen runs."""

    config: CompareConfig
    comparison: Path
    variant: str
    runs: tuple[RunResult, ...]
    """One for each seed; a single one if the variant has no randomness."""

    def parts(self) -> dict[Path, float]:
        """The folders of the runs that score items, and the weight of each in the mean over seeds; the sum is 1.

        An average is replaced by its members, with its weights; members with weight 0 are skipped.

        Raises:
            ConfigError: the variant is a second stage or a student, or averages a student. BadRun: a damaged result.
        """
        found: dict[Path, float] = {}
        for run in self.runs:
            raw = read_recorded(run.folder)
            if raw["setup"].get("rerank"):
                raise ConfigError(
                    f"{self.variant} is a second stage (rerank), which can't be refitted: its trees are fitted on "
                    f"validation events, on which a refit trains its members. Use the run as it is ({run.folder}, with "
                    f"`blair-rec recommend` or blair_rec.load), or {self._another()}"
                )
            folders = member_folders(run.folder, raw["setup"])
            names = raw["setup"]["average"] if folders else []
            if missing := [name for name in names if name not in raw["weights"]]:
                raise BadRun(run.folder, RESULT_FILE, f"weights has no weight of {first_of(missing)}")
            weights = [raw["weights"][name] for name in names] or [1.0]
            for folder, weight in zip(folders or [run.folder], weights, strict=True):
                found[folder] = found.get(folder, 0.0) + weight / len(self.runs)
        kept = {folder: weight for folder, weight in found.items() if weight > 0}
        for folder in kept:
            if said := read_recorded(folder)["setup"].get("distill"):
                raise ConfigError(
                    f"{folder.name} is a student (distill), which can't be refitted: its teacher, {said['teacher']}, "
                    "has no lists for the validation and test events, on which a refit trains. Use the run as it is "
                    f"({self.runs[0].folder}, with `blair-rec recommend`, `blair-rec export` or blair_rec.load), or "
                    f"{self._another()}"
                )
        return kept

    def _another(self) -> str:
        """Name other variants, with the command to refit one: a single run takes no --variant, its comparison does."""
        names = [name for name in self.config.variants if self._can_be_refitted(name)]
        known = f" (possible: {first_of(names)})" if names else ""
        refit = shell_line("blair-rec", "refit", self.comparison, "--variant", "NAME", "-o", "DIR")
        return f"refit another variant{known}: `{refit}`"

    def _can_be_refitted(self, name: str) -> bool:
        variant = self.config.variants[name]
        parts = [variant, *(self.config.variants[member] for member in variant.average)]
        return not any(part.rerank or part.distill or part.is_elsewhere or part.control for part in parts)


def choose(run: Path, variant: str | None = None, seeds: Sequence[int] | None = None) -> Chosen:
    """Choose the runs to use. `run` is the folder of one run or of a comparison.

    In a comparison, the best variant is the one with the highest mean over its seeds on validation. Protocol and metric
    are those that order the board; the test split is not used. Controls, averages with a control, and students of these
    are never chosen, but `variant` can name them. Systems of `from` can't be used.

    Args:
        variant: a variant of the comparison, instead of the best one.
        seeds: the seeds to use; all finished ones if not given.

    Raises:
        ConfigError: `run` is neither kind of folder, or there is no finished run of this variant or seed.
        NoRuns, BadRun, UnpairedRuns, ChangedRuns: runs are missing, damaged, or made with another config.
    """
    for seed in () if seeds is None else seeds:
        check_whole("a seed", seed, least=0)
    if seeds is not None and (len(seeds) == 0 or len(set(seeds)) < len(seeds)):
        raise ConfigError(f"seeds are {list(seeds)}; give at least one, and each once")
    if (run / RESULT_FILE).is_file():
        return _named_run(run, variant, seeds)
    config = _config_of(run)
    finished = finished_runs(config, run)
    by_variant: dict[str, list[RunResult]] = {}
    for result in finished:
        by_variant.setdefault(result.variant, []).append(result)
    if variant is None:
        variant = _best(config, by_variant)
    elif variant not in by_variant:
        raise ConfigError(
            f"{run} has no finished run of a variant {variant!r}; finished: {', '.join(sorted(by_variant))}"
        )
    found = by_variant[variant]
    if found[0].seedless:
        if seeds is not None:
            logger.warning("%s doesn't depend on the seed, so the seeds that you chose have no effect", variant)
        found = found[:1]
    elif seeds is not None:
        known = [result.seed for result in found]
        if missing := [seed for seed in seeds if seed not in known]:
            raise ConfigError(
                f"{variant} has no finished run with seed {', '.join(map(str, missing))}; finished: "
                f"{', '.join(map(str, known))}"
            )
        found = [result for result in found if result.seed in seeds]
    _refuse_elsewhere(found[0])
    return Chosen(config, run, variant, tuple(found))


def _named_run(run: Path, variant: str | None, seeds: Sequence[int] | None) -> Chosen:
    if variant is not None or seeds is not None:
        raise ConfigError(f"{run} is one run; give the folder of its comparison to choose a variant or seeds")
    result = load_run(run)
    comparison = run.resolve().parent.parent
    config = _config_of(comparison)
    setup = run_setup(config, result.variant, result.seed) if result.variant in config.variants else None
    if setup is None or hash_of(setup) != result.hashes.get("config"):
        raise ChangedRuns(comparison, [run.name], [f"the config of {result.variant}"])
    _refuse_elsewhere(result)
    return Chosen(config, comparison, result.variant, (result,))


def _refuse_elsewhere(run: RunResult) -> None:
    """Raise ConfigError for a run of another system, or one made from such a run: only cases of the split are known."""
    if run.elsewhere:
        raise ConfigError(
            f"{run.variant} was trained elsewhere, or has a member that was: it can't recommend here, because another "
            "system's lists and scores are for the cases of the split alone. Choose another variant, or use the system "
            "that made them"
        )


def _config_of(comparison: Path) -> CompareConfig:
    path = comparison / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(
            f"{comparison} has no {RESULT_FILE} and no {CONFIG_FILE}; give the folder of a comparison (that of "
            "`compare -o`), or of one of its runs, such as runs/mine/runs/text-1"
        )
    return load_config(path)


def _best(config: CompareConfig, by_variant: dict[str, list[RunResult]]) -> str:
    protocol, metric = config.evaluate.protocol, config.evaluate.metrics[0]
    values = {
        name: fmean(run.valid[protocol].get(metric, math.nan) for run in runs)
        for name, runs in by_variant.items()
        if not _is_control(config, name) and not runs[0].elsewhere
    }
    values = {name: value for name, value in values.items() if not math.isnan(value)}
    if not values:
        raise ConfigError(
            f"no finished variant but controls and other systems has {metric} on validation; name one as `variant` "
            "(--variant)"
        )
    order = sorted(values, key=lambda name: (-values[name], name))
    shown = [f"{name} {values[name]:.4f}" for name in order]
    best = "the best on validation by %s %s, mean over seeds, is %s: %s"
    logger.info(best, metric, protocol, order[0], first_of(shown))
    if pending := [name for name in config.variants if name not in by_variant and not _is_control(config, name)]:
        logger.warning("variants without a finished run were not considered: %s", ", ".join(pending))
    return order[0]


def _is_control(config: CompareConfig, name: str) -> bool:
    variant: Any = config.variants[name]
    return variant.control is not None or any(_is_control(config, other) for other in variant.made_of)
