"""A section of a config: a frozen pydantic model whose problems are all told at once, as one ConfigError."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from blair_rec import registry
from blair_rec.config.yaml_files import Dumper, is_number, one_of
from blair_rec.errors import ConfigError

S = TypeVar("S", bound="Section")

LARGEST_SEED = 2**32 - 1
"""The largest that NumPy's generator takes."""


class FieldProblem(ValueError):
    """What a check of one field found, a line each, which goes on after the field's name: ' is 3; expected text'."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))


class Section(BaseModel):
    """Keys and values of a config. Types are taken strictly: '5' is no number, and True is none.

    Raises:
        ConfigError: when it is made of what can't be meant; a line for each problem, which begins with the key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
    written_if_said: ClassVar[frozenset[str]] = frozenset()
    """Keys that mean something else where nobody sets them than with their default; write_yaml leaves these out."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError("\n".join(_problems(error, type(self)))) from None

    # Sections in a section are then read by pydantic without this method, so that each problem keeps its place.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    def changed(self: S, **values: Any) -> S:
        """The same section with other values for some keys, checked again.

        Raises:
            ConfigError: a key or a value that can't be meant.
        """
        return type(self)(**{**said(self), **values})


def said(section: Section) -> dict[str, Any]:
    """The fields that somebody has set, as they are, in the order of the section."""
    return {name: getattr(section, name) for name in type(section).model_fields if name in section.model_fields_set}


def values_of(section: Section) -> dict[str, Any]:
    """All fields by name, as they are."""
    return {name: getattr(section, name) for name in type(section).model_fields}


def default_of(section: type[Section], name: str) -> Any:
    """What a key has where nobody sets it."""
    return section.model_fields[name].get_default(call_default_factory=True)


def read_section(cls: type[S], raw: Any, where: str) -> S:
    """A section from YAML; `where` begins each line of the error.

    Raises:
        ConfigError: with every problem at once: unknown keys with the near one, missing keys, types, values.
    """
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in _problems(error, cls))) from None


def write_yaml(config: Any) -> str:
    """A config as text that load_config makes the same config of."""
    # Without allow_unicode, which would write some line breaks (U+0085) in a way that is read back as spaces.
    text: str = yaml.dump(_plain(config, to_write=True), Dumper=Dumper, sort_keys=False)
    return text


def to_dict(config: Any) -> Any:
    """Plain dicts, lists and scalars of a section: what YAML and JSON can hold."""
    return _plain(config, to_write=False)


def _plain(config: Any, to_write: bool) -> Any:
    if isinstance(config, Section):
        unsaid = config.written_if_said - config.model_fields_set if to_write else ()
        config = {name: value for name, value in values_of(config).items() if name not in unsaid}
    if isinstance(config, Mapping):
        return {key: _plain(value, to_write) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [_plain(value, to_write) for value in config]
    return config


# Types of fields


def _as_given(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    check(value)
    return value


AS_GIVEN = WrapValidator(_as_given)
"""A whole number stays one, so that a run is known by what its config says."""
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False), AS_GIVEN]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), AS_GIVEN]
ShareOfOne = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AS_GIVEN]
FromOneOn = Annotated[int, Field(ge=1)]
RunSeed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
FromList = Field(strict=False)
"""For tuples, which YAML gives as lists."""
ListOfNames = Annotated[tuple[str, ...], FromList]


@dataclass(frozen=True)
class _NamesOf:
    """Tells an editor which names there are, at the moment when it asks."""

    group: str

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # Not a choice of both, of which an editor says no more than that neither fits.
        code = {"pattern": f"^{registry.CODE}$"}
        names = {"enum": list(registry.names(self.group))}
        return {"type": "string", "if": {"pattern": ":"}, "then": code, "else": names}


def _known_to(group: str) -> AfterValidator:
    """Checks that the registry knows a text, or that it is `module:Class`; nothing is imported for that."""

    def check(name: str) -> str:
        if not registry.knows(group, name):
            raise FieldProblem(one_of(name, registry.names(group), ""))
        return name

    return AfterValidator(check)


ItemKind = Annotated[str, _known_to("items"), _NamesOf("items")]
ScorerName = Annotated[str, _known_to("scorers"), _NamesOf("scorers")]
LossName = Annotated[str, _known_to("losses"), _NamesOf("losses")]


def _empty(value: Any) -> Any:
    return {} if value is None else value


KeysAndValues = Annotated[Mapping[str, Any], BeforeValidator(_empty)]
"""Keys and values that another section, or RecBole, reads."""


def part_of(section: type[Section]) -> AfterValidator:
    """Checks some keys of a section, each for itself; whether they fit the others is for who has them all."""

    def check(values: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            section.model_validate(values)
        except ValidationError as error:
            if problems := _problems(error, section, whole=False):
                raise FieldProblem([f".{line}" for line in problems]) from None
        return values

    return AfterValidator(check)


# Problems in words

_EXPECTED = {
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list, such as [a, b]",
    "dict_type": "expected keys and values",
    "mapping_type": "expected keys and values",
    "model_type": "expected keys and values",
    "model_attributes_type": "expected keys and values",
    "greater_than": "it has to be above {gt}",
    "greater_than_equal": "it has to be at least {ge}",
    "less_than": "it has to be below {lt}",
    "less_than_equal": "it has to be at most {le}",
}
"""By pydantic's name of a problem: how a message says it, after the value."""


