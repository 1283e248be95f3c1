"""Names that go away: for one minor release the old name works, with a warning that names its successor.

Config keys warn in the log, which the command line shows; Python names give a FutureWarning, which Python shows.
docs/stability.md is the policy.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from blair_rec.errors import ConfigError

logger = logging.getLogger("blair_rec")
F = TypeVar("F", bound=Callable[..., Any])


class Renamed(NamedTuple):
    """An old name's successor."""

    successor: str
    until: str
    """The version that no longer has the old name, such as 0.3."""

    def note(self, old: str) -> str:
        """Return the warning for a use of the old name."""
        return f"{old} is now called {self.successor}; the old name works until blair_rec {self.until}"


def with_current_keys(values: Mapping[str, Any], renamed: Mapping[str, Renamed]) -> dict[str, Any]:
    """Return keys and values in which old keys are replaced by their successors; each is logged as a warning.

    Raises:
        ConfigError: both an old key and its successor are given.
    """
    current = dict(values)
    for old, new in renamed.items():
        if old not in current:
            continue
        if new.successor in current:
            raise ConfigError(f"{old}: the old name of {new.successor}, which is given too; remove {old}")
        logger.warning("key %s", new.note(old))
        current[new.successor] = current.pop(old)
    return current


def deprecated(successor: str, until: str) -> Callable[[F], F]:
    """Return a decorator for a function or class constructor that warns at each call and names the successor."""

    def decorate(function: F) -> F:
        note = Renamed(successor, until).note(function.__qualname__)

        @functools.wraps(function)
        def warned(*arguments: Any, **named: Any) -> Any:
            warnings.warn(note, FutureWarning, stacklevel=2)
            return function(*arguments, **named)

        return cast(F, warned)

    return decorate


def warn_of_name(old: str, renamed: Renamed) -> None:
    """Warn of an old name of a module; call it in the module's `__getattr__`."""
    warnings.warn(renamed.note(old), FutureWarning, stacklevel=3)
