"""Part i of n of a comparison's runs, for job arrays: by their place in the plan, whatever is finished already."""

from __future__ import annotations

from collections.abc import Collection

from blair_rec.config.comparison import CompareConfig
from blair_rec.errors import ConfigError
from blair_rec.experiment.planning.plan import run_names

Shard = tuple[int, int]
"""Part i of n parts; i runs from 0 to n - 1."""


def shard_names(config: CompareConfig, variants: Collection[str], seeds: Collection[int], shard: Shard) -> list[str]:
    """The names of the runs that one shard makes: every n-th of those of `variants` and `seeds`, from the i-th on.

    Averages, second stages and students belong to no shard: a process that finds their members or teacher finished
    makes them.

    Raises:
        ConfigError: a shard that isn't one of 0/n to (n - 1)/n.
    """
    of_two = isinstance(shard, tuple) and len(shard) == 2 and all(type(number) is int for number in shard)
    if not of_two or not 0 <= shard[0] < shard[1]:
        said = "/".join(map(str, shard)) if of_two else repr(shard)
        raise ConfigError(
            f"shard is {said}; it has to be I/N, where I runs from 0 to N - 1, such as 0/4 (in Python the tuple (0, 4))"
        )
    part, parts = shard
    own = [name for name in variants if not config.variants[name].made_of]
    return run_names(config, own, seeds)[part::parts]
