"""The answer in a sentence: which variant beats the baseline, by how much, how sure, and for which items."""

from __future__ import annotations

from collections.abc import Sequence

from blair_rec.evaluate.leaderboard import Leaderboard, Row
from blair_rec.evaluate.significance import Difference


def answer(leaderboard: Leaderboard) -> str:
    """'text_init beats id by 12% [8, 16], p = .003, on NDCG@10 (history not masked); gains come from tail items'.

    The interval holds in 95 of 100 repetitions with other seeds and users; p is corrected for all comparisons made.
    """
    others = [row for row in leaderboard.rows if row.variant != leaderboard.baseline]
    on = f"on {leaderboard.metrics[0]} ({leaderboard.protocol})"
    if not others:
        return f"only {leaderboard.baseline} has been run: there is nothing to compare it with"
    better = [row for row in others if _versus(leaderboard, row).verdict == "better"]
    worse = [row for row in others if _versus(leaderboard, row).verdict == "worse"]
    candidates = [row for row in better if row.control is None]
    if candidates:
        best = candidates[0]  # rows stand in the order of this metric
        parts = [f"{best.variant} beats {leaderboard.baseline}{amount(_versus(leaderboard, best))}, {on}"]
        parts += _where(leaderboard, best)
        if candidates[1:]:
            parts.append(f"better, too: {_named(leaderboard, candidates[1:])}")
    elif worse:
        parts = [f"no variant beats {leaderboard.baseline} {on}; worse: {_named(leaderboard, worse)}"]
    else:
        parts = [_undecided(leaderboard, others, on)]
    if controls := [row for row in better if row.control is not None]:
        parts.append(f"but {_named(leaderboard, controls)} is better as well, and its text means nothing")
    return "; ".join(parts)


def amount(versus: Difference) -> str:
    """' by 12% [8, 16], p = .003', the interval over seeds and users; without a percentage where there is none."""
    words = ""
    if versus.relative is not None:
        words = f" by {abs(versus.relative):.0%}"
        if versus.seeds_ci95 is not None:
            low, high = sorted(100 * (end if versus.relative >= 0 else -end) for end in versus.seeds_ci95)
            words += f" [{low:.0f}, {high:.0f}]"
    return words + ("" if versus.p_adjusted is None else f", {p_value(versus.p_adjusted)}")


def p_value(p: float) -> str:
    """'p = .003', 'p < .001', 'p = 1'."""
    if p < 0.001:
        return "p < .001"
    return f"p = {p:.2g}" if p >= 0.995 else "p = " + f"{p:.3f}".lstrip("0")


def _undecided(leaderboard: Leaderboard, others: Sequence[Row], on: str) -> str:
    verdicts = {_versus(leaderboard, row).verdict for row in others}
    if verdicts == {"too few seeds"}:
        return f"no claim {on}: a single seed can't tell a difference from luck; give at least two, better five"
    if verdicts == {"too few users"}:
        return f"no claim {on}: {leaderboard.users:,} users are too few"
    single = [row.variant for row in others if _versus(leaderboard, row).verdict == "too few seeds"]
    others = [row for row in others if row.variant not in single]
    shown = ", ".join(f"{row.variant} {_signed(_versus(leaderboard, row))}" for row in others[:3])
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    unsure = f"; no claim about {', '.join(single)}, which have a single seed" if single else ""
    return f"no variant differs from {leaderboard.baseline} {on}: {shown}{more}{unsure}"


def _where(leaderboard: Leaderboard, row: Row) -> list[str]:
    """For which items the variant is better, if that can be said of any."""
    by_popularity = [(name, part) for name, part in row.slices.items() if part.by == "popularity"]
    gaining = []
    for name, part in by_popularity:
        versus = part.metrics[leaderboard.protocol][leaderboard.metrics[0]].versus_baseline
        if versus is not None and versus.verdict == "better":
            gaining.append(name)
    if not gaining:
        return []
    return [f"gains come from {' and '.join([', '.join(gaining[:-1]), gaining[-1]] if gaining[1:] else gaining)} items"]


def _named(leaderboard: Leaderboard, rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.variant}{amount(_versus(leaderboard, row))}" for row in rows)


def _signed(versus: Difference) -> str:
    """'+2% [-4, 8]'."""
    if versus.relative is None:
        return "n/a"
    interval = "" if versus.seeds_ci95 is None else " [{:.0f}, {:.0f}]".format(*(100 * e for e in versus.seeds_ci95))
    return f"{versus.relative:+.0%}{interval}"


def _versus(leaderboard: Leaderboard, row: Row) -> Difference:
    found = row.metrics[leaderboard.protocol][leaderboard.metrics[0]].versus_baseline
    assert found is not None  # only the baseline has none
    return found
