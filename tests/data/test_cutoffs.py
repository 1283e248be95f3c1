"""Cut-off times: numbers and dates split events the same way, and cut-offs that leave a part empty are errors."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from worlds import built, cases, write_log

import blair_rec.recbole as plugin
from blair_rec.config.comparison import CompareConfig, load_config
from blair_rec.config.split import SplitConfig
from blair_rec.data.cutoffs import part_of
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import ConfigError, DatasetError
from blair_rec.experiment.compare import compare
from blair_rec.lines.dates import UNITS

FIRST = 1_704_067_200
"""2024-01-01, in seconds."""
DAY = 86_400
TIMES = FIRST + DAY * np.arange(100, dtype=np.float64)
"""Until 2024-04-09."""
DATES = SplitConfig(valid_from="2024-03-01", test_from="2024-03-20")


@pytest.mark.parametrize("unit", list(UNITS))
def test_dates_mean_the_same_in_every_unit(unit: str) -> None:
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=day) for day in range(100)]
    expected = [(day >= datetime.date(2024, 3, 1)) + (day >= datetime.date(2024, 3, 20)) for day in days]
    assert part_of(TIMES * UNITS[unit], DATES, "shop").tolist() == expected
    valid_from, test_from = (float((FIRST + DAY * day) * UNITS[unit]) for day in (60, 79))
    numbers = SplitConfig(valid_from=valid_from, test_from=test_from)
    assert part_of(TIMES * UNITS[unit], numbers, "shop").tolist() == expected


def test_a_date_may_have_a_time_and_a_zone() -> None:
    late = SplitConfig(valid_from="2024-03-01T01:00:00+02:00", test_from="2024-03-20T00:00:01Z")
    assert part_of(TIMES, late, "shop").tolist() == [int(day >= 60) + int(day >= 80) for day in range(100)]


@pytest.mark.parametrize(
    "split, message",
    [
        (
            SplitConfig(valid_from=1709251200, test_from=1710892800),
            r"'shop': its times run from 1704067200000 to 1712620800000 \(2024-01-01 to 2024-04-09, milliseconds since "
            r"1970\), but valid_from and test_from are 1709251200 and 1710892800 \(2024-03-01 and 2024-03-20, seconds "
            r"since 1970\), which leaves no training and no validation event; .*in the same unit, or as dates",
        ),
        (
            SplitConfig(valid_from="2024-03-01", test_from="2025-01-01"),
            r"valid_from is 2024-03-01 and test_from 2025-01-01, .* no test event",
        ),
        (SplitConfig(valid_from="2024-04-09", test_from="2026-01-01"), r"which leaves no test event"),
        (SplitConfig(valid_from="2023-01-01", test_from="2024-02-01"), r"which leaves no training event"),
        (SplitConfig(valid_from="2024-02-01T01:00", test_from="2024-02-01T02:00"), r"which leaves no validation event"),
        (
            SplitConfig(valid_from=5, test_from=6),
            r"valid_from and test_from are 5 and 6, which leaves no training and no validation event",
        ),
    ],
)
def test_cut_off_times_that_leave_a_part_empty_are_an_error_with_the_span_of_the_data(
    split: SplitConfig, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        part_of(TIMES * 1000, split, "shop")


def test_dates_need_times_with_a_known_unit() -> None:
    with pytest.raises(DatasetError, match=r"run from 0 to 99. .* so the date '2024-03-01'"):
        part_of(np.arange(100.0), DATES, "counted")


@pytest.mark.parametrize(
    "section, message",
    [
        ({"valid_from": "May", "test_from": "2024-07-01"}, "valid_from is 'May'; expected a number or a date such as"),
        ({"valid_from": 1, "test_from": "2024-07-01"}, "give two numbers or two dates"),
        ({"valid_from": "2024-07-02", "test_from": "2024-07-01"}, "valid_from has to be earlier than test_from"),
        ({"valid_from": True, "test_from": 2}, "valid_from is true; expected a number or a date"),
        ({"valid_from": "2024-02-31", "test_from": "2024-07-01"}, "valid_from is '2024-02-31'; expected a number"),
    ],
)
def test_invalid_cut_off_times_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SplitConfig(**section)


def events(unit: int = 1) -> list[tuple[str, str, int]]:
    """Five users who take turns, with one event per day."""
    return [(f"u{day % 5}", f"i{day * 7 % 11}", (FIRST + DAY * day) * unit) for day in range(100)]


def config_with(folder: Path, text: str) -> CompareConfig:
    """Return a comparison whose split section is this YAML."""
    variants = {"popular": {"scorer": "popularity"}}
    raw = {"dataset": str(folder), "variants": variants, "baseline": "popular", "seeds": [1]}
    path = folder.parent / "cfg.yaml"
    path.write_text(yaml.safe_dump(raw) + f"split: {text}\n", encoding="utf-8")
    return load_config(path)


def test_a_comparison_takes_dates_with_and_without_quotes(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "shop", events(1000))
    ranks = []
    for number, text in enumerate(
        (
            "{valid_from: 2024-03-01, test_from: 2024-03-20}",
            "{valid_from: '2024-03-01', test_from: '2024-03-20'}",
            f"{{valid_from: {(FIRST + 60 * DAY) * 1000}, test_from: {(FIRST + 79 * DAY) * 1000}}}",
        )
    ):
        out = tmp_path / f"out{number}"
        compare(config_with(folder, text), out)
        ranks.append((out / "runs" / "popular-1" / "ranks.npz").read_bytes())
        assert load_config(out / "config.yaml") == config_with(folder, text)
    assert ranks[0] == ranks[1] == ranks[2]


def test_a_comparison_reports_the_span_before_it_trains(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "shop", events(1000))
    with pytest.raises(DatasetError, match=r"2024-01-01 to 2024-04-09, milliseconds since 1970\), but"):
        compare(config_with(folder, f"{{valid_from: {FIRST + DAY}, test_from: {FIRST + 2 * DAY}}}"), tmp_path / "out")


def test_a_part_with_only_first_events_is_an_error(tmp_path: Path) -> None:
    log = [("a", "x", 1), ("a", "y", 2), ("a", "x", 3), ("b", "x", 150), ("c", "x", 250), ("c", "y", 260)]
    folder = write_log(tmp_path / "shop", log)
    with pytest.raises(DatasetError, match="leaves no validation case; all its events are the first of their user"):
        compare(config_with(folder, "{valid_from: 100, test_from: 200}"), tmp_path / "out")


def test_the_plugin_takes_dates(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "shop", events())
    splits = [
        built(TextSequentialDataset, folder, plugin.BLaIRSASRec, blair_split=split)[1]
        for split in (
            {"valid_from": "2024-03-01", "test_from": "2024-03-20"},
            {"valid_from": datetime.date(2024, 3, 1), "test_from": datetime.date(2024, 3, 20)},
            {"valid_from": FIRST + 60 * DAY, "test_from": FIRST + 79 * DAY},
        )
    ]
    found = [[cases([part]) for part in of_split] for of_split in splits]
    assert found[0] == found[1] == found[2] and [len(part) for part in found[0]] == [55, 19, 21]
