"""docs/configuration.md has the table that the models make, and its example can be read."""

from __future__ import annotations

import re
from pathlib import Path

from blair_rec.config.comparison import read_config
from blair_rec.config.schema import key_table
from blair_rec.config.yaml.files import read_yaml

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text("utf-8")


def test_its_table_is_the_one_that_the_models_make() -> None:
    table = PAGE.partition("<!-- keys -->\n")[2].partition("<!-- end of keys -->")[0]
    assert table == key_table(), "put the output of `blair-rec schema --markdown` between the marks"


def test_its_example_can_be_read() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    assert read_config(read_yaml(example, "example")).variants["gru"].model == "GRU4Rec"
