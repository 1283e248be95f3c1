"""Refuse options that would have no effect."""

from __future__ import annotations

import argparse


def refuse_unused(options: argparse.Namespace, names: dict[str, str], why: str) -> None:
    """Make sure that none of some options is given.

    Args:
        names: the option on the command line, such as "--item-id", by its name in `options`.
        why: when these options have no effect, such as "without --items".

    Raises:
        ConfigError: one is given: it is not None, False or an empty list.
    """
    from blair_rec.errors import ConfigError

    given = [option for name, option in names.items() if _is_given(getattr(options, name))]
    if given:
        verb = "has" if len(given) == 1 else "have"
        raise ConfigError(f"{', '.join(given)} {verb} no effect {why}; leave {'it' if len(given) == 1 else 'them'} out")


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != []  # 0 and "" are given
