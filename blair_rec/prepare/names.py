"""Names of users and items: which ones a RecBole data set can hold, and why others can't be used."""

from __future__ import annotations

import numpy as np
import polars as pl

MISSING = ["[PAD]", "#N/A N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"]
MISSING += ["nan", "-nan", "NaN", "-NaN", "NA", "N/A", "n/a", "#NA", "#N/A", "<NA>", "null", "NULL", "None"]
"""Names that RecBole, or the pandas it reads files with, treats as missing."""
NO_CELL = r'[\x00-\x1f\x7f"]|[^\S ]|^ | $'
"""A pattern of characters that no cell can hold: tabs separate cells, and pandas removes quotation marks."""
NO_PART = r" "
"""The character that no name in a list can hold: spaces separate the items of a history."""


def unusable(names: pl.Series, in_lists: bool) -> np.ndarray:
    """Return [n] bool; `in_lists` is for names that also go into lists, such as item names."""
    name = pl.col("name")
    bad = name.is_in(["", *MISSING]) | name.str.contains(NO_CELL)
    if in_lists:
        bad |= name.str.contains(NO_PART, literal=True)
    return names.to_frame("name").select(bad).to_series().to_numpy()


def why_unusable(name: str | None) -> str:
    """Return the reason and the advice."""
    if not name:
        return "it is empty"
    if name in MISSING:
        return "pandas and RecBole read this word as a missing name; rename it"
    if '"' in name:
        return "pandas would remove the quotation mark; replace it"
    if name[0] == " " or name[-1] == " ":
        return "it begins or ends with a space; remove it"
    if unusual := next((sign for sign in name if sign.isspace() and not sign.isascii()), ""):
        return f"it holds an unusual space (U+{ord(unusual):04X}); replace it"
    if not name.replace(" ", "").isprintable() or name.split(" ") != name.split():
        return "a tab, line break or other control character would break the cell; replace it"
    return "RecBole splits lists of items at spaces; replace them, for instance with '_'"
