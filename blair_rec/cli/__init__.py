"""The command line: `blair-rec COMMAND`, a module for each group of commands. The only place that prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

# All else is imported in functions, so that Ctrl-C finds main() at work from the first moment on.

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130
EXIT_PIPE = 141
"""As a shell reports a program that wrote to a closed pipe."""
WHAT_A_COMMAND_DOES = {
    "quiet": False,
    "takes_keys": False,  # of RecBole, which argparse doesn't know
    "takes_processes": False,  # of torchrun
    "takes_parts": False,  # of an item file, one for each process
    "goes_on": False,  # where it stopped, when it is started again
}
"""Unless the command says so itself, with set_defaults."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 (an error, in one message), 2 (usage), 130 (interrupted) or 141.

    The last one is for output that nobody reads to the end, as in `blair-rec ... | head`. None leaves a traceback.
    """
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still to be written when Python ends goes nowhere, without a message about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except KeyboardInterrupt:  # before a command could begin
        return EXIT_INTERRUPTED


def _main(arguments: Sequence[str] | None) -> int:
    from blair_rec.cli.terminal import Console, processes, say, set_up_logging
    from blair_rec.errors import BlairRecError, ConfigError

    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")  # of torchrun's processes one speaks
    parser = _parser()
    options, keys = parser.parse_known_args(arguments)
    if keys and not options.takes_keys:
        parser.error(f"unrecognized arguments: {' '.join(keys)}")
    options.keys = keys
    set_up_logging(console, quiet=options.quiet)
    try:
        if processes() > 1 and not options.takes_processes:
            known = "`compare`, `encode` and `pretrain`"
            raise ConfigError(f"several processes are for {known}; start this one without torchrun")
        return options.command(options, console) or 0
    except BlairRecError as error:
        if options.takes_parts:  # the others' parts may be well
            console.quiet = False
        console.print("error:", style="bold red", end=" ")
        say(console, str(error))
        return EXIT_ERROR
    except KeyboardInterrupt:
        goes_on = "; what is finished is kept: start the same command again to go on"
        say(console, "interrupted" + goes_on * options.goes_on)
        return EXIT_INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Its messages repeat what was typed, or what the shell made of `*`: a file name may hold control characters."""

    def error(self, message: str) -> NoReturn:
        from blair_rec.cli.terminal import clean

        super().error(clean(message))


def _parser() -> argparse.ArgumentParser:
    import blair_rec
    from blair_rec.cli.commands import (
        compare,
        doctor,
        export,
        prepare,
        pretrain,
        run,
        schema,
        search,
        serve,
        text,
        tune,
    )

    parser = _Parser(prog="blair-rec", description="Does item text help a sequential recommender?")
    parser.add_argument("--version", action="version", version=f"blair-rec {blair_rec.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (compare, tune, serve, export, run, text, search, prepare, pretrain, schema, doctor):
        module.add(commands)
    parser.set_defaults(**WHAT_A_COMMAND_DOES)
    return parser
