"""Facts about the events and the texts of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blair_rec.evaluate.metrics import gini
from blair_rec.evaluate.slices import TAIL
from blair_rec.experiment.audit.source import AuditData, Texts
from blair_rec.experiment.splits.leakage import repeated_texts
from blair_rec.lines.dates import UNITS, span, unit_of

DAY = 86_400
NEAR = 0.95
"""Texts with at least this cosine count as nearly the same."""


@dataclass(frozen=True)
class Spread:
    """How a quantity is distributed."""

    least: float
    median: float
    mean: float
    ninth_decile: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.int64] | NDArray[np.float64]) -> Spread:
        """The spread of at least one number."""
        low, middle, high, most = np.quantile(values, [0, 0.5, 0.9, 1])
        return cls(float(low), float(middle), float(np.mean(values)), float(high), float(most))


@dataclass(frozen=True)
class DataFacts:
    """Facts about the events."""

    users: int
    items: int
    events: int
    density: float
    """Different pairs of a user and an item / all pairs."""
    events_per_user: Spread
    events_per_item: Spread
    gini: float
    """Gini coefficient of the items' numbers of events."""
    top_share: float
    """Share of all events that the 1% most popular items have (at least one item)."""
    tail_items: float
    """Share of items with 1 to 5 training events."""
    untrained_items: float
    """Share of items without a training event."""
    repeats: float
    """Share of events whose user had an event with the item before."""
    times: str | None
    """First and last time; None without times that can be compared between users."""
    whole_days: bool | None
    """Whether all times are whole days."""
    item_age_days: Spread | None
    """Days from the first event of a test target, by anybody, to the test event; None if the unit is unknown."""


def data_facts(found: AuditData) -> DataFacts:
    """Count the events of a data set."""
    user, item, time = found.user, found.item, found.time
    n_items = len(found.tokens)
    per_user = np.unique(user, return_counts=True)[1]
    per_item = np.bincount(item, minlength=n_items + 1)[1:]
    pairs = len(np.unique(user * (n_items + 1) + item))
    top = max(1, n_items // 100)
    trained = found.data.item_counts[1:]
    unit = None if time is None else unit_of(float(time.min()), float(time.max()))
    age = None
    if time is not None and unit is not None:
        first = np.full(n_items + 1, np.inf)
        np.minimum.at(first, item, time)
        position = found.test.inter_feat["blair_log_position"].numpy()
        age = Spread.of((time[position] - first[item[position]]) / UNITS[unit] / DAY)
    return DataFacts(
        users=len(per_user),
        items=n_items,
        events=len(item),
        density=pairs / (len(per_user) * n_items),
        events_per_user=Spread.of(per_user),
        events_per_item=Spread.of(per_item),
        gini=gini(per_item),
        top_share=float(np.sort(per_item)[::-1][:top].sum() / per_item.sum()),
        tail_items=float(((trained >= 1) & (trained <= TAIL)).mean()),
        untrained_items=float((trained == 0).mean()),
        repeats=1 - pairs / len(item),
        times=None if time is None else span(float(time.min()), float(time.max())),
        whole_days=None if time is None or unit is None else bool((time % (DAY * UNITS[unit]) == 0).all()),
        item_age_days=age,
    )


@dataclass(frozen=True)
class TextFacts:
    """Facts about the items' texts."""

    fields: tuple[str, ...]
    items: int
    missing: int
    """Items without text."""
    identical: int
    """Items whose text another item has, too."""
    nearly_identical: int
    """Items whose text differs from another one's only in case, punctuation or word order; includes `identical`."""
    characters: Spread | None
    """None if no item has text."""
    words: Spread | None


def text_facts(texts: Texts, tokens: Sequence[str]) -> TextFacts:
    """Count the texts of a data set's items."""
    present = [text for text in texts.of(tokens) if text]
    same, similar = repeated_texts(present)
    return TextFacts(
        fields=texts.fields,
        items=len(tokens),
        missing=len(tokens) - len(present),
        identical=same,
        nearly_identical=similar,
        characters=Spread.of([len(text) for text in present]) if present else None,
        words=Spread.of([len(text.split()) for text in present]) if present else None,
    )
