"""Lines that can't be used: each reason is shown with its number of lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from blair_rec.errors import RejectedLines
from blair_rec.lines.rejected import Rejected

LOG = Path("log.csv")


def rejected(*reasons: str, limit: float = 1.0) -> Rejected:
    """One line for each reason, from line 2 on."""
    found = Rejected(limit=limit, lines=100)
    for line, why in enumerate(reasons, start=2):
        found.add(LOG, line, why, "")
    return found


def test_lines_with_one_reason_are_shown_with_their_values() -> None:
    found = rejected("at 'x' is no time", "at 'y' is no time", "at 'z' is no time", "at 'w' is no time")
    shown = "log.csv, line 2: at 'x' is no time; log.csv, line 3: at 'y' is no time; log.csv, line 4: at 'z' is no time"
    assert found.examples == f"first: {shown}"


def test_a_rare_reason_is_not_hidden_by_a_frequent_one() -> None:
    found = rejected(*["at 'x' is no time"] * 4, *["item 'a b' has a space"] * 2, "1 column", "2 columns", "no user")
    assert found.examples == (
        "4 such as log.csv, line 2: at 'x' is no time; 2 such as log.csv, line 6: item 'a b' has a space; "
        "log.csv, line 8: 1 column; 2 for other reasons"
    )


def test_the_error_shows_each_reason() -> None:
    with pytest.raises(RejectedLines, match=r"3 of 100 lines .*\(2 such as .*line 2: no time; .*: no user"):
        rejected("no time", "no time", "no user", limit=0.01).check()


def test_a_dry_run_does_not_claim_to_have_written_a_file() -> None:
    found = rejected("no user")
    assert (
        found.summary() == "lines that can't be used: 1 (first: log.csv, line 2: no user); they are in rejected.jsonl"
    )
    assert found.summary(dry=True).endswith("; rejected.jsonl will list them")
