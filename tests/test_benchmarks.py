"""Benchmarks that set ours beside a peer that is not installed here: what they give it, and their own half."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

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
        events = [(row["user"], int(row["order"])) for row in csv.DictReader(file)]
    assert len(events) == len((tiny / "tiny.inter").read_text(encoding="utf-8").splitlines()) - 1
    assert events == sorted(events, key=lambda event: (int(event[0]), event[1]))
    places = {user: [order for other, order in events if other == user] for user, _ in events}
    assert all(orders == list(range(len(orders))) for orders in places.values())

    also = ["train.epochs=2", "train.stride=10"]
    record = against_rectools.train_ours(str(tiny), (1,), tmp_path / "ours", also)
    assert len(record) == 1 and len(record[0]["curve"]) == 2
    assert 0 < record[0]["best"]["test"]["unmasked"] <= record[0]["best"]["test"]["masked"] <= 1
    page = {"dataset": "tiny", "date": "today", "git_commit": None, "minutes": 1, "rectools": [], "ours": record}
    made = {"machine": "m", "threads": 1, "blair_rec": "0", "torch": "2", "numpy": "2", "python": "3"}
    assert "| blair_rec, id | 0.5 | 1 | 2 |" in against_rectools.to_markdown(
        {**page, "settings_of_ours": also, "provenance": made}
    )
