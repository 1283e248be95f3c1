"""Benchmarks that set ours beside a peer that is not installed here: what they give it, and their own half."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from worlds import read_log

ROOT = Path(__file__).parent.parent


@pytest.fixture
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])


@pytest.mark.usefixtures("_benchmarks")
def test_the_peer_gets_all_events_in_our_order_and_our_half_runs(tmp_path: Path) -> None:
    import against_rectools

    tiny = ROOT / "datasets" / "tiny"
    against_rectools.write_events(str(tiny), tmp_path / "events.csv")
    with (tmp_path / "events.csv").open(encoding="utf-8", newline="") as file:
        events = [(int(row["user"]), int(row["item"]), int(row["order"])) for row in csv.DictReader(file)]
    log = read_log(tiny)
    users, items = (
        {name: number for number, name in enumerate(dict.fromkeys(event[at] for event in log), 1)} for at in (0, 1)
    )  # RecBole numbers names by where they first stand
    of_user = {user: [item for who, item, _ in sorted(log, key=lambda e: e[2]) if who == user] for user in users}
    assert events == [
        (users[user], items[item], order) for user, taken in of_user.items() for order, item in enumerate(taken)
    ]

    also = ["train.epochs=2", "train.stride=10"]
    record = against_rectools.train_ours(str(tiny), (1,), tmp_path / "ours", also)
    assert len(record) == 1 and len(record[0]["curve"]) == 2
    assert 0 < record[0]["best"]["test"]["unmasked"] <= record[0]["best"]["test"]["masked"] <= 1
    page = {"dataset": "tiny", "date": "today", "git_commit": None, "minutes": 1, "rectools": [], "ours": record}
    made = {"machine": "m", "threads": 1, "blair_rec": "0", "torch": "2", "numpy": "2", "python": "3"}
    assert "| blair_rec, id | 0.5 | 1 | 2 |" in against_rectools.to_markdown(
        {**page, "settings_of_ours": also, "provenance": made}
    )
