"""The cells of a leaderboard: values, differences and intervals as text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from blair_rec.config.names import ELSEWHERE, ProtocolName
from blair_rec.evaluate.answer import p_value
from blair_rec.evaluate.leaderboard import Leaderboard, Row, Summary
from blair_rec.evaluate.significance import Interval

MARKS = {"better": "▲", "worse": "▼", "too few seeds": "?", "too few users": "?"}


def _best(leaderboard: Leaderboard, protocol: ProtocolName, metric: str) -> float:
    return max(row.metrics[protocol][metric].mean for row in leaderboard.rows)


def _name(row: Row) -> str:
    """The variant; a control is marked as one, and another system has its label."""
    if row.items == ELSEWHERE:
        return f"{row.variant}: {row.model}, {ELSEWHERE}" if row.model != ELSEWHERE else f"{row.variant}: {ELSEWHERE}"
    return row.variant if row.control is None else f"{row.variant} ({row.control} control)"


def _value(summary: Summary) -> str:
    """'0.0512 ± 0.0004', without the deviation for a single seed."""
    return f"{summary.mean:.4f}" if summary.std is None else f"{summary.mean:.4f} ± {summary.std:.4f}"


def _difference(summary: Summary) -> str:
    """'+12.3%', 'baseline' for the baseline itself, 'n/a' if the baseline's mean is 0."""
    if summary.versus_baseline is None:
        return "baseline"
    relative = summary.versus_baseline.relative
    return "n/a" if relative is None else f"{relative:+.1%}"


def _marked(summary: Summary) -> str:
    """'▲ +12.3%'."""
    versus = summary.versus_baseline
    return f"{MARKS.get(versus.verdict, '') if versus else ''} {_difference(summary)}".strip()


def _colour(summary: Summary) -> str:
    verdict = summary.versus_baseline.verdict if summary.versus_baseline else ""
    return {"better": "green", "worse": "red"}.get(verdict, "")


def _interval(summary: Summary) -> str:
    """'[+8.1, +16.3]' in percent, over seeds and users; '' if there is none."""
    interval = summary.versus_baseline.seeds_ci95 if summary.versus_baseline else None
    return "" if interval is None else "[{:+.1f}, {:+.1f}]".format(*(100 * end for end in interval))


def _claim(summary: Summary) -> str:
    """'+12.3% [+8.1, +16.3], p = .003: better', or '+12.3%: too few seeds'."""
    versus = summary.versus_baseline
    if versus is None:
        return "baseline"
    p = "" if versus.p_adjusted is None else f", {p_value(versus.p_adjusted)}"
    return f"{' '.join(filter(None, [_difference(summary), _interval(summary)]))}{p}: {versus.verdict}"


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _escaped(text: str) -> str:
    """The text in one line, escaped for Markdown, which ignores underscores inside words."""
    text = re.sub(r"([\\`*{}\[\]<>|#~$&!])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)
