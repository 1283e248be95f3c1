"""The line of text an encoder reads for one item."""

from __future__ import annotations

from collections.abc import Sequence

from blair_rec.errors import ConfigError, MissingField
from blair_rec.text.catalogue import Catalogue, Record

TEMPLATE = "fields"
"""Name of the way lines are made; a store records it, so that vectors of other lines are never taken for these."""
TEMPLATE_VERSION = 1
"""Goes up whenever the same record and fields would give another line."""


def item_text(record: Record, fields: Sequence[str]) -> str:
    """The chosen fields of one item, in order, as a single line; missing fields leave no trace.

    Every run of whitespace, line breaks included, becomes one space. An item without any text gives "".
    """
    pieces: list[str] = []
    for name in fields:
        value = record.get(name) or []
        pieces += [value] if isinstance(value, str) else value
    return " ".join(" ".join(pieces).split())


def catalogue_texts(catalogue: Catalogue, fields: Sequence[str]) -> list[str]:
    """[len(catalogue)] one line per item, in the order of the catalogue; "" for an item without text.

    Raises MissingField for a field that no record has, ConfigError if no field is asked for.
    """
    if isinstance(fields, str) or not fields:
        raise ConfigError(f"text fields are {fields!r}; name at least one in a list, such as [title]")
    known = catalogue.fields
    for name in fields:
        if name not in known:
            raise MissingField(name, known, str(catalogue.source))
    return [item_text(record, fields) for record in catalogue.records]
