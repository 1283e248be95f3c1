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
    part, parts = shard
    if not 0 <= part < parts:
        raise ConfigError(f"shard is {part}/{parts}; it has to be I/N, where I runs from 0 to N - 1, such as 0/4")
    own = [name for name in variants if not config.variants[name].made_of]
    return run_names(config, own, seeds)[part::parts]
