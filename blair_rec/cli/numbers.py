"""Read the numbers of the command line: plain decimal digits, so that `1_0` or a digit of another script is an error.

Python's int and float also take underscores, spaces, digits of all scripts, `nan` and `inf`.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence

WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
"""A whole number of at most 64 bits."""
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def whole(text: str) -> int:
    """Return the whole number of an option, such as 10: a `type` for argparse."""
    if WHOLE.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; give one such as 10")
    return int(text)


def number(text: str) -> float:
    """Return the finite number of an option, such as 0.1 or 1e-3: a `type` for argparse."""
    if DECIMAL.fullmatch(text) is None or not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number; give one such as 0.1")
    return float(text)


def seed_list(values: Sequence[str]) -> list[int]:
    """Return the seeds of --seeds.

    Raises:
        ConfigError: a value is no whole number.
    """
    from blair_rec.errors import ConfigError

    try:
        return [whole(value) for value in values]
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--seeds: {error}, with commas between several: --seeds 1,2") from None
