"""Writes datasets/tiny: a made-up catalogue and log in which text predicts what a user takes next.

Eighty items are named by an adjective, a material and an object. A user's next item mostly shares the object or the
material of the last one, so both the log and the titles carry the signal, and a model that learns has something to
find. Run it again and the same bytes come out: only `Random.random` is used, whose stream Python keeps over versions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")

ADJECTIVES = ("blue", "folding", "handmade", "heavy", "large", "narrow", "round", "small", "tall", "vintage")
MATERIALS = ("bamboo", "brass", "canvas", "ceramic", "cork", "leather", "oak", "wool")
OBJECTS = {
    "basket": "storage", "bench": "furniture", "bowl": "kitchen", "box": "storage", "chair": "furniture",
    "cup": "kitchen", "lamp": "lighting", "lantern": "lighting", "shelf": "furniture", "tray": "kitchen",
}  # fmt: skip

USERS = 120
FEWEST, MOST = 8, 14  # events of a user
SAME_OBJECT, SAME_MATERIAL = 0.45, 0.40  # what the next item shares with the last one; otherwise it is any item
REPEAT = 0.03  # now and then a user comes back to an item of before: history and target may overlap
START = 1_700_000_000  # seconds; at this size float32 can't tell times less than two minutes apart
MINUTE, WEEK = 60, 7 * 24 * 3600


class Item(NamedTuple):
    """One row of tiny.item, and the two words its neighbours are found by."""

    token: str
    title: str
    category: str
    material: str
    object: str


class Event(NamedTuple):
    """One row of tiny.inter."""

    timestamp: int
    user: str
    item: str


def pick(random: Random, choices: Sequence[T]) -> T:
    """One of the choices, all equally likely."""
    return choices[int(random.random() * len(choices))]


def make_items(random: Random) -> list[Item]:
    """Every material with every object, under an adjective that means nothing."""
    pairs = [(material, thing) for material in MATERIALS for thing in OBJECTS]
    return [
        Item(f"i{number:02d}", f"{pick(random, ADJECTIVES)} {material} {thing}", OBJECTS[thing], material, thing)
        for number, (material, thing) in enumerate(pairs, start=1)
    ]


def next_item(random: Random, items: Sequence[Item], seen: Sequence[Item]) -> Item:
    """What a user who has seen these takes next."""
    last, draw = seen[-1], random.random()
    if draw < REPEAT and len(seen) > 1:
        return pick(random, seen[:-1])
    fresh = [item for item in items if item not in seen]
    if draw < REPEAT + SAME_OBJECT:
        near = [item for item in fresh if item.object == last.object]
    elif draw < REPEAT + SAME_OBJECT + SAME_MATERIAL:
        near = [item for item in fresh if item.material == last.material]
    else:
        near = []
    return pick(random, near or fresh)


def make_events(random: Random, items: Sequence[Item]) -> list[Event]:
    """The whole log, oldest event first; no user has two events in the same second."""
    events: list[Event] = []
    for number in range(1, USERS + 1):
        timestamp = START + int(random.random() * 52 * WEEK)
        seen = [pick(random, items)]
        for _ in range(FEWEST - 1 + int(random.random() * (MOST - FEWEST + 1))):
            seen.append(next_item(random, items, seen))
        for item in seen:
            events.append(Event(timestamp, f"u{number:03d}", item.token))
            # Half of the events follow within the minute, as clicks do: their order is lost where time is float32.
            timestamp += 1 + int(random.random() * (MINUTE if random.random() < 0.5 else WEEK))
    return sorted(events)


def write_tiny(folder: Path) -> None:
    """tiny.item and tiny.inter as RecBole's atomic files: tab-separated, with a type in every column's name."""
    random = Random(20)
    items = make_items(random)
    events = make_events(random, items)
    item_rows = ["item_id:token\ttitle:token_seq\tcategory:token"]
    item_rows += [f"{item.token}\t{item.title}\t{item.category}" for item in items]
    event_rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    event_rows += [f"{event.user}\t{event.item}\t{event.timestamp}" for event in events]
    folder.mkdir(parents=True, exist_ok=True)
    # Bytes, so that lines end alike on every system.
    (folder / "tiny.item").write_bytes("".join(f"{row}\n" for row in item_rows).encode())
    (folder / "tiny.inter").write_bytes("".join(f"{row}\n" for row in event_rows).encode())


if __name__ == "__main__":
    write_tiny(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "tiny")
