"""Convert JSON values to the types of a dataclass, with checks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from blair_rec.errors import counted, first_of


def typed(kind: Any, value: Any, where: str) -> Any:
    """Convert a JSON value to the annotation `kind`: a plain type, a list, a mapping, a dataclass, or None.

    Keys of a dataclass with a default may be missing. `where` is the name of the value in messages.

    Raises:
        ValueError: the value has another type; the message says where.
    """
    if kind is Any:
        return value
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        options = [option for option in args if option is not NoneType]
        if value is None and NoneType in args:
            return None
        if len(options) == 1:
            return typed(options[0], value, where)
        if any(_is_plain(option, value) for option in options):
            return value
    elif is_dataclass(kind) and isinstance(value, Mapping):
        make: Any = kind
        hints, names = get_type_hints(kind), [one.name for one in fields(kind)]
        needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
        if missing := [name for name in needed if name not in value]:
            raise ValueError(
                f"{where} lacks {len(missing)} of {counted(len(needed), 'key')} ({first_of(missing)})".strip()
            )
        names = [name for name in names if name in value]
        inside = f"{where}." if where else ""
        return make(**{name: typed(hints[name], value[name], inside + name) for name in names})
    elif origin is dict and isinstance(value, Mapping):
        return {
            typed(args[0], key, f"a key of {where}"): typed(args[1], entry, f"{where}.{key}")
            for key, entry in value.items()
        }
    elif origin is list and isinstance(value, (list, tuple)):
        return [typed(args[0], entry, f"{where}[{place}]") for place, entry in enumerate(value)]
    elif (origin is Literal and value in args) or (kind is bool and isinstance(value, bool)):
        return value
    elif kind in (str, int, float) and _is_plain(kind, value):
        return kind(value)
    name = kind.__name__ if isinstance(kind, type) and not args else str(kind).replace("typing.", "")
    raise ValueError(f"{where} is {value!r} ({type(value).__name__}), expected {name}")


def _is_plain(kind: Any, value: Any) -> bool:
    """Whether a value is a str, int or float as `kind` says; bool, NaN and integers beyond 64 bits are no numbers."""
    if kind is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max  # false for NaN; math.isfinite fails for huge integers
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, kind) and not isinstance(value, bool)
