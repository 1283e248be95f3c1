"""The JSON Schema of comparison and pre-training files, for editors, and the tables of their keys, for the docs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic.json_schema import GenerateJsonSchema

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.section import Section

SCHEMA_FILE = "comparison.schema.json"
MODELINE = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
"""The first line of a comparison file next to a schema file. With it, an editor checks the file and suggests keys."""


class _WithoutTitles(GenerateJsonSchema):
    """Omits titles, which would only repeat the names of keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema(kind: type[Section] = CompareConfig) -> dict[str, Any]:
    """Return the JSON Schema of files of a kind. It has no rules about several keys; reading a file checks those."""
    found = kind.model_json_schema(schema_generator=_WithoutTitles)
    found["type"] = "object"  # unlike a section, a whole file can't be empty
    return {"$schema": GenerateJsonSchema.schema_dialect, **_tidied(found)}


def schema_text(kind: type[Section] = CompareConfig) -> str:
    """The schema as the content of a file."""
    return json.dumps(json_schema(kind), indent=1, ensure_ascii=False) + "\n"


def _tidied(value: Any) -> Any:
    """The schema without line breaks in descriptions, and with plain sections instead of "a section or null".

    With such a choice, an editor couldn't say which key of the section is wrong.
    """
    if isinstance(value, list):
        return [_tidied(one) for one in value]
    if not isinstance(value, dict):
        return value
    section = next((one for one in value.get("anyOf", ()) if "$ref" in one), None)
    if section is not None:
        value = {**section, **{key: one for key, one in value.items() if key != "anyOf"}}
    return {
        key: " ".join(one.split()) if key == "description" and isinstance(one, str) else _tidied(one)
        for key, one in value.items()
    }


class KeyRow(NamedTuple):
    """One key of the comparison file in a table."""

    key: str
    """The full path, such as train.epochs or variants.NAME.items."""
    type: str
    default: str
    """The default as written in YAML; "" for a required key, and for keys and values."""
    bounds: str
    """The limits of the value, such as "at least 1", or the choices of the key."""
    description: str


def key_rows(kind: type[Section] = CompareConfig) -> list[KeyRow]:
    """Every key of the file, section by section, in the order of the models."""
    schema = json_schema(kind)
    return list(_rows(schema, schema.get("$defs", {}), ""))


def key_table(kind: type[Section] = CompareConfig) -> str:
    """The rows as a table in Markdown."""
    lines = ["| key | type | default | bounds | |", "|---|---|---|---|---|"]
    for row in key_rows(kind):
        cells = [f"`{row.key}`", row.type, row.default and f"`{row.default}`", row.bounds, row.description]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _rows(section: Mapping[str, Any], sections: Mapping[str, Any], prefix: str) -> Iterator[KeyRow]:
    for name, key in section["properties"].items():
        parts = [key, *key.get("anyOf", ())]
        parts += [one["else"] for one in parts if "else" in one]  # the list of names, for text other than module:Class
        of_each = key.get("additionalProperties")
        inside = _section_of(parts, sections)
        of_each = _section_of([of_each], sections) if isinstance(of_each, Mapping) else None
        description = key.get("description") or inside["description"]  # pydantic drops a repeated one
        default = json.dumps(key["default"]) if "default" in key else ""
        yield KeyRow(f"{prefix}{name}", _type(parts), default, _bounds(parts), description)
        if inside is not None and not prefix.startswith("variants."):  # a variant's sections repeat the top ones
            yield from _rows(inside, sections, f"{prefix}{name}.")
        if of_each is not None:
            yield from _rows(of_each, sections, f"{prefix}{name}.NAME.")


def _section_of(parts: Sequence[Mapping[str, Any]], sections: Mapping[str, Any]) -> Any:
    return next((sections[one["$ref"].rpartition("/")[2]] for one in parts if "$ref" in one), None)


_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "array": "list",
    "object": "keys and values",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def _type(parts: Sequence[Mapping[str, Any]]) -> str:
    if any("$ref" in one for one in parts):
        return "keys and values"
    if any("enum" in one for one in parts):
        return "choice"
    kinds = [words for kind, words in _TYPES.items() if any(kind in one.get("type", ()) for one in parts)]
    return " or ".join(kinds).replace("whole number or number", "number")


def _bounds(parts: Sequence[Mapping[str, Any]]) -> str:
    found = [f"{words} {one[name]:,.15g}" for one in parts for name, words in _BOUNDS.items() if name in one]
    choices = [f"`{choice}`" for one in parts for choice in one.get("enum", [])]
    return ", ".join(choices or found)
