"""docs/other_systems.md says what the code does: its example runs, and its tables name all kinds of files and keys."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from blair_rec.config.names import MATRICES
from blair_rec.config.variant import VariantConfig
from blair_rec.experiment.elsewhere.lists import LIST_KINDS
from blair_rec.experiment.elsewhere.written.export import EXPORTS
from blair_rec.experiment.elsewhere.written.split import HISTORIES, TABLES

PAGE = (Path(__file__).parents[1] / "docs" / "other_systems.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("tiny")
def test_the_example_runs() -> None:
    (config,) = re.findall(r"```yaml\n# others.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("others.yaml").write_text(config, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/other_systems.md", "exec"), {})
    found = {line.partition(" ")[0]: line.rpartition(" ")[2] for line in printed.getvalue().splitlines()}
    assert found.keys() == {"rules", "hits"} and 0 < float(found["hits"]) < float(found["rules"]) < 1
    assert "hits Most popular (by hand) 0." in printed.getvalue()


def test_its_tables_name_all_files_kinds_and_keys() -> None:
    for name in (*TABLES, *HISTORIES, "manifest.json", *(key for key in VariantConfig.model_fields if "from" in key)):
        assert f"`{name}`" in PAGE, name
    listed = {"Parquet": ".parquet", "CSV": ".csv", "`.jsonl`": ".jsonl", "`.trec`": ".trec", "`.run`": ".run"}
    assert set(listed.values()) == set(LIST_KINDS) and all(name in PAGE for name in listed)
    assert all(f"`{kind}`" in PAGE for kind in MATRICES) and ", ".join(EXPORTS[:2]) + " or csv" in PAGE
