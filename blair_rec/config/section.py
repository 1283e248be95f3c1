"""The base of all config sections: a frozen pydantic model that reports all its problems in one ConfigError."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from blair_rec import registry
from blair_rec.config.names import AFTER_CUTOFF, MOST_NEW_ITEMS
from blair_rec.config.yaml.files import Where, is_number, one_of, shown, to_yaml
from blair_rec.deprecation import Renamed, with_current_keys
from blair_rec.errors import ConfigError

S = TypeVar("S", bound="Section")

LARGEST_SEED = 2**32 - 1
"""The largest seed that NumPy's generator accepts."""
Problem = tuple[tuple[str, ...], str]
"""A problem that involves several keys: these keys, and the message."""


class FieldProblem(ValueError):
    """The problems of one field, one per line. A line continues the field's name: ' is 3; expected text'."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))


def _known_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
        raise FieldProblem([f" is {device!r}; expected auto, cpu, cuda, or a GPU by its number such as cuda:1"])
    return device


DeviceName = Annotated[str, AfterValidator(_known_device)]
"""auto, cpu, cuda or cuda:1; whether the device exists is checked when it is used."""


class SectionProblem(ConfigError):
    """The problems of a section, one per line."""

    def __init__(self, of_one_key: Sequence[str], of_several: Sequence[str]) -> None:
        super().__init__("\n".join([*of_one_key, *of_several]))
        self.of_one_key = of_one_key
        """The lines that don't depend on other keys."""


class Section(BaseModel):
    """Keys and values of a config. Types are strict: neither '5' nor True is a number.

    Raises:
        ConfigError: a key or value is invalid; the message has a line for each problem, which begins with the key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
    stand_ins: ClassVar[Mapping[str, Any]] = {}
    """Values that replace wrong required keys while the other keys are checked together."""

    renamed: ClassVar[Mapping[str, Renamed]] = {}
    """Old names of keys, which still work and warn."""

    def __init__(self, **values: Any) -> None:
        values = with_current_keys(values, self.renamed)
        # pydantic creates nested sections through this method, too: all their lines arrive as the problem of one key.
        lines, wrong = list[str](), set[str]()
        try:
            super().__init__(**values)
        except ValidationError as error:
            lines, rest, wrong = _divided(error, type(self), values)
            try:
                super().__init__(**{**self.stand_ins, **rest})
            except ValidationError:  # a required key is wrong, so the keys can't be checked together
                raise SectionProblem(lines, ()) from None
        of_several = [line for keys, line in self._problems() if wrong.isdisjoint(keys)]
        if lines or of_several:
            raise SectionProblem(lines, of_several)

    def _problems(self) -> Iterator[Problem]:
        """Problems of keys that are valid one by one but not together."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _from_yaml(cls: type[S], value: Any, make: ModelWrapValidatorHandler[S]) -> S:
        """Accept what YAML gives: None for a section without keys, and a number for a key such as 3."""
        value = {} if value is None else value
        return make({str(key): one for key, one in value.items()} if isinstance(value, Mapping) else value)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        handler.resolve_ref_schema(found)["type"] = ["object", "null"]
        return found

    def changed(self: S, **values: Any) -> S:
        """Return a copy of the section with other values for some keys, checked again.

        Raises:
            ConfigError: a key or value is invalid.
        """
        return type(self)(**{**said(self), **values})


def said(section: Section) -> dict[str, Any]:
    """The explicitly set fields and their values, in the order of the section."""
    return {name: getattr(section, name) for name in type(section).model_fields if name in section.model_fields_set}


def default_of(section: type[Section], name: str) -> Any:
    """The default of a key."""
    return section.model_fields[name].get_default(call_default_factory=True)


def read_section(cls: type[S], raw: Any, where: str | Where) -> S:
    """Read a section from YAML; `where` begins each line of the error.

    Raises:
        ConfigError: with all problems together: unknown keys with the closest known one, missing keys, types, values.
    """
    where = where if isinstance(where, Where) else Where(where, {})
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where.file}: expected keys and values, got {type(raw).__name__}")
    try:
        return cls(**{str(key): value for key, value in raw.items()})
    except ConfigError as error:
        raise ConfigError("\n".join(f"{where.before(line)}: {line}" for line in str(error).splitlines())) from None


