"""README says what the code says."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import yaml

from blair_rec.config import comparison as config
from blair_rec.config import sections as config_sections
from blair_rec.config.comparison import load_config, read_config
from blair_rec.config.plugin import PLUGIN_KEYS
from blair_rec.config.section import Section, default_of

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def documented(cls: type) -> dict[str, str]:
    """The line of prose under each field of a section."""
    (tree,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, prose in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(prose, ast.Expr) and isinstance(prose.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(prose.value.value).split())
    return found


def default(cls: type[Section], name: str) -> str:
    """A field's default, as YAML has it."""
    found = default_of(cls, name)
    value: Any = list(found) if isinstance(found, tuple) else found
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def plugin_table() -> str:
    """The table of `blair_*` keys, from the sections that read them."""
    lines = ["| key | default | |", "|---|---|---|"]
    for key, (cls, name) in PLUGIN_KEYS.items():
        lines.append(f"| `{key}` | `{default(cls, name)}` | {documented(cls)[name]} |")
    return "\n".join(lines)


def test_the_table_of_keys_is_the_one_that_the_sections_make() -> None:
    table = README.partition("<!-- plugin keys -->")[2].partition("<!-- end of plugin keys -->")[0].strip()
    assert table == plugin_table(), f"README's table should read:\n{plugin_table()}"


def test_every_config_field_is_documented() -> None:
    found = {**vars(config), **vars(config_sections)}.values()
    classes = [value for value in found if inspect.isclass(value) and issubclass(value, Section) and value.model_fields]
    assert len(classes) >= 8
    for cls in classes:
        assert cls.model_fields.keys() == documented(cls).keys(), cls.__name__


def test_readmes_comparison_file_can_be_read() -> None:
    (example,) = [block.partition("\n```")[0] for block in README.split("```yaml\n")[1:]]
    read = read_config(yaml.safe_load(example))
    shipped = load_config(Path(__file__).parents[1] / "configs" / "quickstart.yaml")
    assert dict(read.variants) == dict(shipped.variants)
