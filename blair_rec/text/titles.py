"""The name of an item for a reader, on one short line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from blair_rec.text.catalogue import Record, texts_in
from blair_rec.text.template import Template

TITLE_FIELDS = ("title", "movie_title", "item_title", "product_title", "name", "item_name", "text")
"""Fields that may hold an item's name; the first one that exists is used."""

LONGEST_TITLE = 120
"""Most characters of a title that is shown; longer titles are cut."""


def first_field(names: Sequence[str], known: Iterable[str]) -> str:
    """The first of `names` that is among the known fields, ignoring case; "" if none is."""
    by_lower = {name.lower(): name for name in sorted(known, reverse=True)}
    return next((by_lower[name] for name in names if name in by_lower), "")


def title_of(record: Record, template: Template | None) -> str:
    """The item's title, or else the beginning of the text that `template` makes; "" if there is neither."""
    title = texts_in(record.get(first_field(TITLE_FIELDS, record)))
    return short_title(title or ([template.line(record)] if template else []))


def short_title(texts: Sequence[str]) -> str:
    """Join texts into one line of at most LONGEST_TITLE characters."""
    text = " ".join(" ".join(texts).split())
    return text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 1].rstrip() + "…"
