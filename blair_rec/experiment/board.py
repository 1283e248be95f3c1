"""The leaderboard of a comparison's folder, made from its finished runs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from blair_rec.config.comparison import CompareConfig, load_config
from blair_rec.errors import ConfigError, FolderBusy, OutputError
from blair_rec.evaluate.agreement import Move, moves
from blair_rec.evaluate.leaderboard import Leaderboard, build_leaderboard
from blair_rec.evaluate.notes import by_importance
from blair_rec.evaluate.report import write_reports
from blair_rec.evaluate.runs.results import RunResult, load_runs
from blair_rec.evaluate.runs.run_files import CONFIG_FILE
from blair_rec.experiment.planning.plan import run_names
from blair_rec.experiment.planning.still_valid import finished_runs
from blair_rec.files.locks import alone_in

logger = logging.getLogger("blair_rec")


def leaderboard(out: str | Path) -> Leaderboard:
    """Render a comparison folder's finished runs again: leaderboard.{md,csv,json,tex,html} and results.jsonl.

    If the folder can't be written, or another process works in it, the files are not written, with a warning. Code that
    the folder's config names is not imported.

        board = blair_rec.leaderboard("runs/mine")

    Returns:
        The leaderboard. While the config's baseline has no finished run, the first finished variant of the config is
        its baseline, and a note says so.

    Raises:
        NoRuns, BadRun, UnpairedRuns, ChangedRuns, ConfigError: the folder is not a comparison, or is damaged.
        OutputError: a file of the leaderboard can't be written, such as on a full disk.
    """
    out = Path(out)
    _config_in(out)  # fails before a lock file is written into a folder that is not a comparison
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone_in(out))
        except FolderBusy:
            why = f"another process works in {out}"
        except OutputError as error:  # the folder of a colleague, for example
            why = str(error).rpartition("; ")[0]
        else:
            return rendered(out)
    logger.warning("%s, so the files of the leaderboard are not written", why)
    return _board(out)[0]


def rendered(out: Path) -> Leaderboard:
    """Write and return the board."""
    board, runs = _board(out)
    from blair_rec.evaluate.page.render import write_page  # imports Matplotlib, which planning doesn't need

    try:
        write_reports(board, out)
        write_page(board, runs, out)
    except OSError as error:
        raise OutputError(f"{out} can't be written ({error.strerror}), so there is no leaderboard in it") from None
    return board


def _board(out: Path) -> tuple[Leaderboard, list[RunResult]]:
    config = _config_in(out)
    runs = finished_runs(config, out)
    names = {run.folder.name for run in runs}
    pending = [name for name in run_names(config, config.variants, config.seeds) if name not in names]
    return board_of(config, runs, pending), runs


def board_of(config: CompareConfig, runs: Sequence[RunResult], pending: Sequence[str] = ()) -> Leaderboard:
    """Build the board of a config's finished runs, of which there is at least one; `pending` are the others' names.

    While the baseline has no finished run, the first finished variant is used instead, with a note.
    """
    finished, evaluate = {run.variant for run in runs}, config.evaluate
    baseline = next(name for name in (config.baseline, *config.variants) if name in finished)
    board = build_leaderboard(runs, baseline, evaluate.metrics, evaluate.protocol, pending)
    if baseline == config.baseline:
        return board
    note = f"the baseline {config.baseline} has no finished run, so {baseline} is the baseline of this table"
    return replace(board, notes=by_importance([note, *board.notes]))


def check(out: Path, other: Path) -> list[Move]:
    """Compare the metrics of a comparison's finished runs with those of an older one: did they change beyond noise?

    Raises:
        NoRuns, BadRun, ConfigError: a folder is not a comparison, or is damaged, or they have no variant in common.
        UnpairedRuns: they ranked different items or test cases.
    """
    config = _config_in(out)
    return moves(finished_runs(config, out), load_runs(other), config.evaluate.metrics)


def _config_in(out: Path) -> CompareConfig:
    path = out / CONFIG_FILE
    if not path.is_file():
        what = "does not exist"
        if out.exists():
            what = f"is not the folder of a comparison: it has no {path.name}"
        raise ConfigError(f"{out} {what}; give the output folder of `compare`")
    return load_config(path)
