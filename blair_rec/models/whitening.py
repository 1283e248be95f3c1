"""Check what transforms leave of the text: whitening over too few items makes all items equally far apart.

Whitening gives all directions the same variance. With as many directions as items, any points become the corners of a
simplex, whatever the texts say. A model over such vectors does no better than one over shuffled texts.

Shapes: n items, E the width of their vectors, E' after the transforms.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blair_rec.config.steps import FEWEST_PER_DIRECTION, ITEMS_PER_DIRECTION, Step, equalises, in_yaml, narrowed
from blair_rec.errors import ConfigError, counted
from blair_rec.models.transforms import FittedTransforms, fit_transforms

SAMPLE = 500
"""Number of items whose distances from each other are checked."""
WITHIN, NEARLY_ALL = 0.01, 0.99
"""Distances count as equal if they differ by at most the share WITHIN. If NEARLY_ALL are equal, no text is left."""


def fit_checked(
    vectors: np.ndarray, steps: Sequence[Step], found: Mapping[str, np.ndarray] | None = None
) -> tuple[FittedTransforms, np.ndarray]:
    """Call fit_transforms and add warnings about the result as `notes`. With an earlier fit (`found`) there are none.

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
            f"{WITHIN:.0%}): no information of the text is left, so shuffled text does just as well"
        )
    return dataclasses.replace(fitted, notes=tuple(notes)), rows


def items_that_differ(vectors: np.ndarray, enough: int) -> int:
    """Count the items that help to fit whitening. The count stops at `enough`, so that a large catalogue isn't read.

    Items with identical vectors, such as all items without text, count at most ITEMS_PER_DIRECTION times together:
    more of them add no direction.

    vectors: [n, E].
    """
    return len(_that_differ(vectors, enough))


def _that_differ(vectors: np.ndarray, enough: int) -> list[int]:
    """Return the rows of the first items that count."""
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
    """Return a note for each whitening that has few items for its directions.

    Raises:
        ConfigError: there are too few items.
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
        have = f"{counted(items, 'item')} for {counted(directions, 'direction')} ({items / directions:.1f} for each)"
        if items < FEWEST_PER_DIRECTION * directions:
            raise ConfigError(
                f"transforms: {line['step']} has {have}. With fewer than {FEWEST_PER_DIRECTION} for each, all items "
                f"end up about equally far from each other, whatever their texts say; keep fewer directions: {better}"
            )
        notes.append(
            f"{line['step']} has {have}; with {ITEMS_PER_DIRECTION} or more for each it would keep more of the text, "
            f"for example with transforms: {better}"
        )
    return notes


def _equally_far(vectors: np.ndarray, rows: np.ndarray) -> bool:
    """Return whether nearly all pairs of items are equally far apart, in a sample of the items that count.

    Items that share a text stay close to each other. If many do, something of the text is left.

    Shapes: vectors [n, E] as in the store, rows [n, E'] after the transforms.
    """
    sample = np.arange(len(rows))
    if len(sample) > SAMPLE:
        sample = np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False)
    sample = sample[_that_differ(vectors[sample], SAMPLE)]
    if len(sample) < 3:  # a single pair would always count as equal
        return False
    points = rows[sample]
    squares = np.square(points).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
    distances = apart[np.triu_indices(len(points), k=1)]
    middle = np.median(distances)
    return bool((np.abs(distances - middle) <= WITHIN * middle).mean() >= NEARLY_ALL)
