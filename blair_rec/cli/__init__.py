"""The command line: `blair-rec COMMAND`, a module for each group of commands. The only place that prints."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console

import blair_rec
from blair_rec.cli import compare, prepare, pretrain, run, search, text, tune
from blair_rec.cli.terminal import processes, say, set_up_logging
from blair_rec.errors import BlairRecError, ConfigError

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 (an error, told in one message), 2 (usage) or 130 (interrupted)."""
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")  # of torchrun's processes one speaks
    options = _parser().parse_args(arguments)
    set_up_logging(console)
    try:
        if processes() > 1 and not getattr(options, "takes_processes", False):
            known = "`compare`, `encode` and `pretrain`"
            raise ConfigError(f"several processes are for {known}; start this one without torchrun")
        return options.command(options, console) or 0
    except BlairRecError as error:
        if getattr(options, "takes_parts", False):  # the others' parts may be well
            console.quiet = False
        console.print("[bold red]error:[/]", end=" ")
        say(console, str(error))
        return EXIT_ERROR
    except KeyboardInterrupt:
        say(console, "interrupted; what is finished is kept: start the same command again to go on")
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="blair-rec", description="Does item text help a sequential recommender?")
    parser.add_argument("--version", action="version", version=f"blair-rec {blair_rec.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (compare, tune, run, text, search, prepare, pretrain):
        module.add(commands)
    parser.parse_args = _with_keys(parser)  # type: ignore[method-assign]
    return parser


def _with_keys(parser: argparse.ArgumentParser) -> Any:
    """parse_args where only `run` may be given keys that argparse doesn't know."""

    def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
        options, unknown = parser.parse_known_args(arguments)
        if unknown and not getattr(options, "takes_keys", False):
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        options.keys = unknown
        return options

    return parse
