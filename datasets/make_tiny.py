"""Write datasets/tiny: a made-up catalogue and log in which text helps to predict a user's next item.

The titles of eighty items consist of an adjective, a material and an object. A user's next item mostly shares the
object or the material of the last item, so a model can learn from both the log and the titles. The output is always the
same: only `Random.random` is used, whose numbers don't change between Python versions.
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
SAME_OBJECT, SAME_MATERIAL = 0.45, 0.40  # probability that the next item shares this with the last item
REPEAT = 0.03  # probability that a user repeats an earlier item, so some targets are in the history
START = 1_700_000_000  # seconds; for numbers this large, float32 can't tell times within two minutes apart
MINUTE, WEEK = 60, 7 * 24 * 3600


class Item(NamedTuple):
    """One row of tiny.item, and the two words that related items share."""

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
    """Return one of the choices, all equally likely."""
    return choices[int(random.random() * len(choices))]


def make_items(random: Random) -> list[Item]:
    """Return an item for every pair of material and object, with a random adjective that carries no signal."""
    pairs = [(material, thing) for material in MATERIALS for thing in OBJECTS]
    return [
        Item(f"i{number:02d}", f"{pick(random, ADJECTIVES)} {material} {thing}", OBJECTS[thing], material, thing)
        for number, (material, thing) in enumerate(pairs, start=1)
    ]


def next_item(random: Random, items: Sequence[Item], seen: Sequence[Item]) -> Item:
    """Return the next item of a user with this history."""
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
    """Return the whole log, oldest event first; no user has two events in the same second."""
    events: list[Event] = []
    for number in range(1, USERS + 1):
        timestamp = START + int(random.random() * 52 * WEEK)
        seen = [pick(random, items)]
        for _ in range(FEWEST - 1 + int(random.random() * (MOST - FEWEST + 1))):
            seen.append(next_item(random, items, seen))
        for item in seen:
            events.append(Event(timestamp, f"u{number:03d}", item.token))
            # Half of the events follow within a minute, like clicks; float32 times would lose their order.
            timestamp += 1 + int(random.random() * (MINUTE if random.random() < 0.5 else WEEK))
    return sorted(events)


def write_tiny(folder: Path) -> None:
    """Write tiny.item and tiny.inter as RecBole's atomic files: tab-separated, with a type in every column name."""
    random = Random(20)
    items = make_items(random)
    events = make_events(random, items)
    item_rows = ["item_id:token\ttitle:token_seq\tcategory:token"]
    item_rows += [f"{item.token}\t{item.title}\t{item.category}" for item in items]
    event_rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    event_rows += [f"{event.user}\t{event.item}\t{event.timestamp}" for event in events]
    folder.mkdir(parents=True, exist_ok=True)
    # Bytes, so that line ends are the same on every system.
    (folder / "tiny.item").write_bytes("".join(f"{row}\n" for row in item_rows).encode())
    (folder / "tiny.inter").write_bytes("".join(f"{row}\n" for row in event_rows).encode())


if __name__ == "__main__":
    write_tiny(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "tiny")
