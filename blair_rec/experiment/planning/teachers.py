"""Check that another comparison has the finished runs that students learn from, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from blair_rec.config.comparison import CompareConfig
from blair_rec.errors import ConfigError, counted, shell_line
from blair_rec.evaluate.runs.results import RunResult
from blair_rec.evaluate.runs.run_files import RESULT_FILE, RUNS_FOLDER
from blair_rec.experiment.planning.plan import is_seedless, load_whole, run_names


def check_folder(comparison: Path) -> None:
    """Check that the folder of a comparison is there.

    Raises:
        ConfigError: it is not.
    """
    if not comparison.is_dir():
        raise ConfigError(
            f"teachers: there is no folder {comparison}; give the folder of a comparison that has finished runs of the "
            "teachers (--teachers DIR, what `blair-rec compare` was given with -o)"
        )


def finished_teachers(config: CompareConfig, student: str, seed: int, comparison: Path, data: str) -> list[RunResult]:
    """Return the finished runs of a student's teacher, and of what this one is made of.

    Args:
        data: the hash of the data set.

    Raises:
        ConfigError: one of them is not finished, or used other data.
        BadRun: one of them is damaged.
    """
    teacher = config.variants[student].distill
    assert teacher is not None
    start, runs = f"{student} learns from {teacher}, and", []
    for name in (teacher, *config.behind(teacher)):
        (run,) = run_names(config, [name], [seed])
        folder = comparison / RUNS_FOLDER / run
        if not (folder / RESULT_FILE).is_file():
            raise ConfigError(f"{start} {comparison} has no finished run {run}; {_cure(config, name, comparison)}")
        found = load_whole(folder)
        if found.hashes["data"] != data:
            raise ConfigError(f"{start} {folder} used other data than this config; compare the teacher with this data")
        runs.append(found)
    return runs


def _cure(config: CompareConfig, name: str, comparison: Path) -> str:
    """Say what to do about a missing run of a variant."""
    results = (comparison / RUNS_FOLDER).glob(f"{name}-*/{RESULT_FILE}")
    seeds = sorted(int(seed) for path in results if (seed := path.parent.name.rpartition("-")[2]).isdecimal())
    if not seeds:
        compare = shell_line("blair-rec", "compare", "CONFIG", "-o", comparison)
        return f"run this comparison with {name} first ({compare})"
    there = f"it has {name} with {counted(len(seeds), 'seed')}: {', '.join(map(str, seeds))}"
    if is_seedless(config, name):
        return f"{there}. The run is valid for every seed; put the seed of its name first in `seeds`"
    return f"{there}. Set tune.seed to one of these, or compare with the missing seed, too (--seeds)"
