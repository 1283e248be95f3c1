"""blair-rec compare | leaderboard: the main job, and its results once more."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from blair_rec.cli.terminal import Live, say, show
from blair_rec.compare import compare, leaderboard, planned
from blair_rec.config import CompareConfig, load_config
from blair_rec.evaluate.report import to_terminal
from blair_rec.plan import changes


def add(commands: Any) -> None:
    """Register both commands."""
    command = commands.add_parser("compare", help="encode, train and rank all variants of a comparison file")
    command.add_argument("config", type=Path, metavar="CONFIG", help="a comparison file (YAML)")
    command.add_argument("-o", "--out", type=Path, help="output folder (default: runs/ and the name of CONFIG)")
    command.add_argument("--seeds", help="1,2,3 instead of the seeds in CONFIG")
    command.add_argument("--variants", help="a,b: only these, and the baseline if named")
    command.add_argument("--encoder", help="instead of text.encoder in CONFIG")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as train.epochs=5")
    command.add_argument("--dry-run", action="store_true", help="tell the runs and which are done, and stop")
    command.add_argument("--fresh", action="store_true", help="train finished runs again")
    command.set_defaults(command=_compare)

    command = commands.add_parser("leaderboard", help="render the results of a comparison again")
    command.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders that compare wrote")
    command.set_defaults(command=_leaderboard)


def _compare(options: argparse.Namespace, console: Console) -> None:
    overrides = []
    if options.encoder is not None:  # how the other encoder is read is not how this one is
        overrides += [f"text.encoder={json.dumps(options.encoder)}", "text.revision=null", "text.pooling=auto"]
    overrides += options.set
    if options.seeds is not None:
        overrides.append(f"seeds=[{options.seeds}]")
    config = load_config(options.config, overrides)
    if options.variants is not None:
        config = config.only([name.strip() for name in options.variants.split(",")])
    out = options.out or Path("runs") / options.config.stem
    if options.dry_run:
        _show_plan(config, out, console, options.fresh)
        return
    with Live(console) as live:
        board = compare(config, out, fresh=options.fresh, listener=live)
    if board is None:
        say(console, f"no leaderboard yet: the baseline {config.baseline!r} has no finished run in {out}")
        return
    show(to_terminal(board))
    say(console, f"leaderboard.md, .csv, .json and the runs are in {out}")


def _show_plan(config: CompareConfig, out: Path, console: Console, fresh: bool) -> None:
    encodings, runs = planned(config, out)
    table = Table("run", "items", "state", title=f"{config.dataset}, {config.model}: {len(runs)} runs in {out}")
    for run in runs:
        if not run.done:
            state = "to do"
        elif fresh:
            state = "done, to do again (--fresh)"
        else:
            state = f"done, but changed since: {'; '.join(changed)}" if (changed := changes(run)) else "done"
        table.add_row(run.folder.name, config.variants[run.variant].items, state)
    show(table)
    for encoding in dict.fromkeys(encodings.values()):
        state = "to do" if encoding.known_sha256() is None else "done"
        say(console, f"encoding {len(encoding.catalogue)} items with {encoding.source.name}: {state}")


def _leaderboard(options: argparse.Namespace, console: Console) -> None:
    for folder in options.folders:
        board = leaderboard(folder)
        if board is None:
            say(console, f"{folder}: the baseline has no finished run yet")
        else:
            show(to_terminal(board))