def _problems(error: ValidationError, cls: type[Section], whole: bool = True) -> list[str]:
    """Every problem, a line each: the place of the key, dotted from the top, and what is wrong with it.

    whole: with those of keys that don't fit each other.
    """
    found = [one for one in error.errors(include_url=False) if whole or one["loc"]]
    met: dict[Sequence[Any], int] = {}
    found.sort(key=lambda one: _place(cls, one["loc"], met))
    return [line for one in found for line in _lines(one, cls)]


def _place(cls: type[Section], path: Sequence[Any], met: dict[Sequence[Any], int]) -> list[tuple[int, str]]:
    """Sorts problems by the order of a section's keys, unknown ones first; where any key may be, as they are `met`."""
    order = []
    for depth, part in enumerate(path):
        if known := _known(cls, path[:depth]):
            order.append((known.index(part) + 1 if part in known else 0, str(part)))
        else:
            order.append((met.setdefault(path[: depth + 1], len(met)), ""))
    return order


def _lines(problem: Any, cls: type[Section]) -> list[str]:
    path, kind, value = [str(part) for part in problem["loc"] if part != "[key]"], problem["type"], problem["input"]
    at = ".".join(path)
    if kind == "value_error":
        joined = at if isinstance(problem["ctx"]["error"], FieldProblem) else f"{at}." if at else ""
        return [f"{joined}{line}" for line in str(problem["ctx"]["error"]).splitlines()]
    if kind in ("extra_forbidden", "invalid_key"):
        known = _known(cls, problem["loc"][:-1])
        close = get_close_matches(path[-1], known, n=1)
        return [f"{at}: unknown key; {f'did you mean {close[0]}?' if close else 'known keys: ' + ', '.join(known)}"]
    if kind == "missing":
        return [f"{at}: missing"]
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return one_of(value, names, at) or [f"{at} is {value!r}; expected one of {', '.join(names)}"]
    if "[key]" in problem["loc"]:
        return [f"{at}: a key has to be text"]
    limits = {name: f"{limit:.15g}" for name, limit in problem.get("ctx", {}).items() if is_number(limit)}
    expected = _EXPECTED.get(kind, problem["msg"]).format(**limits)
    if kind == "greater_than" and problem["ctx"]["gt"] == 0:
        expected = "it has to be a positive number"
    return [f"{at} is {value!r}; {expected}" if at else f"{expected}, got {value!r}"]


def _known(cls: type[Section], path: Sequence[Any]) -> list[str]:
    """The keys that a place in a config may have; none where any may be."""
    kind: Any = cls
    for part in path:
        if _is_section(kind):
            kind = kind.model_fields[part].annotation if part in kind.model_fields else None
        else:  # one of the sections of a mapping
            kind = _section_in(kind)
        if type(None) in get_args(kind):
            kind = _section_in(kind)
    return list(kind.model_fields) if _is_section(kind) else []


def _section_in(kind: Any) -> Any:
    return next((one for one in get_args(kind) if _is_section(one)), None)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)
