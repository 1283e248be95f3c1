"""The section `tune` of a comparison: which settings are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from blair_rec.config.options.scorers import OPTIONS
from blair_rec.config.section import (
    FieldProblem,
    FromList,
    FromOneOn,
    KeysAndValues,
    RunSeed,
    Section,
    problems_one_by_one,
)
from blair_rec.config.sections import TrainConfig
from blair_rec.config.variant import TEXT_KEYS, VariantConfig
from blair_rec.config.yaml.files import one_of, shown

TUNED = tuple(f"train.{name}" for name in TrainConfig.model_fields if name not in ("epochs", "patience", "eval_every"))
"""Keys of the train section that may be tuned."""
OF_SCORERS = tuple(dict.fromkeys(f"options.{name}" for section in OPTIONS.values() for name in section.model_fields))
"""Keys of training-free scorers that may be tuned."""
OF_STUDENTS = ("distill_weight", "distill_temperature")
"""Keys of students that may be tuned."""


def _grid_of(*of_variant: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Check a grid, which may also contain these keys of a variant."""

    def check(grid: Mapping[str, Any]) -> Mapping[str, Any]:
        if problems := [line for key, values in grid.items() for line in _grid(key, values, (*of_variant, *TUNED))]:
            raise FieldProblem(problems)
        return grid

    return check


def _grid_schema(*of_variant: str) -> WithJsonSchema:
    keys = {"anyOf": [{"enum": [*of_variant, *TUNED]}, {"pattern": "^recbole[.]."}]}
    values = {"type": "array", "minItems": 1, "uniqueItems": True}
    return WithJsonSchema({"type": ["object", "null"], "propertyNames": keys, "additionalProperties": values})


def _grid(key: str, values: Any, known: Sequence[str]) -> list[str]:
    """The problems of one line of a grid."""
    section, _, name = key.partition(".")
    if not (section == "recbole" and name) and key not in known:
        return one_of(key, [*known, "recbole.KEY"], ": a key")
    return _values(key, values)


def _only(*known: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Check a grid that has these keys alone."""

    def check(grid: Mapping[str, Any]) -> Mapping[str, Any]:
        problems = [line for key in grid for line in one_of(key, known, ": a key")]
        problems += [line for key, values in grid.items() if key in known for line in _values(key, values)]
        if problems:
            raise FieldProblem(problems)
        return grid

    return check


def _schema_of_only(*known: str) -> WithJsonSchema:
    values = {"type": "array", "minItems": 1, "uniqueItems": True}
    names = {"enum": list(known)}
    return WithJsonSchema({"type": ["object", "null"], "propertyNames": names, "additionalProperties": values})


def _values(key: str, values: Any) -> list[str]:
    """The problems of the values of a key. RecBole's keys are checked later (border/recbole_keys.py)."""
    if not isinstance(values, (list, tuple)) or not values or any(values.count(value) > 1 for value in values):
        return [f": {key} is {shown(values)}; expected a list of values, each once"]
    part, dot, name = key.rpartition(".")
    of_options = next((section for section in OPTIONS.values() if name in section.model_fields), Section)
    sections: Mapping[str, type[Section]] = {"train": TrainConfig, "options": of_options, "": VariantConfig}
    if part not in sections:
        return []
    return [f": {part}{dot}{line}" for one in values for line in problems_one_by_one(sections[part], {name: one})]


def _rising(rungs: tuple[int, ...]) -> tuple[int, ...]:
    if list(rungs) != sorted({*rungs} - {0}):
        raise FieldProblem([f" are {list(rungs)}; give epochs from 1 on, in rising order, each once"])
    return rungs


Grid = Annotated[KeysAndValues, AfterValidator(_grid_of()), _grid_schema()]
TextGrid = Annotated[KeysAndValues, AfterValidator(_grid_of(*TEXT_KEYS)), _grid_schema(*TEXT_KEYS)]
ScorerGrid = Annotated[KeysAndValues, AfterValidator(_only(*OF_SCORERS)), _schema_of_only(*OF_SCORERS)]
StudentGrid = Annotated[KeysAndValues, AfterValidator(_only(*OF_STUDENTS)), _schema_of_only(*OF_STUDENTS)]


class TuneConfig(Section):
    """The search of `blair-rec tune`: the same number of configurations for each variant, sampled from a grid."""

    space: Grid = Field(default_factory=dict)
    """Grid for models without text: values of train.KEY and recbole.KEY, such as {train.learning_rate: [0.001, 0.003]}.
    All variants get the values that are chosen for the baseline. Models with text tune the learning rate once more."""
    text_space: TextGrid = Field(default_factory=dict)
    """Grid for variants that use text. It can also contain keys such as {transforms: [[center], [whiten]]}."""
    scorer_space: ScorerGrid = Field(default_factory=dict)
    """Grid for training-free scorers: values of options.KEY, such as {options.source_power: [0, 0.5]}. Each scorer gets
    the options that it has. Each option has to be one of at least one scorer of the comparison."""
    distill_space: StudentGrid = Field(default_factory=dict)
    """Grid for students (`distill`), in addition to that of their item side: values of distill_weight and
    distill_temperature."""
    budget: FromOneOn = 8
    """Configurations tried per variant."""
    rungs: Annotated[tuple[RunSeed, ...], FromList, AfterValidator(_rising)] = ()
    """Epochs after which only the best third continues (successive halving). Empty: all are trained to the end."""
    seed: RunSeed = 0
    """Seed for sampling the configurations and for training them."""
