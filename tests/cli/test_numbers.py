"""Numbers of the command line: every option reads plain digits alone, and no number ends in a traceback."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.cli import _parser, main
from blair_rec.cli.numbers import number, seed_list, whole
from blair_rec.errors import ConfigError
from blair_rec.prepare.public.pairs import Pairs

BOTH = ("1_0", " 5", "5 ", "٥", "nan", "inf", "-inf", "", "+", "-", "0x10", "1,5", "10" * 400)
"""No numbers for any option; Python's int or float takes most of them."""


def options() -> Iterator[Any]:
    """Every option of every command."""
    waiting = [_parser()]
    while waiting:
        for action in waiting.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
            else:
                yield action


def test_every_option_that_takes_a_number_reads_it_here() -> None:
    types = {action.type for action in options()}
    assert types == {None, Path, whole, number}


@pytest.mark.parametrize("text", [*BOTH, "1e3", "1.0", "9" * 19])
def test_what_is_no_plain_whole_number_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no whole number; give one such as 10"):
        whole(text)
    with pytest.raises(ConfigError, match="--seeds: .* is no whole number"):
        seed_list(["1", text])


@pytest.mark.parametrize("text", [text for text in BOTH if text != "10" * 400] + ["1e999", "1e", "."])
def test_what_is_no_plain_finite_number_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no finite number; give one such as 0.1"):
        number(text)


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_whole_numbers_are_read(value: int) -> None:
    assert whole(str(value)) == value and number(str(value)) == float(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimal_numbers_are_read(value: float) -> None:
    assert number(repr(value)) == value


@pytest.mark.parametrize("value", ["-1", "0", "999999999999999999", "-999999999999999999"])
@pytest.mark.parametrize(
    "command",
    [
        "prepare csv --events {here}/e.csv --user u --item i --time t -o out --dry-run --core",
        "prepare csv --events {here}/e.csv --user u --item i --time t -o out --max-rejected",
        "prepare amazon-2023 --category X --source {here} --pairs -o out --seed",
        "prepare amazon-2023 --category X --source {here} --pairs -o out --share",
        "prepare amazon-2023 --category X --source {here} -o out --core",
        "prepare fetch movielens/ml-1m --source {here} -o out --core",
        "encode --items {here}/e.csv --item-id i --fields t --encoder {here}/none -o out --max-length",
        "encode --items {here}/e.csv --item-id i --fields t --encoder {here}/none -o out --truncate-dim",
        "encode --items {here}/e.csv --item-id i --fields t --encoder {here}/none -o out --shard 0/1 --ray-workers",
        "search {here}/none query -k",
        "search-eval {here}/none --queries {here}/e.csv --relevant-from",
        "recommend {here}/none --all-users -o out.csv -k",
        "export {here}/none -o out --rules-rank",
        "verify {here}/e.csv --split {here} -k",
        "refit {here} -o out --seeds",
    ],
)
def test_no_number_ends_in_a_traceback(
    command: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.csv").write_text("u,i,t\n1,2,3\n1,3,4\n1,4,5\n")
    words = command.format(here=tmp_path).split()
    assert main([*words[:-1], f"{words[-1]}={value}" if words[-1] != "-k" else f"-k{value}"]) in (0, 1)
    capsys.readouterr()


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"max_rejected": 2.0}, {"share": 0.0}])
def test_pairs_refuse_numbers_out_of_range(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}; it (has|must)"):
        Pairs("X", tmp_path, **wrong)