def write_yaml(config: Any) -> str:
    """The explicitly set keys of a config as YAML, which reads back as the same config."""
    return to_yaml(_plain(config, said))


def to_dict(config: Any) -> Any:
    """A section as plain dicts, lists and scalars for YAML and JSON, defaults included."""
    return _plain(config, dict)


def _plain(config: Any, fields: Callable[[Any], dict[str, Any]]) -> Any:
    if isinstance(config, Section):
        config = fields(config)
    if isinstance(config, Mapping):
        return {key: _plain(value, fields) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [_plain(value, fields) for value in config]
    return config


# Types of fields


def _as_given(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    check(value)
    return value


AS_GIVEN = WrapValidator(_as_given)
"""Keeps a whole number an int, because a run is identified by the values as its config gives them."""
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False), AS_GIVEN]
# Beyond these limits float32 overflows or rounds to 0, so that a loss could only be nan, whatever the data are.
SMALLEST_FACTOR, LARGEST_FACTOR, LARGEST_RATE = 1e-6, 1e6, 1000
Factor = Annotated[float, Field(ge=SMALLEST_FACTOR, le=LARGEST_FACTOR, allow_inf_nan=False), AS_GIVEN]
FactorOrZero = Annotated[float, Field(ge=0, le=LARGEST_FACTOR, allow_inf_nan=False), AS_GIVEN]
Rate = Annotated[float, Field(gt=0, le=LARGEST_RATE, allow_inf_nan=False), AS_GIVEN]
ShareOfOne = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AS_GIVEN]
LARGEST_COUNT = 10**9
"""Counts above it don't fit into the integers of PyTorch and NumPy, or into any memory."""
FromOneOn = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
RunSeed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
FromList = Field(strict=False)
"""For tuples, which YAML gives as lists."""


def _new_items(which: Any) -> Any:
    """Check the value before pydantic does, because its message would name two types."""
    if which is None or which == AFTER_CUTOFF or (is_number(which) and 0 < which <= MOST_NEW_ITEMS):
        return which
    raise FieldProblem([f" is {shown(which)}; expected a share above 0 and up to {MOST_NEW_ITEMS}, or {AFTER_CUTOFF}"])


NewItems = Annotated[
    int | float | str | None,
    BeforeValidator(_new_items),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_NEW_ITEMS},
                {"type": "string", "const": AFTER_CUTOFF},
                {"type": "null"},
            ]
        }
    ),
]
NotEmpty = Annotated[str, Field(min_length=1)]
ModelName = Annotated[NotEmpty, AfterValidator(lambda name: name.removeprefix("BLaIR"))]
"""RecBole's name of a model. The plugin's name for it, such as BLaIRSASRec, means the same in a comparison."""
ListOfNames = Annotated[tuple[NotEmpty, ...], FromList]


@dataclass(frozen=True)
class _NamesOf:
    """Adds the known names to the JSON Schema, at the moment when the schema is made."""

    group: str

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # Not `anyOf`: for a wrong name an editor would only say that no alternative matches.
        code = {"pattern": f"^{registry.CODE}$"}
        names = {"enum": list(registry.names(self.group))}
        return {"type": "string", "if": {"pattern": ":"}, "then": code, "else": names}


def _known_to(group: str) -> AfterValidator:
    """Check that a name is in the registry or is a `module:Class`. Nothing is imported."""

    def check(name: str) -> str:
        if not registry.knows(group, name):
            raise FieldProblem(one_of(name, registry.names(group), ""))
        return name

    return AfterValidator(check)


ItemKind = Annotated[str, _known_to("items"), _NamesOf("items")]
ScorerName = Annotated[str, _known_to("scorers"), _NamesOf("scorers")]
LossName = Annotated[str, _known_to("losses"), _NamesOf("losses")]


