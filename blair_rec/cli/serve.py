"""blair-rec refit | recommend: a finished comparison put to work."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from blair_rec.cli.progress import Counters, add_quiet
from blair_rec.cli.terminal import Console, say, set_up_logging
from blair_rec.errors import ConfigError


def add(commands: Any) -> None:
    """Register the commands."""
    command = commands.add_parser("refit", help="train the winner of a comparison again, on the whole log")
    command.add_argument(
        "run", type=Path, metavar="RUN", help="the folder of a comparison, whose best variant on validation is taken, "
        "or that of one of its runs"
    )  # fmt: skip
    command.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the folder of the refit")
    command.add_argument("--variant", metavar="NAME", help="this variant instead of the best one")
    command.add_argument("--seeds", metavar="1,2", help="these seeds (default: all of them, averaged)")
    command.add_argument("--store", type=Path, metavar="DIR", help="the text vectors, if they are not where they were")
    add_quiet(command)
    command.set_defaults(command=_refit, goes_on=True)


def _refit(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.serve.refit import refit

    if options.quiet:
        set_up_logging(console, quiet=True)
    with Counters(console, options.quiet) as counters:

        def told(name: str, done: int, total: int) -> None:
            counters.update(name, done, total, f"{name}: {done:,} of {total:,} training steps")

        out = refit(
            options.run,
            options.out,
            variant=options.variant,
            seeds=_seeds(options.seeds),
            store=options.store,
            progress=told,
        )
    if not options.quiet:
        say(console, f"the refit is in {out}; `blair-rec recommend {out} --all-users -o FILE` puts it to work")


def _seeds(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds is {text!r}; give whole numbers with commas between them, such as 1,2") from None
