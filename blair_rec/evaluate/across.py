"""Several leaderboards side by side: which variant does best over all data sets?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blair_rec.errors import ConfigError
from blair_rec.evaluate.leaderboard import Leaderboard, Summary


@dataclass(frozen=True)
class Standing:
    """One variant over all leaderboards that have it, which is every one."""

    variant: str
    borda: float
    """Variants that it beats, summed over data sets; half for a tie."""
    mean_rank: float
    """1 is best; equal means share the mean of their ranks."""
    summaries: tuple[Summary, ...]
    """Of the first metric, in the order of the leaderboards."""


def standings(leaderboards: Sequence[Leaderboard]) -> list[Standing]:
    """The variants that all leaderboards have, best mean rank first, ties by name.

    Ranks are among these variants, by the first metric under the chosen protocol. Borda count and mean rank say the
    same in two ways, and neither says how large or how sure a difference is.

    Raises:
        ConfigError: the leaderboards are ordered by different metrics or protocols, or share fewer than two variants.
    """
    orders = {f"{board.metrics[0]} {board.protocol}" for board in leaderboards}
    if len(orders) > 1:
        raise ConfigError(
            f"the leaderboards are ordered by {' and '.join(sorted(orders))}; give folders with the same first metric "
            "and protocol to see them side by side"
        )
    tables = [
        {row.variant: row.metrics[board.protocol][board.metrics[0]] for row in board.rows} for board in leaderboards
    ]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    if len(common) < 2:
        raise ConfigError(
            f"the leaderboards have {len(common)} variants in common; side by side it takes at least two of one name"
        )
    from scipy import stats  # takes half a second, which one leaderboard alone does without

    ranks = np.array([stats.rankdata([-table[variant].mean for variant in common]) for table in tables])
    found = [
        Standing(
            variant,
            borda=float((len(common) - ranks[:, place]).sum()),
            mean_rank=float(ranks[:, place].mean()),
            summaries=tuple(table[variant] for table in tables),
        )
        for place, variant in enumerate(common)
    ]
    return sorted(found, key=lambda standing: (standing.mean_rank, standing.variant))
