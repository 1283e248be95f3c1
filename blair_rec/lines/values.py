"""Columns of ids and of times: of one kind each, or an error that names the line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from blair_rec.errors import SourceError, counted
from blair_rec.lines.dates import seconds_of

_UNUSABLE = re.compile("[\x00\n\r\ud800-\udfff]")
"""Half a character; or NUL or a line break, which an id only has if a stray quotation mark merged several lines."""


class Ids:
    """Turns a column into ids of text, and makes sure that all its values are of one kind."""

    def __init__(self, path: object, column: str) -> None:
        self.path, self.column = path, column
        self.kind: type | None = None

    def __call__(self, values: list[Any], lines: Sequence[int]) -> list[str]:
        """
        Raises:
            SourceError: a missing or an empty id, one that is neither text nor a whole number, or both kinds.
        """
        kinds = set(map(type, values))
        if kinds <= {str} and self.kind in (None, str):
            self.kind = str if kinds else self.kind
            if all(values):
                return values
        for value, line in zip(values, lines, strict=True):
            where = f"{self.path}, line {line}: {self.column}"
            if value is None or value == "":
                raise SourceError(f"{where} is empty; every row needs one")
            if type(value) not in (str, int):
                raise SourceError(f"{where} is {str(value)[:40]!r}, a {type(value).__name__}; ids are text")
            if self.kind not in (None, type(value)):
                kinds_met = "a number here and text in earlier rows" if type(value) is int else "text here and a number"
                raise SourceError(
                    f"{where} is {kinds_met}{' in earlier rows' * (type(value) is str)}; write all ids as text, for "
                    '"7" and "007" may be two of them'
                )
            self.kind = type(value)
        return [str(value) for value in values]


def check_text(token: str, column: str, where: object) -> None:
    """
    Raises:
        SourceError: an id with a line break, NUL or half a character in it.
    """
    if _UNUSABLE.search(token):
        raise SourceError(
            f"{where}: {column} {token[:40]!r} holds a line break or an invalid character; look for a quotation mark "
            "that opens a cell and is not closed in its line"
        )


class Times:
    """Turns a column into times that can be compared: whole numbers stay, others are float64, dates are seconds."""

    def __init__(self, path: object, column: str) -> None:
        self.path, self.column = path, column
        self.dates: bool | None = None

    def __call__(self, values: list[Any], lines: Sequence[int]) -> np.ndarray:
        """[n] int64 or float64.

        Raises:
            SourceError: a time that is missing, no finite number and no date, or dates among numbers.
        """
        if set(map(type, values)) <= {int} and self.dates is not True:
            self.dates = False
            if not values or (min(values) >= -(2**63) and max(values) < 2**63):
                return np.array(values, dtype=np.int64)
        read = [self._time(value, line) for value, line in zip(values, lines, strict=True)]
        whole = all(type(value) is int and abs(value) < 2**63 for value in read)
        return np.array(read, dtype=np.int64 if whole else np.float64)

    def _time(self, value: Any, line: int) -> int | float:
        where = f"{self.path}, line {line}: {self.column}"
        found: int | float | None = value if type(value) in (int, float) else None
        if isinstance(value, str):
            found = _number(value)
        is_date = found is None
        if isinstance(value, str) and is_date:
            found = seconds_of(value)
        if found is None or not math.isfinite(found) or abs(found) > 1e300:
            raise SourceError(f"{where} is {str(value)[:40]!r}; expected a number or a date such as 2024-07-01")
        if self.dates not in (None, is_date):
            raise SourceError(f"{where} is {str(value)[:40]!r}; give all times as numbers, or all as dates")
        self.dates = is_date
        return found


_NUMBER = re.compile(r"\s*[+-]?(\d+|\d*\.\d+|\d+\.)([eE][+-]?\d+)?\s*", re.ASCII)


def _number(text: str) -> int | float | None:
    """A number as people write it; None for anything else, such as 1_000 or nan."""
    if _NUMBER.fullmatch(text) is None or len(text) > 300:
        return None
    return float(text) if re.search("[.eE]", text) else int(text)


def finite_numbers(values: list[Any], lines: Sequence[int], where: str) -> np.ndarray:
    """Turn a column of numbers into [n] float64.

    Args:
        where: file and column, for messages.

    Raises:
        SourceError: a value that is missing, not a number, NaN or infinite; the count and the first line are named.
    """
    if set(map(type, values)) <= {float}:
        found = np.array(values, dtype=np.float64)
    else:
        found = np.array([math.nan if (one := _finite(value)) is None else one for value in values], dtype=np.float64)
    if wrong := np.flatnonzero(~np.isfinite(found)).tolist():
        raise SourceError(
            f"{where} is not a finite number in {len(wrong):,} of {counted(len(values), 'row')} (line "
            f"{lines[wrong[0]]}: {str(values[wrong[0]])[:40]!r}); give a number in every row"
        )
    return found


def _finite(value: Any) -> float | None:
    if isinstance(value, str):
        value = _number(value)
    if type(value) not in (int, float) or (type(value) is int and abs(value) > 2**1000):
        return None
    return float(value)
