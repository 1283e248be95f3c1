"""Read and write the YAML of configs, and word the errors of wrong keys and values."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from blair_rec.errors import ConfigError, did_you_mean


def read_yaml(text: str, where: str) -> Any:
    """Read YAML 1.2, in which 1e-3 is a number and `no` is text.

    Raises:
        ConfigError: not YAML, or a key is given twice; the message has the line.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
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
    yaml.default_flow_style, yaml.width = False, 120
    yaml.allow_unicode = False  # some line breaks (U+0085) would be read back as spaces
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # the order is the author's
    written = io.StringIO()
    yaml.dump(content, written)
    return written.getvalue()


def load_yaml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file and apply `section.key=value` overrides (values read as YAML).

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, or doesn't hold keys and values.
    """
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
