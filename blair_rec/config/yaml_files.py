"""YAML as configs have it, before any section is made of it; and words for what can't be meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from blair_rec.errors import ConfigError


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


class Dumper(yaml.SafeDumper):
    """Writes what _Loader reads back."""


for _yaml in (_Loader, Dumper):
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


def is_number(value: Any) -> bool:
    """Whether it is an int or a float; True is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
