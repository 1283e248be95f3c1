"""The split section of a comparison's config: cut-off times."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

from blair_rec.config.dates import seconds_of
from blair_rec.config.reading import refuse, type_problems


@dataclass(frozen=True)
class SplitConfig:
    """Cut-off times for all users: numbers in the unit of the data set's time column, or dates such as '2024-07-01'.

    Dates are UTC unless they say, and may have a time of day: '2024-07-01T10:00:00+02:00'.
    """

    valid_from: float | str
    """Events from here on are for validation, those before for training."""
    test_from: float | str
    """Events from here on are for testing."""

    def __post_init__(self) -> None:
        for name in ("valid_from", "test_from"):
            if isinstance(value := getattr(self, name), datetime.date):  # YAML reads a bare date as one
                object.__setattr__(self, name, value.isoformat())
        refuse(type_problems(self))
        given = {"valid_from": self.valid_from, "test_from": self.test_from}
        times = [seconds_of(time) if isinstance(time, str) else time for time in given.values()]
        refuse(
            [
                f"{name} is {given[name]!r}; expected a number or a date such as '2024-07-01' or '2024-07-01T10:00Z'"
                for name, time in zip(given, times, strict=True)
                if time is None
            ]
        )
        both = f"valid_from is {self.valid_from!r} and test_from {self.test_from!r}"
        if isinstance(self.valid_from, str) != isinstance(self.test_from, str):
            refuse([f"{both}; give two numbers or two dates"])
        valid_from, test_from = (time for time in times if time is not None)
        if not -math.inf < valid_from < test_from < math.inf:
            refuse([f"{both}; validation comes before test"])
