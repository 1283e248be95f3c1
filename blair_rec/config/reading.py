"""Config dataclasses from YAML and back: types checked, unknown keys refused with the near one named."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from blair_rec.errors import ConfigError

T = TypeVar("T")

LARGEST_SEED = 2**32 - 1
"""The largest that NumPy's generator takes."""


def read_section(cls: type[T], raw: Mapping[str, Any] | None, where: str) -> T:
    """A config dataclass from one YAML section. A misspelt key is an error, never a silent default."""
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {raw!r}")
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    problems = []
    for key in sorted(set(raw) - set(known), key=str):
        near = get_close_matches(str(key), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        problems.append(f"unknown key {key!r}; {hint}")
    required = [f.name for f in fields(cls) if f.default is f.default_factory is dataclasses.MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in raw]:
        problems.append(f"missing {', '.join(missing)}")
    else:
        try:
            section = cls(**{name: raw[name] for name in known if name in raw})
        except ConfigError as error:
            problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems))
    return section


class _Loader(yaml.SafeLoader):
    """YAML as it is meant: 1e-3 is a number (YAML 1.1 makes it a text), and a key that stands twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Writes what _Loader reads back."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+\Z"),
        list("-+.0123456789"),
    )


def read_yaml(text: str, where: str) -> Any:
    """What a YAML text says.

    Raises:
        ConfigError: not YAML, or a key that stands twice in one place.
    """
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as the 31st of February
        raise ConfigError(f"{where}: not YAML: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def load_yaml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a YAML file says, with `section.key=value` overrides on top (values read as YAML).

    Raises:
        ConfigError: file missing, not UTF-8, not YAML, or no keys and values.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    raw = read_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(raw).__name__}")
    for override in overrides:
        _set(raw, override)
    return raw


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value, such as train.epochs=5")
    *sections, last = key.split(".")
    for section in sections:
        if raw.get(section) is None:
            raw[section] = {}
        raw = raw[section]
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {override}: {section!r} holds a value, not keys")
    raw[last] = read_yaml(value, f"--set {override}")


def write_yaml(config: Any) -> str:
    """A config as text that load_config makes the same config of."""
    # Without allow_unicode, which would write some line breaks (U+0085) in a way that is read back as spaces.
    text: str = yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False)
    return text


def to_dict(config: Any) -> Any:
    """Plain dicts, lists and scalars of a config dataclass: what YAML and JSON can hold."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_dict(value) for value in config]
    return config


def shallow(config: Any) -> dict[str, Any]:
    """The fields of a config dataclass by name, as they are."""
    return {f.name: getattr(config, f.name) for f in fields(config)}


def freeze(config: Any, name: str) -> None:
    """A list, as YAML gives it, becomes a tuple."""
    if isinstance(value := getattr(config, name), list):
        object.__setattr__(config, name, tuple(value))


def refuse(problems: Sequence[str]) -> None:
    """All problems in one ConfigError, a line each; nothing without any."""
    if problems:
        raise ConfigError("\n".join(problems))


def one_of(value: Any, known: Sequence[str], where: str) -> list[str]:
    """The problem of a text that is none of the known ones, with the near one."""
    if not isinstance(value, str) or value in known:  # what is no text is a problem of type
        return []
    near = get_close_matches(value, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return [f"{where} is {value!r}; {hint}known: {', '.join(known)}"]


def at_least(value: Any, least: int, where: str) -> list[str]:
    """The problem of a number that is too small, or no finite one."""
    if not is_number(value) or least <= value < math.inf:
        return []
    return [f"{where} is {value!r}; it has to be at least {least}"]


def is_number(value: Any) -> bool:
    """Whether it is an int or a float; True is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def type_problems(config: Any) -> list[str]:
    """Fields of a config dataclass that hold another type than they say, such as epochs: many."""
    problems = []
    for f in fields(config):
        value, kind = getattr(config, f.name), str(f.type)  # annotations are strings here
        if value is None and kind.endswith(" | None"):
            continue
        fits, expected = _KINDS.get(kind.removesuffix(" | None"), _SECTION)
        if not fits(value):
            problems.append(f"{f.name} is {value!r}; expected {expected}")
    return problems


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_names(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


_SECTION: tuple[Callable[[Any], bool], str] = (dataclasses.is_dataclass, "keys and values")


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "int": (_is_whole, "a whole number"),
    "float": (is_number, "a number"),
    "float | str": (lambda value: is_number(value) or isinstance(value, str), "a number or a date"),
    "str": (lambda value: isinstance(value, str), "text"),
    "tuple[str, ...]": (
        lambda value: isinstance(value, tuple) and all(isinstance(name, str) for name in value),
        "a list of names, such as [a, b]",
    ),
    "tuple[Step, ...]": (lambda value: isinstance(value, tuple), "a list, such as [center, {pca: 64}]"),
    "tuple[int, ...]": (
        lambda value: isinstance(value, tuple) and all(_is_whole(n) and 0 <= n <= LARGEST_SEED for n in value),
        f"a list of whole numbers from 0 to {LARGEST_SEED}, such as [1, 2]",
    ),
    "Mapping[str, Any]": (_has_names, "keys and values"),
    "Mapping[str, VariantConfig]": (_has_names, "keys and values"),
}
"""By annotation: what fits, and how a message says it."""
