"""The JSON Schema says to an editor what reading the file would say, and the tables say what the models have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_config import configs

from blair_rec.cli import main
from blair_rec.config.comparison import CompareConfig, read_config
from blair_rec.config.schema import MODELINE, SCHEMA_FILE, json_schema, key_rows, key_table
from blair_rec.config.section import default_of, to_dict, write_yaml
from blair_rec.config.sections import TrainConfig
from blair_rec.config.steps import STEPS
from blair_rec.config.yaml.files import load_yaml, read_yaml
from blair_rec.errors import ConfigError
from blair_rec.registry import BUILT_IN

ITEM_KINDS = tuple(BUILT_IN["items"])

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
LEAST: dict[str, Any] = {"dataset": "tiny", "variants": {"id": None}}
EDITOR = jsonschema.Draft202012Validator(json_schema())


def said_by_an_editor(raw: Any) -> list[str]:
    """'train: Additional properties ...', a line for each problem."""
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in EDITOR.iter_errors(raw)]


def test_the_committed_schema_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    printed = capsys.readouterr().out
    assert printed == (CONFIGS / SCHEMA_FILE).read_text("utf-8"), f"blair-rec schema > configs/{SCHEMA_FILE}"
    jsonschema.Draft202012Validator.check_schema(json.loads(printed))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_committed_config_points_to_the_schema_and_fits_it(path: Path) -> None:
    first, _, _ = path.read_text("utf-8").partition("\n")
    assert first == MODELINE.rstrip("\n") and (path.parent / first.partition("$schema=")[2]).is_file()
    assert said_by_an_editor(load_yaml(path)) == []


@pytest.mark.parametrize(
    "sections, expected",
    [
        ({"trian": {}}, ": Additional properties are not allowed ('trian' was unexpected)"),
        (
            {"variants": {"id": {}, "text": {"train": {"lerning_rate": 1}}}},
            "variants.text.train: Additional properties are not allowed ('lerning_rate' was unexpected)",
        ),
        ({"variants": {"id": {"items": "txt"}}}, f"variants.id.items: 'txt' is not one of {list(ITEM_KINDS)}"),
        ({"train": {"epochs": 0}}, "train.epochs: 0 is less than the minimum of 1"),
        ({"train": {"epochs": "many"}}, "train.epochs: 'many' is not of type 'integer'"),
        ({"train": {"learning_rate": 0}}, "train.learning_rate: 0 is less than or equal to the minimum of 0"),
        ({"variants": {"id": {"train": {"gbce_t": 2}}}}, "variants.id.train.gbce_t: 2 is greater than the maximum"),
        ({"variants": {"id": {"transforms": [{"pca": 0}]}}}, "variants.id.transforms.0: {'pca': 0} is not valid under"),
        ({"variants": {"id": {"transforms": ["centre"]}}}, "variants.id.transforms.0: 'centre' is not valid under"),
        ({"variants": {"a-b": {}}}, "variants: 'a-b' does not match '^[A-Za-z0-9][A-Za-z0-9_.]*$'"),
        ({"variants": {}}, "variants: {} should be non-empty"),
        ({"seeds": [1, 1]}, "seeds: [1, 1] has non-unique elements"),
        ({"seeds": 3}, "seeds: 3 is not of type 'array'"),
        ({"recbole": {"epochs": 3}}, "recbole: 'epochs' should not be valid under"),
        ({"variants": {"id": {"recbole": {"blair_items": "id"}}}}, "variants.id.recbole: 'blair_items' should not be"),
        ({"tune": {"space": {"train.epoch": [1]}}}, "tune.space: 'train.epoch' is not valid under any of the given"),
        ({"split": {"valid_from": 3}}, "split: 'test_from' is a required property"),
        ({"evaluate": {"metrics": []}}, "evaluate.metrics: [] should be non-empty"),
    ],
)  # fmt: skip
def test_an_editor_is_told_of_misspelt_keys_and_wrong_values_as_the_reader_is(
    sections: dict[str, Any], expected: str
) -> None:
    lines = said_by_an_editor({**LEAST, **sections})
    assert len(lines) == 1 and lines[0].startswith(expected), lines
    with pytest.raises(ConfigError):
        read_config({**LEAST, **sections})


@given(configs)
def test_the_schema_accepts_every_config_that_can_be_read(config: CompareConfig) -> None:
    assert said_by_an_editor(json.loads(json.dumps(to_dict(config)))) == []
    assert said_by_an_editor(read_yaml(write_yaml(config), "")) == []


def test_empty_sections_are_accepted_as_yaml_has_them() -> None:
    raw = {**LEAST, **dict.fromkeys(["text", "train", "evaluate", "recbole", "tune"])}
    raw["variants"] = {"id": dict.fromkeys(["text", "train", "recbole"])}
    read_config(raw)
    assert said_by_an_editor(raw) == []


values = st.none() | st.booleans() | st.integers(-2, 3) | st.floats(-1, 3) | st.sampled_from(["zca", "pca", "x"])


@given(st.sampled_from([*STEPS, "x"]), values)
def test_a_step_fits_the_schema_if_it_can_be_read(name: str, value: Any) -> None:
    for step in (name, {name: value}):
        raw = {**LEAST, "text": {"fields": ["a"]}, "variants": {"id": {"items": "text", "transforms": [step]}}}
        try:
            read_config(raw)
        except ConfigError:
            readable = False
        else:
            readable = True
        whole = isinstance(value, float) and value.is_integer()  # JSON knows one kind of numbers
        assert (said_by_an_editor(raw) == []) == readable or (whole and not readable)


def test_the_table_holds_every_key_of_every_section_with_its_default_and_bounds() -> None:
    rows = {row.key: row for row in key_rows()}
    assert [key for key in rows if key.startswith("train.")] == [f"train.{name}" for name in TrainConfig.model_fields]
    assert [key for key in rows if "." not in key] == list(CompareConfig.model_fields)
    for name in TrainConfig.model_fields:
        assert json.loads(rows[f"train.{name}"].default) == default_of(TrainConfig, name)
    assert rows["train.gbce_t"][1:4] == ("number", "0.75", "at least 0, at most 1")
    assert rows["variants.NAME.items"][1:4] == ("choice", '"id"', ", ".join(f"`{kind}`" for kind in ITEM_KINDS))
    assert rows["split.test_from"][1:4] == ("text or number", "", "")
    assert (
        rows["text.fallback.encoder"].description
        == "A pip package that contains a model, a local folder, or another model on the hub."
    )
    assert all(row.description for row in rows.values())


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed == key_table()
    lines = printed.splitlines()
    assert len(lines) == 2 + len(key_rows()) and {line.count("|") for line in lines} == {6}
    passes = "The most passes over the training targets; `patience` may stop training earlier."
    assert f"| `train.epochs` | whole number | `200` | at least 1, at most 1,000,000,000 | {passes} |" in lines
