"""Every error of the package, worded: what happened, how many, what to do."""

from __future__ import annotations

from collections.abc import Sequence


class BlairRecError(Exception):
    """Base of all errors that the command line shows as one message, without a traceback."""


class ConfigError(BlairRecError, ValueError):
    """A configuration that can't be meant as written."""


def first_of(names: Sequence[str], how_many: int = 3) -> str:
    """The first few names for a message: 'a, b, c'."""
    return ", ".join(names[:how_many])
