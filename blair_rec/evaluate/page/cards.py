"""What the page shows of items beside their numbers: titles, categories, and maps of their text vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blair_rec.errors import BadItemCards
from blair_rec.files import write_text

SCHEMA = 1
CARDS_FILE, PAGE_FILE = "item_cards.json", "leaderboard.html"


@dataclass(frozen=True)
class ItemMap:
    """The vectors of one store, seen along their two widest directions."""

    encoder: str
    store_sha256: str
    explained: tuple[float, float]
    """Share of the variance of all vectors that each direction carries, 0 to 1."""
    items: int
    """How many items have a vector; more than there are points where they were sampled."""
    item_tokens: tuple[str, ...]
    x: tuple[float, ...]
    """[len(item_tokens)]"""
    y: tuple[float, ...]
    """[len(item_tokens)]"""


@dataclass(frozen=True)
class ItemCards:
    """The items of a comparison as a reader knows them; DIR/item_cards.json, key by key (next to "schema")."""

    titles: Mapping[str, str] = field(default_factory=dict)
    """By item token; none for items without one."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """By item token; empty where the catalogue has no field for it."""
    maps: tuple[ItemMap, ...] = ()
    """One for each store that a variant uses."""


def write_cards(folder: Path, cards: ItemCards) -> None:
    """item_cards.json into the folder of a comparison."""
    text = json.dumps({"schema": SCHEMA, **asdict(cards)}, allow_nan=False, ensure_ascii=False)
    write_text(Path(folder) / CARDS_FILE, text + "\n")


def read_cards(folder: Path) -> ItemCards:
    """The cards in the folder of a comparison; without the file, cards that know nothing.

    Raises:
        BadItemCards: the file is damaged, or another version's.
    """
    path = Path(folder) / CARDS_FILE
    if not path.exists():
        return ItemCards()
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("schema") != SCHEMA:
            raise ValueError("of another version of blair_rec")
        maps = tuple(_map(one) for one in raw.pop("maps"))
        return ItemCards(**raw, maps=maps)
    # What a damaged file raises depends on where it was hit: no JSON, no object, or other keys.
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadItemCards(path, error) from error


def _map(raw: dict[str, Any]) -> ItemMap:
    """A map as JSON has it: tuples are lists there."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return ItemMap(**values)
