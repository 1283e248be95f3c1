"""Whether transforms leave anything of the text: whitening over too few items makes all of them equally far apart.

Whitening gives all directions the same variance. As many directions as items can do that for any points at all: they
become the corners of a simplex, whatever the texts say, and a model over them does as one over shuffled texts.

Shapes: n items, E the width of their vectors, E' after the transforms.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blair_rec.config.steps import FEWEST_PER_DIRECTION, ITEMS_PER_DIRECTION, Step, equalises, in_yaml, narrowed
from blair_rec.errors import ConfigError
from blair_rec.models.transforms import FittedTransforms, fit_transforms

SAMPLE = 500
"""Items whose distances from each other are looked at."""
WITHIN, NEARLY_ALL = 0.01, 0.99
"""Distances that differ by so small a share are equal, and where so many pairs are equally far, nothing is left."""


def fit_checked(
    vectors: np.ndarray, steps: Sequence[Step], found: Mapping[str, np.ndarray] | None = None
) -> tuple[FittedTransforms, np.ndarray]:
    """fit_transforms, and what has to be said of the result as its `notes`; nothing is said of an earlier fit.

    Raises:
        ConfigError: whitening over too few items for its directions; the message proposes principal components.
    """
    fitted, rows = fit_transforms(vectors, steps, found)
    if found is not None:
        return fitted, rows
    notes = _crowded(vectors, steps, fitted.report)
    if _equally_far(vectors, rows):
        notes.append(
            f"after the transforms {NEARLY_ALL:.0%} of all pairs of items are equally far from each other (within "
            f"{WITHIN:.0%}): nothing is left of what the text says, and shuffled text does as well"
        )
    return dataclasses.replace(fitted, notes=tuple(notes)), rows


def items_that_differ(vectors: np.ndarray, enough: int) -> int:
    """How many items tell whitening something; the count stops at `enough`, so that a large catalogue isn't read.

    Items with one and the same vector, such as all without text, count ITEMS_PER_DIRECTION times at most: that many
    share a text is known then, and more of them add no direction.

    vectors: [n, E].
    """
    return len(_that_differ(vectors, enough))


def _that_differ(vectors: np.ndarray, enough: int) -> list[int]:
    """The rows of the first items that count."""
    seen: Counter[bytes] = Counter()
    rows: list[int] = []
    for row, vector in enumerate(vectors):
        if len(rows) >= enough:
            break
        key = vector.tobytes()
        seen[key] += 1
        if seen[key] <= ITEMS_PER_DIRECTION:
            rows.append(row)
    return rows


def _crowded(vectors: np.ndarray, steps: Sequence[Step], report: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note where whitening has few items for its directions.

    Raises:
        ConfigError: too few.
    """
    notes = []
    for step, line in zip(steps, report, strict=True):
        if not equalises(step):
            continue
        directions = line["rank"]
        items = items_that_differ(vectors, ITEMS_PER_DIRECTION * directions)
        if items >= ITEMS_PER_DIRECTION * directions:
            continue
        better = in_yaml(narrowed(steps, max(1, items // ITEMS_PER_DIRECTION)))
        have = f"{items:,} items for {directions:,} directions ({items / directions:.1f} for each)"
        if items < FEWEST_PER_DIRECTION * directions:
            raise ConfigError(
                f"transforms: {line['step']} has {have}. With fewer than {FEWEST_PER_DIRECTION} all items are about "
                f"equally far from each other, whatever their texts say; keep fewer directions: {better}"
            )
        notes.append(
            f"{line['step']} has {have}; from {ITEMS_PER_DIRECTION} on it keeps more of the text, as with "
            f"transforms: {better}"
        )
    return notes


def _equally_far(vectors: np.ndarray, rows: np.ndarray) -> bool:
    """Whether nearly all pairs are at the same distance, in a sample of the items that count.

    Items that share a text stay near each other, and where many do, that is something that is left of it.

    vectors [n, E] as the store has them, rows [n, E'] after the transforms.
    """
    sample = np.arange(len(rows))
    if len(sample) > SAMPLE:
        sample = np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False)
    sample = sample[_that_differ(vectors[sample], SAMPLE)]
    if len(sample) < 3:  # one pair is always as far as itself
        return False
    points = rows[sample]
    squares = np.square(points).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
    distances = apart[np.triu_indices(len(points), k=1)]
    middle = np.median(distances)
    return bool((np.abs(distances - middle) <= WITHIN * middle).mean() >= NEARLY_ALL)