KeysAndValues = Annotated[Mapping[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
"""Keys and values that another section, or RecBole, reads."""


def problems_one_by_one(section: type[Section], values: Mapping[str, Any]) -> Sequence[str]:
    """The problems of some keys of a section, each checked alone."""
    try:
        section(**{str(key): value for key, value in values.items()})
    except SectionProblem as error:
        return error.of_one_key
    return ()


def part_of(section: type[Section]) -> BeforeValidator:
    """Check some keys of a section one by one. Whether they fit together is checked later, with all keys."""

    def check(values: Any) -> Any:
        if isinstance(values, Mapping) and (lines := problems_one_by_one(section, values)):
            raise FieldProblem([f".{line}" for line in lines])
        return values

    return BeforeValidator(check, json_schema_input_type=section)


# Problems in words

EMPTY = "give a value, or leave it out"
"""The words after a text that is empty, and has to mean something."""

_EXPECTED = {
    "string_type": "expected text",
    "string_too_short": EMPTY,
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list, such as [a, b]",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
    "greater_than": "it has to be above {gt}",
    "greater_than_equal": "it has to be at least {ge}",
    "less_than": "it has to be below {lt}",
    "less_than_equal": "it has to be at most {le}",
}
"""The words after the value in a message, by pydantic's name of the problem."""


def _divided(
    error: ValidationError, cls: type[Section], values: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any], set[str]]:
    """Return the messages in the order of the section's keys, the values without wrong ones, and the wrong keys.

    In a mapping, such as the variants, only the wrong entries are set to None.
    """
    known, found = list(cls.model_fields), error.errors(include_url=False)
    found.sort(key=lambda one: known.index(one["loc"][0]) + 1 if one["loc"][0] in known else 0)
    rest, wrong = {name: value for name, value in values.items() if name in known}, set[str]()
    for key, *inside in (one["loc"] for one in found):
        if inside and isinstance(rest.get(str(key)), Mapping):
            rest[str(key)] = {**rest[str(key)], inside[0]: None}
        else:
            wrong.add(str(key))
            rest.pop(str(key), None)
    return [line for one in found for line in _lines(one, known)], rest, wrong


def _lines(problem: Any, known: Sequence[str]) -> list[str]:
    path, kind, value = [str(part) for part in problem["loc"] if part != "[key]"], problem["type"], problem["input"]
    at = ".".join(path)
    if kind == "value_error":
        joined = at if isinstance(problem["ctx"]["error"], FieldProblem) else f"{at}."
        return [f"{joined}{line}" for line in str(problem["ctx"]["error"]).splitlines()]
    if kind == "extra_forbidden":
        close = get_close_matches(at, known, n=1)
        return [f"{at}: unknown key; {f'did you mean {close[0]}?' if close else 'known keys: ' + ', '.join(known)}"]
    if kind == "missing":
        return [f"{at}: missing"]
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return one_of(value, names, at) or [f"{at} is {shown(value)}; expected one of {', '.join(names)}"]
    if "[key]" in problem["loc"]:
        return [f"{at}: a key has to be text"]
    limits = {name: f"{limit:,.15g}" for name, limit in problem.get("ctx", {}).items() if is_number(limit)}
    expected = _EXPECTED.get(kind, problem["msg"]).format(**limits)
    if kind == "greater_than" and problem["ctx"]["gt"] == 0:
        expected = "it has to be a positive number"
    return [f"{at} is {shown(value)}; {expected}"]


def _at_least_one(metrics: tuple[str, ...]) -> tuple[str, ...]:
    if not metrics:
        raise FieldProblem([" is empty; name at least one, such as NDCG@10"])
    if twice := [metric for metric in dict.fromkeys(metrics) if metrics.count(metric) > 1]:
        raise FieldProblem([f" names {', '.join(twice)} more than once; name each metric once"])
    return metrics


Metrics = Annotated[
    ListOfNames, AfterValidator(_at_least_one), Field(json_schema_extra={"minItems": 1, "uniqueItems": True})
]
