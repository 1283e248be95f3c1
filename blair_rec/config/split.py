"""The split section of a comparison's config: cut-off times."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator

from blair_rec.config.section import FieldProblem, Problem, Section
from blair_rec.config.yaml.files import is_number, shown
from blair_rec.lines.dates import seconds_of


def _moment(value: Any) -> Any:
    """Return a finite number, or a date as text; YAML turns an unquoted date into a date object."""
    value = value.isoformat() if isinstance(value, datetime.date) else value
    known = seconds_of(value) is not None if isinstance(value, str) else is_number(value) and math.isfinite(value)
    if not known:
        problem = f" is {shown(value)}; expected a number or a date such as '2024-07-01' or '2024-07-01T10:00Z'"
        raise FieldProblem([problem])
    return value


def _time(moment: float | str) -> float:
    seconds = seconds_of(moment) if isinstance(moment, str) else moment
    assert seconds is not None  # _moment has read it
    return seconds


CutOffTime = Annotated[int | float | str, BeforeValidator(_moment)]


class SplitConfig(Section):
    """Cut-off times for all users: numbers in the unit of the data set's time column, or dates such as '2024-07-01'.

    Dates may have a time of day and an offset: '2024-07-01T10:00:00+02:00'. Without an offset they are UTC.
    """

    valid_from: CutOffTime
    """Events from this time on are for validation; earlier ones are for training."""
    test_from: CutOffTime
    """Events from this time on are for testing."""

    def _problems(self) -> Iterator[Problem]:
        keys, both = ("valid_from", "test_from"), f"valid_from is {self.valid_from!r} and test_from {self.test_from!r}"
        if isinstance(self.valid_from, str) != isinstance(self.test_from, str):
            yield keys, f"{both}; give two numbers or two dates"
        elif not _time(self.valid_from) < _time(self.test_from):
            yield keys, f"{both}; valid_from has to be earlier than test_from"
