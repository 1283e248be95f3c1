"""Options that take a list: how it is read, and what to write if it was given with spaces."""

from __future__ import annotations

import re
from collections.abc import Sequence

LISTS = {"--seeds": "1,2", "--variants": "A,B", "--fields": "A,B"}
"""Each option with commas between its values, with an example."""
REPEATED = ("--set",)
"""Options that are given again for each value."""


def split_list(text: str) -> list[str]:
    """Return the values of a list such as "title, brand", which may contain spaces. Empty ones are skipped."""
    return [value.strip() for value in text.split(",") if value.strip()]


def comma_list(option: str, text: str) -> list[str]:
    """Return the values of a list such as "1,2", which contain no spaces. Empty ones are skipped.

    Raises:
        ConfigError: values are separated by spaces.
    """
    from blair_rec.errors import ConfigError

    values = split_list(text)
    if any(len(value.split()) > 1 for value in values):
        words = ",".join(text.replace(",", " ").split())
        raise ConfigError(f"{option} is {text!r}; put commas and no spaces between the values: {option} {words}")
    return values


def list_hint(words: Sequence[str], unknown: Sequence[str]) -> str:
    """Return a hint if the first word that the parser could not use follows an option that takes one word; else ''.

    words: all words of the command line; unknown: those that the parser could not use.
    """
    end = max((place for place, word in enumerate(words) if word == unknown[0]), default=0)
    given = next((word for word in reversed(words[:end]) if re.match(r"-\D", word)), "").partition("=")[0]
    for option in (*LISTS, *REPEATED):
        if len(given) > 2 and option.startswith(given):  # argparse takes the beginning of an option's name, too
            if option in REPEATED:
                return f"; give {option} again before each KEY=VALUE"
            return f"; {option} takes a list with commas and no spaces, such as {option} {LISTS[option]}"
    return ""
