"""Options that take a list: values with spaces between them are refused with what to write."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from blair_rec.cli import _parser, main
from blair_rec.cli.lists import LISTS, REPEATED, comma_list
from blair_rec.errors import ConfigError


def options_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All options of a command and its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options_of(command)
        elif action.option_strings:
            yield action


def test_every_option_with_a_list_is_known_with_its_example() -> None:
    found = {(action.option_strings[-1], action.metavar) for action in options_of(_parser())}
    assert {(option, example) for option, example in found if "," in str(example)} == set(LISTS.items())
    repeated = {action.option_strings[-1] for action in options_of(_parser()) if action.default == []}
    assert repeated - {"--config-files"} == set(REPEATED)


@pytest.mark.parametrize(
    "words, expected",
    [
        ("compare 2 --seeds 1 2", "2; --seeds takes a list with commas and no spaces, such as --seeds 1,2"),
        ("compare c.yaml --seeds -1 -2", "-2; --seeds takes a list with commas and no spaces, such as --seeds 1,2"),
        ("compare c.yaml --vari id text", "text; --variants takes a list with commas and no spaces, such as"),
        ("compare c.yaml --seeds 1 2", "2; --seeds takes a list with commas and no spaces, such as --seeds 1,2"),
        ("compare c.yaml --seeds 1, 2 --quiet", "2; --seeds takes a list"),
        ("compare c.yaml --seeds=1 2 3", "2 3; --seeds takes a list"),
        (
            "compare c.yaml --variants id text -o out",
            "text; --variants takes a list with commas and no spaces, such as",
        ),
        ("refit out -o new --seeds 1 2", "2; --seeds takes a list"),
        ("encode --items a.csv -o s --fields title brand", "brand; --fields takes a list with commas and no spaces"),
        ("compare c.yaml --set train.epochs=1 train.patience=2", "train.patience=2; give --set again before each KEY"),
        ("compare c.yaml -o out more", "more"),
        ("compare c.yaml --wrong 1 --seeds 1", "--wrong 1"),
    ],
)
def test_a_space_in_a_list_is_refused_with_what_to_write(
    capsys: pytest.CaptureFixture[str], words: str, expected: str
) -> None:
    with pytest.raises(SystemExit) as error:
        main(words.split())
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"blair-rec {words.split()[0]}: error: unrecognized arguments: {expected}")
    assert ";" in expected or last.endswith(expected)


def test_a_list_has_commas_and_its_values_no_spaces_around_them() -> None:
    assert comma_list("--seeds", "1, 2,3,") == ["1", "2", "3"] and comma_list("--seeds", "") == []
    with pytest.raises(ConfigError, match=r"--seeds is '1 2, 3'; put commas and no spaces .*: --seeds 1,2,3$"):
        comma_list("--seeds", "1 2, 3")
