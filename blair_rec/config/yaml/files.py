"""Read and write the YAML of configs, and word the errors of wrong keys and values."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from blair_rec.errors import ConfigError, did_you_mean, shell_line

INT, FLOAT, TEXT = (Tag(suffix=f"tag:yaml.org,2002:{name}") for name in ("int", "float", "str"))
NUMBERS = {
    INT: re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    FLOAT: re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}
"""The numbers of YAML 1.2's core schema. ruamel also takes some of YAML 1.1, such as 1_0 and 0b11."""


class _Writing(VersionedResolver):
    """Also finds the numbers that ruamel misses, such as .5e3, so that a text like it is written in quotes."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            for tag, pattern in NUMBERS.items():
                if pattern.fullmatch(value):
                    return tag
        return super().resolve(kind, value, implicit)


class _Reading(_Writing):
    """Reads no other number than those of the core schema."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        found = super().resolve(kind, value, implicit)
        is_other = found in NUMBERS and kind is ScalarNode and not NUMBERS[found].fullmatch(value)
        return TEXT if is_other else found


def read_yaml(text: str, where: str) -> Any:
    """Read YAML 1.2, in which 1e-3 is a number, and `no` and 1_0 are text.

    Raises:
        ConfigError: not YAML, or a key is given twice; the message has the line.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Reading
    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        place = "" if (at := error.problem_mark) is None else f" (line {at.line + 1}, column {at.column + 1})"
        problem = str(error.problem or error.context).partition(" with value")[0]  # for a key that is given twice
        raise ConfigError(f"{where}: not YAML: {problem}{place}") from None
    except (YAMLError, ValueError) as error:  # ValueError: such as the 31st of February
        raise ConfigError(f"{where}: not YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: can't be read as YAML: lists or keys are nested too deeply") from None


def to_yaml(content: Any) -> str:
    """Write dicts, lists and scalars as YAML, which read_yaml reads back unchanged."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Writing
    yaml.default_flow_style, yaml.width = False, 120
    yaml.allow_unicode = False  # some line breaks (U+0085) would be read back as spaces
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # the order is the author's
    written = io.StringIO()
    yaml.dump(content, written)
    return written.getvalue()


class Option(NamedTuple):
    """A change of one key, `section.key=value`, by an option such as --device."""

    setting: str
    written: str
    """The option as the user wrote it, for messages."""


def changed_by(option: str, key: str, value: str | int) -> Option:
    """The change of a key to the value of an option."""
    return Option(f"{key}={json.dumps(value)}", shell_line(option, value))


@dataclass(frozen=True)
class Where:
    """Where the keys of a config come from: from the file, or from an option."""

    file: str
    options: Mapping[str, str]
    """The option by the full path of the key, such as train.epochs."""

    def before(self, line: str) -> str:
        """The file or option that is to blame for a problem, whose line begins with the key."""
        given = (
            one for key, one in reversed(tuple(self.options.items())) if re.match(rf"{re.escape(key)}(?!\w)", line)
        )
        return next(given, self.file)


def load_yaml(path: str | Path, overrides: Sequence[str | Option] = ()) -> dict[str, Any]:
    """Read a YAML file and apply `section.key=value` overrides (values read as YAML).

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, or doesn't hold keys and values.
    """
    return load_given(path, overrides)[0]


def load_given(path: str | Path, overrides: Sequence[str | Option] = ()) -> tuple[dict[str, Any], Where]:
    """Return what load_yaml does, and where each key comes from."""
    path = Path(path)
    if path.suffix in (".inter", ".item", ".user"):
        raise ConfigError(f"{path} is a file of a data set, not a YAML file; a data set is named by its folder")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    raw = read_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(raw).__name__}")
    options = [one if isinstance(one, Option) else Option(one, f"--set {one}") for one in overrides]
    return raw, Where(str(path), {_set(raw, option): option.written for option in options})


def _set(raw: dict[str, Any], option: Option) -> str:
    """Change one key; return its full path, or that of the first section that was not there."""
    key, equals, value = option.setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"{option.written}: expected key=value, such as train.epochs=5")
    sections, changed = key.split("."), key
    for depth, section in enumerate(sections[:-1], 1):
        if raw.get(section) is None:
            raw[section] = {}
            changed = min(changed, ".".join(sections[:depth]), key=len)
        raw = raw[section]
        if not isinstance(raw, dict):
            raise ConfigError(f"{option.written}: {section!r} holds a value, not keys")
    raw[sections[-1]] = read_yaml(value, option.written)
    return changed


def shown(value: Any) -> str:
    """A value for a message, as YAML has it: null and true, and texts in quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown(key)}: {shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(shown, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if isinstance(value, date) else repr(value)


def refuse(problems: Sequence[str]) -> None:
    """Raise one ConfigError with a line for each problem, or do nothing if there are none."""
    if problems:
        raise ConfigError("\n".join(problems))


def one_of(value: Any, known: Sequence[str], where: str) -> list[str]:
    """The problem of a text that is not one of the known ones, with the closest one."""
    if not isinstance(value, str) or value in known:  # a value that is not text gets an error about its type
        return []
    return [f"{where} is {value!r}; {did_you_mean(value, known)}known: {', '.join(known)}"]


def is_number(value: Any) -> bool:
    """Whether it is an int or a float; True and False are not numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
