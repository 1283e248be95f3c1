"""The reference of all commands in Markdown, made from the parser: `python -m blair_rec.cli.reference`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

HEAD = """# Command line

All commands and options. `python -m blair_rec.cli.reference > docs/reference/commands.md` writes this page from the
program, and a test compares both. `blair-rec COMMAND --help` shows the same on the terminal.

The exit status is 0 for success, 1 for an error, 2 for wrong usage, and 130 after Ctrl-C.
"""


def commands_page(parser: argparse.ArgumentParser) -> str:
    """Return the page: a section for each command, with a table of its arguments."""
    return "\n".join([HEAD, *_sections(parser, [])])


def _sections(parser: argparse.ArgumentParser, names: list[str]) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            described = {choice.dest: _text(choice.help) for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield from _section(command, [*names, name], described[name])


def _section(command: argparse.ArgumentParser, names: list[str], said: str) -> Iterator[str]:
    yield f"{'#' * (len(names) + 1)} {' '.join(names)}\n"
    yield f"{said[:1].upper()}{said[1:]}.\n"
    if command.description and _text(command.description) != said:
        yield f"{_text(command.description)}\n"
    rows = [action for action in command._actions if not _is_hidden(action)]
    if rows:
        yield "| argument | |\n|---|---|"
        yield from (f"| {_name(action)} | {_help(action)} |" for action in rows)
        yield ""
    yield from _sections(command, names)


def _is_hidden(action: argparse.Action) -> bool:
    hidden = (argparse._SubParsersAction, argparse._HelpAction)
    return isinstance(action, hidden) or action.help == argparse.SUPPRESS


def _name(action: argparse.Action) -> str:
    """An argument as it is typed: `-o DIR`, `--out DIR`, or `CONFIG`."""
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if action.choices is not None and action.metavar is None:
        value = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{value}`" + (" ..." if action.nargs in ("*", "+") else "")
    value = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def _help(action: argparse.Action) -> str:
    required = "required; " if action.option_strings and action.required else ""
    return required + _text((action.help or "") % {"default": action.default}).replace("|", "\\|").replace("<", "&lt;")


def _text(said: str | None) -> str:
    """Help without line breaks. In Markdown, a star or an underscore would change the type."""
    return " ".join((said or "").split()).replace("*", "\\*")


if __name__ == "__main__":
    from blair_rec.cli import _parser

    sys.stdout.write(commands_page(_parser()))
