"""The command line `blair-rec COMMAND`, with one module per group of commands. Only this folder prints."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

# Everything else is imported inside functions, so that main() is already running and can handle Ctrl-C.

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of the system for a file that may not be read or written."""
EXIT_PIPE = 141
"""The status that a shell gives a program that wrote to a closed pipe."""
MAY_BE_EMPTY = ("prompt", "query_prompt", "queries")
"""Options that may be empty: an empty prompt means no prompt, and an empty query has its own message."""
WHAT_A_COMMAND_DOES = {
    "quiet": False,
    "takes_keys": False,  # accepts RecBole's keys, which argparse doesn't list
    "takes_processes": False,  # can run under torchrun
    "takes_parts": False,  # gives each process a part of the item file
    "goes_on": False,  # resumes if it is started again
}
"""Defaults, which a command overrides with set_defaults."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. The exit status is 0, 1 (an error, in one message), 2 (wrong usage), 130 (interrupted) or 141.

    141 means that the reader closed the output early, as in `blair-rec ... | head`. There is never a traceback.
    """
    _prepare_streams()
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python writes the rest of the output at its end; send it nowhere, so that there is no message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except KeyboardInterrupt:  # before a command has begun
        return EXIT_INTERRUPTED


def _prepare_streams() -> None:
    """Make sure that every character can be written: as "?" where the terminal has another encoding than UTF-8."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:  # closed by the caller, as in `blair-rec ... >&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open to the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _main(arguments: Sequence[str] | None) -> int:
    from blair_rec.cli.lists import list_hint
    from blair_rec.cli.terminal import Console, say, set_up_logging
    from blair_rec.device import process_count, process_rank
    from blair_rec.errors import BlairRecError, ConfigError, out_of
    from blair_rec.files.writing import FULL

    console = Console(stderr=True)
    parser = _parser()
    given = sys.argv[1:] if arguments is None else arguments
    if wrong := [word for word in given if not _is_unicode(word)]:
        many = f"{out_of(len(wrong), len(given), 'argument', 'are')} not"
        parser.error(
            f"{wrong[0]} is not {sys.getfilesystemencoding().upper()} ({many}); rename the file or folder, or type the "
            "text again in a UTF-8 terminal"
        )
    options, keys = parser.parse_known_args(arguments)
    if keys and not options.takes_keys:
        hint = list_hint(given, keys) or options.parser.nearest(keys[0])
        options.parser.error(f"unrecognized arguments: {' '.join(keys)}{hint}")
    options.keys = keys
    set_up_logging(console, quiet=options.quiet)
    try:
        console.quiet = process_rank() > 0  # one process prints
        if process_count() > 1 and not options.takes_processes:
            known = "`compare`, `encode` and `pretrain`"
            raise ConfigError(f"only {known} can use several processes; start this command without torchrun")
        if not _has_working_directory():
            raise ConfigError("the working directory was removed; change to another one, then run the command again")
        return options.command(options, console) or 0
    except BlairRecError as error:
        if options.takes_parts:  # the other processes may succeed, so this one has to report
            console.quiet = False
        console.print("error:", style="bold red", end=" ")
        say(console, str(error))
        return EXIT_ERROR
    except OSError as error:
        place = error.filename2 or error.filename  # the second one is where a temporary file was to go
        if error.errno not in FULL:
            no_temporary = "temporary directory" in str(error.strerror)  # Python's tempfile tried several folders
            if not place and not no_temporary:  # not an error of a file, such as one of the network
                raise
            cure = "change its permissions, or " * (error.errno in DENIED) + "choose another file or folder"
            cure = "set TMPDIR to a folder that can be written" if no_temporary else cure
            console.print("error:", style="bold red", end=" ")
            say(console, f"{place or 'a temporary file'} can't be used ({error.strerror}); {cure}")
            return EXIT_ERROR
        console.print("error:", style="bold red", end=" ")
        where = f"{place} can't be written" if place else "a file can't be written"
        say(console, f"{where} ({error.strerror}); free some space, then run the same command again")
        return EXIT_ERROR
    except KeyboardInterrupt:
        again = "again without --fresh" if getattr(options, "fresh", False) else "again"  # --fresh trains all again
        goes_on = f"; finished work is kept: run the same command {again} to resume"
        say(console, "interrupted" + goes_on * options.goes_on)
        return EXIT_INTERRUPTED


def _has_working_directory() -> bool:
    """Whether the folder in which the command was started is still there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _is_unicode(word: str) -> bool:
    """Whether a word of the command line holds no bytes that Python could not read as text."""
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Parser(argparse.ArgumentParser):
    """Cleans its messages: they repeat typed words and file names, which may contain control characters."""

    def error(self, message: str) -> NoReturn:
        from blair_rec.cli.terminal import clean

        super().error(clean(message))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Also put the parser of the command into `parser`, because its usage belongs to a message about its words."""
        found, rest = super().parse_known_args(args, namespace)
        found.parser = getattr(found, "parser", self)  # a command's parser comes before the program's
        return found, rest

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse empty text, which would be read as no value, or as the working directory."""
        if "" in arg_strings and action.nargs != argparse.PARSER and action.dest not in MAY_BE_EMPTY:
            is_needed = action.required or not action.option_strings
            raise argparse.ArgumentError(
                action, "the value is empty; give one" + ", or leave the option out" * (not is_needed)
            )
        return super()._get_values(action, arg_strings)

    def nearest(self, word: str) -> str:
        """Return a hint that names the option closest to a misspelt one; "" if none is close."""
        from difflib import get_close_matches

        known = [one[2:] for one in self._option_string_actions if one.startswith("--")]  # else "--" looks alike
        near = get_close_matches(word.lstrip("-").partition("=")[0], known, n=1)
        return f"; did you mean --{near[0]}?" if near and word.startswith("-") else ""


def _parser() -> argparse.ArgumentParser:
    import blair_rec
    from blair_rec.cli.commands import compare, doctor, export, run, schema, serve, tune
    from blair_rec.cli.commands.data import audit, prepare, split
    from blair_rec.cli.commands.texts import encode, pretrain, search

    about = "Compare sequential recommenders with and without item text, fairly, and use the best one."
    parser = _Parser(prog="blair-rec", description=about)
    parser.add_argument("--version", action="version", version=f"blair-rec {blair_rec.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (compare, tune, serve, export, run, encode, search, prepare, audit, split, pretrain, schema, doctor):
        module.add(commands)
    parser.set_defaults(**WHAT_A_COMMAND_DOES)
    return parser
