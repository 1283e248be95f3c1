"""blair-rec tune: tune every variant with the same number of trials, and write a config for compare."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from blair_rec.cli.commands.compare import add_changes, config_of
from blair_rec.cli.numbers import whole
from blair_rec.cli.progress import Live, add_quiet
from blair_rec.cli.terminal import Console, say, show
from blair_rec.config.yaml.files import changed_by
from blair_rec.errors import shell_line

if TYPE_CHECKING:  # imported when the command runs, so that --help is quick
    from blair_rec.config.comparison import CompareConfig


def add(commands: Any) -> None:
    """Register the command."""
    command = commands.add_parser(
        "tune", help="tune every variant with the same number of trials, on the validation split"
    )
    command.add_argument("config", type=Path, metavar="CONFIG", help="a comparison file (YAML) with a tune section")
    command.add_argument("--budget", type=whole, metavar="N", help="trials for each variant, instead of tune.budget")
    command.add_argument(
        "--teachers",
        type=Path,
        metavar="RUNS",
        help="folder of a comparison with finished runs of the teachers of students (distill)",
    )
    command.add_argument("-o", "--out", type=Path, help="output folder (default: runs/my-tuned for my.yaml)")
    add_changes(command)
    add_quiet(command)
    command.set_defaults(command=_tune, goes_on=True)


def _tune(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.experiment.tune import TUNED_FILE, tune

    if options.budget is not None:
        options.set.append(changed_by("--budget", "tune.budget", options.budget))
    config = config_of(options)
    out = options.out or Path("runs") / f"{options.config.stem}-tuned"
    with Live(console, options.quiet) as live:
        tuned = tune(config, out, teachers=options.teachers, listener=live)
    show(_chosen(tuned))
    path = out / TUNED_FILE
    # -o, because compare names its folder after the file by default, and this file has the same name in every tuning.
    command = shell_line("blair-rec", "compare", path, "-o", out / "compared")
    say(console, f"wrote {path}; to evaluate it on the test split, run: {command}")


def _chosen(config: CompareConfig) -> Table:
    """A table of the settings chosen for each variant."""
    from blair_rec.experiment.tuning.search_space import chosen, in_words

    table = Table("variant", "trials", "settings", title=f"{Path(config.dataset).name}: chosen on validation")
    for name, variant in config.variants.items():
        table.add_row(name, str(variant.trials), in_words(chosen(config, name)) or "unchanged")
    return table
