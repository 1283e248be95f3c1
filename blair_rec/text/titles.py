"""What a reader is shown of an item: its name, on one short line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TITLE_FIELDS = ("title", "movie_title", "item_title", "product_title", "name", "item_name", "text")
"""Where a reader looks for an item's name, in this order."""


LONGEST_TITLE = 120
"""Characters of a title that a reader is shown; what is longer is cut."""


def first_field(names: Sequence[str], known: Iterable[str]) -> str:
    """The first of `names` that is among the known fields, whatever its case; "" without any."""
    by_lower = {name.lower(): name for name in sorted(known, reverse=True)}
    return next((by_lower[name] for name in names if name in by_lower), "")


def short_title(texts: Sequence[str]) -> str:
    """Texts as one line for a reader, of at most LONGEST_TITLE characters."""
    text = " ".join(" ".join(texts).split())
    return text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 1].rstrip() + "…"
