"""docs/audit.md says what the code does: its example runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("tiny")
def test_the_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/audit.md", "exec"), {})
    best, *findings = printed.getvalue().splitlines()
    assert 0 < float(best.split()[1]) < 1
    assert {line.split()[0] for line in findings} == {"floor", "basis", "text", "data"}
    assert Path("audits/tiny/audit.html").is_file() and Path("audits/tiny/audit.json").is_file()
