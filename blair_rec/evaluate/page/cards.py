"""Facts about items for the page: titles, categories, and maps of their text vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blair_rec.errors import BadItemCards
from blair_rec.files.writing import write_text

SCHEMA = 1
CARDS_FILE, PAGE_FILE = "item_cards.json", "leaderboard.html"


@dataclass(frozen=True)
class ItemMap:
    """The vectors of one store, projected to their two directions of largest variance."""

    encoder: str
    store_sha256: str
    explained: tuple[float, float]
    """Share of the total variance along each of the two directions, 0 to 1."""
    items: int
    """Number of items with a vector; more than the points of the map if these are a sample."""
    item_tokens: tuple[str, ...]
    x: tuple[float, ...]
    """[len(item_tokens)]"""
    y: tuple[float, ...]
    """[len(item_tokens)]"""


@dataclass(frozen=True)
class ItemCards:
    """Titles, categories and maps of a comparison's items; the keys of DIR/item_cards.json (plus "schema")."""

    titles: Mapping[str, str] = field(default_factory=dict)
    """By item token; items without a title are missing."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """By item token; empty if the catalogue has no field for categories."""
    maps: tuple[ItemMap, ...] = ()
    """One for each store that a variant uses."""


def write_cards(folder: Path, cards: ItemCards) -> None:
    """Write item_cards.json into the folder of a comparison."""
    text = json.dumps({"schema": SCHEMA, **asdict(cards)}, allow_nan=False, ensure_ascii=False)
    write_text(Path(folder) / CARDS_FILE, text + "\n")


def read_cards(folder: Path) -> ItemCards:
    """Read the cards in the folder of a comparison; without the file, return empty cards.

    Raises:
        BadItemCards: the file is damaged, or from another version.
    """
    path = Path(folder) / CARDS_FILE
    if not path.exists():
        return ItemCards()
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("schema") != SCHEMA:
            raise ValueError("from another version of blair_rec")
        maps = tuple(_map(one) for one in raw.pop("maps"))
        return ItemCards(**raw, maps=maps)
    # The error depends on how the file is damaged: no JSON, no object, or other keys.
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadItemCards(path, error) from error


def _map(raw: dict[str, Any]) -> ItemMap:
    """A map read from JSON, where tuples became lists."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return ItemMap(**values)
