"""Several leaderboards side by side: which variant is best over all of them?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blair_rec.errors import ConfigError
from blair_rec.evaluate.leaderboard import Leaderboard, Summary


@dataclass(frozen=True)
class Standing:
    """One variant that all leaderboards have."""

    variant: str
    borda: float
    """Number of variants that it beats, summed over leaderboards; half for a tie."""
    mean_rank: float
    """1 is best; tied variants share the mean of their ranks."""
    summaries: tuple[Summary, ...]
    """The first metric, in the order of the leaderboards."""


def standings(leaderboards: Sequence[Leaderboard]) -> list[Standing]:
    """Rank the variants that all leaderboards have: best mean rank first, ties by name.

    Ranks are among these variants, by the first metric under the chosen protocol. Borda count and mean rank give the
    same order; neither says how large or how significant a difference is.

    Raises:
        ConfigError: the leaderboards are ordered by different metrics or protocols, or share fewer than two variants.
    """
    orders = {f"{board.metrics[0]} {board.protocol}" for board in leaderboards}
    if len(orders) > 1:
        raise ConfigError(
            f"the leaderboards are ordered by {' and '.join(sorted(orders))}; to see them side by side, give folders "
            "with the same first metric and protocol"
        )
    tables = [
        {row.variant: row.metrics[board.protocol][board.metrics[0]] for row in board.rows} for board in leaderboards
    ]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    if len(common) < 2:
        raise ConfigError(
            f"the leaderboards have {len(common)} variant{'' if len(common) == 1 else 's'} in common; to see them side "
            "by side, give folders with at least two variants of the same names"
        )
    from scipy import stats  # the import takes half a second; a single leaderboard does not need it

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


def labels(leaderboards: Sequence[Leaderboard], folders: Sequence[Path]) -> list[str]:
    """Return a column name for each leaderboard: its data set, with its folder where several have the same data set.

    The folder's name is enough, as long as the folders of this data set have different names; if not, its whole path.
    """
    several = Counter(board.dataset for board in leaderboards)
    names = [folder.resolve().name for folder in folders]
    repeated = Counter(zip((board.dataset for board in leaderboards), names, strict=True))
    return [
        board.dataset
        if several[board.dataset] == 1
        else f"{board.dataset} ({name if repeated[board.dataset, name] == 1 else folder})"
        for board, folder, name in zip(leaderboards, folders, names, strict=True)
    ]
