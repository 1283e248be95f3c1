"""datasets/tiny: the script makes it again, and in it text does predict the next item."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent


def rows(path: Path) -> list[list[str]]:
    """The rows of an atomic file, without its header."""
    return [line.split("\t") for line in path.read_text("utf-8").splitlines()[1:]]


def histories(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """user -> (time, item token), oldest first."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for user, item, time in rows(folder / "tiny.inter"):
        found[user].append((int(time), item))
    return {user: sorted(events) for user, events in found.items()}


def test_the_script_makes_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run([sys.executable, REPOSITORY / "datasets" / "make_tiny.py", tmp_path / "again"], check=True)
    committed = REPOSITORY / "datasets" / "tiny"
    assert {path.name for path in (tmp_path / "again").iterdir()} == {path.name for path in committed.iterdir()}
    for path in committed.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_its_size_is_as_told(tiny: Path) -> None:
    lengths = [len(events) for events in histories(tiny).values()]
    items = rows(tiny / "tiny.item")
    assert len(lengths) == 120 and min(lengths) == 8 and max(lengths) == 14
    assert len({token for token, _, _ in items}) == len(items) == 80
    assert {item for _, item, _ in rows(tiny / "tiny.inter")} <= {token for token, _, _ in items}


def test_events_of_a_user_have_an_order_that_float32_loses(tiny: Path) -> None:
    pairs = [pair for events in histories(tiny).values() for pair in pairwise(time for time, _ in events)]
    assert all(earlier < later for earlier, later in pairs)
    assert sum(np.float32(earlier) == np.float32(later) for earlier, later in pairs) > 100


def test_the_next_item_mostly_shares_the_object_or_the_material_of_the_last(tiny: Path) -> None:
    words = {token: set(title.split()[1:]) for token, title, _ in rows(tiny / "tiny.item")}
    steps = [(last, item) for events in histories(tiny).values() for (_, last), (_, item) in pairwise(events)]
    shared = np.mean([bool(words[last] & words[item]) for last, item in steps])
    by_chance = np.mean([bool(words[last] & words[item]) for last in words for item in words if item != last])
    assert by_chance < 0.25 and shared > 0.75
