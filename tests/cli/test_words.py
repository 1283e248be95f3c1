"""Words of the command line: empty text is refused, and a message shows the usage of the command that it is about."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from blair_rec.cli import MAY_BE_EMPTY, _parser, main


def options_of(parser: argparse.ArgumentParser, *command: str) -> Iterator[tuple[str, ...]]:
    """Each option that takes text, as the words of the command and the option."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                yield from options_of(one, *command, name)
        elif action.option_strings and action.nargs != 0 and action.dest not in MAY_BE_EMPTY:
            yield (*command, action.option_strings[-1])


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command that ends with status 2, on one line."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("words", list(options_of(_parser())), ids=" ".join)
def test_no_option_takes_an_empty_value(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for empty in ([*words, ""], [*words[:-1], f"{words[-1]}="]):
        said = refused(capsys, *empty)
        assert words[-1] in said.partition("error: ")[2] and "the value is empty; give one" in said


def test_no_file_or_folder_has_an_empty_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "compare", "").endswith("error: argument CONFIG: the value is empty; give one")
    assert refused(capsys, "leaderboard", "a", "").endswith("error: argument DIR: the value is empty; give one")


@pytest.mark.parametrize(
    "words, expected",
    [
        ("leaderboard DIR --json", "usage: blair-rec leaderboard [-h] "),
        ("models --x", "usage: blair-rec models [-h] "),
        ("prepare csv --events e --user u --item i --time t -o o --repeat=keep --x", "usage: blair-rec prepare csv "),
        ("compare c.yaml --varaints a", "unrecognized arguments: --varaints a; did you mean --variants?"),
        ("compare c.yaml --divice=cpu", "unrecognized arguments: --divice=cpu; did you mean --device?"),
        ("store merge a b -o c --fesh", "blair-rec store merge: error: unrecognized arguments: --fesh; did you mean"),
    ],
)
def test_an_unknown_option_shows_the_usage_of_its_command_and_the_nearest_option(
    words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, *words.split())
