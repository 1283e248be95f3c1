"""The files of another system, as a variant names them: one file, or one for each seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from blair_rec.config.section import LARGEST_SEED, FieldProblem
from blair_rec.config.yaml.files import shown


def _files(value: Any) -> Any:
    """Check the value before pydantic does, because its message would name two types."""
    if value is None or (isinstance(value, str) and value):
        return value
    if not isinstance(value, Mapping) or not value:
        raise FieldProblem(
            [f" is {shown(value)}; expected a file, or a file for each seed such as {{1: a.csv, 2: b.csv}}"]
        )
    found: dict[int, str] = {}
    for seed, file in value.items():
        number = int(seed) if isinstance(seed, str) and seed.isascii() and seed.isdigit() else seed
        if type(number) is not int or not 0 <= number <= LARGEST_SEED:
            raise FieldProblem([f" has {shown(seed)} where a seed is needed, a whole number from 0 on"])
        if not isinstance(file, str) or not file:
            raise FieldProblem([f".{number} is {shown(file)}; expected the name of a file"])
        if number in found:
            raise FieldProblem([f" names seed {number} twice"])
        found[number] = file
    return found


FilesElsewhere = Annotated[
    str | Mapping[int, str] | None,
    BeforeValidator(_files),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
                {"type": "null"},
            ]
        }
    ),
]


def file_of(files: str | Mapping[int, str] | None, seed: int) -> str | None:
    """The file for a seed; None if there is none."""
    return files.get(seed) if isinstance(files, Mapping) else files
