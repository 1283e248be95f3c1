"""The numbers that `torchrun` gives to each process, in environment variables."""

from __future__ import annotations

import os
import re

from blair_rec.errors import ConfigError


def count() -> int:
    """Return the number of processes that torchrun started; 1 without it.

    Raises:
        ConfigError: WORLD_SIZE is not a whole number.
    """
    return _number("WORLD_SIZE") or 1


def rank() -> int:
    """Return this process's number, from 0; 0 for a single process.

    Raises:
        ConfigError: RANK or WORLD_SIZE is not a whole number, or they contradict each other.
    """
    number, processes = _number("RANK"), count()
    if processes == 1:
        return 0
    if number is None or number >= processes:
        state = "not set" if number is None else str(number)
        raise ConfigError(
            f"the environment variable WORLD_SIZE is {processes}, but RANK is {state}; start the processes with "
            "torchrun, which numbers them from 0 on, or unset both variables"
        )
    return number


def local_rank() -> int | None:
    """Return this process's number on its machine, from 0; None without torchrun. Raises ConfigError as `count`."""
    return _number("LOCAL_RANK")


def local_count() -> int:
    """Return the number of processes on this machine; 1 without torchrun. Raises ConfigError as `count`."""
    return _number("LOCAL_WORLD_SIZE") or 1


def check_group() -> None:
    """Check that several processes can find each other, before they try to; does nothing for a single process.

    Raises:
        ConfigError: the first one's address or port is not set; or as `rank`.
    """
    rank()
    if count() == 1:
        return
    if _number("MASTER_PORT") is None or not os.environ.get("MASTER_ADDR"):
        raise ConfigError(
            f"the environment variable WORLD_SIZE is {count()}, but MASTER_ADDR or MASTER_PORT is not set, so the "
            "processes can't find each other; start them with torchrun, which sets all of these, or unset WORLD_SIZE"
        )


def _number(name: str) -> int | None:
    """The whole number in an environment variable; None if it is not set, or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ConfigError(
            f"the environment variable {name} is {text!r}, which is not a whole number; start the processes with "
            "torchrun, which sets it, or unset it"
        )
    return int(text)
