"""The answer in a sentence: which variant beats the baseline, by how much, how sure, and for which items."""

from __future__ import annotations

from collections.abc import Sequence

from blair_rec.errors import agreed, counted
from blair_rec.evaluate.leaderboard import Leaderboard, Row
from blair_rec.evaluate.significance import Difference


def answer(leaderboard: Leaderboard) -> str:
    """'text_init beats id by 12% [8, 16], p = .003, on NDCG@10 (unmasked); gains come from tail items'.

    95% interval over seeds and users; p is corrected for all comparisons of the table. Only serious rivals of the
    baseline are called better, worse or undecided: controls never, training-free scorers only where nothing else was
    compared. The best training-free scorer is named where no trained variant beats it, controls where they gain.
    """
    others = [row for row in leaderboard.rows if row.variant != leaderboard.baseline]
    on = f"on {leaderboard.metrics[0]} ({leaderboard.protocol})"
    if not others:
        return f"only {leaderboard.baseline} has been run: there is nothing to compare it with"
    rivals = _rivals(others)
    unbeaten = _unbeaten(leaderboard, rivals)
    left_out = any(row.training_free and row.control is None for row in others if row not in rivals)
    none = "no trained variant" if unbeaten or left_out else "no variant"
    better, worse = (
        [row for row in rivals if _versus(leaderboard, row).verdict == word] for word in ("better", "worse")
    )
    if not rivals:
        parts = [f"only controls have been run besides {leaderboard.baseline}: there is no other method to compare"]
    elif better:
        best = better[0]  # rows are ordered by this metric
        parts = [f"{best.variant} beats {leaderboard.baseline}{amount(_versus(leaderboard, best))}, {on}"]
        parts += _where(leaderboard, best)
        if better[1:]:
            parts.append(f"also better: {_named(leaderboard, better[1:])}")
    elif worse:
        parts = [f"{none} beats {leaderboard.baseline} {on}; worse: {_named(leaderboard, worse)}"]
    else:
        parts = [_undecided(leaderboard, rivals, on, none)]
    return "; ".join(parts + unbeaten + _controls(leaderboard, others, after_gain=bool(better)))


def _rivals(others: Sequence[Row]) -> list[Row]:
    """The variants that a reader wants to see compared with the baseline."""
    methods = [row for row in others if row.control is None]
    return [row for row in methods if not row.training_free] or methods


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


def _undecided(leaderboard: Leaderboard, rivals: Sequence[Row], on: str, none: str) -> str:
    verdicts = {_versus(leaderboard, row).verdict for row in rivals}
    if verdicts == {"too few seeds"}:
        return f"no claim {on}: a single seed can't tell a difference from luck; use at least two seeds, better five"
    if verdicts == {"too few users"}:
        return f"no claim {on}: {counted(leaderboard.users, 'user')} {agreed(leaderboard.users, 'are')} too few"
    single = [row.variant for row in rivals if _versus(leaderboard, row).verdict == "too few seeds"]
    rivals = [row for row in rivals if row.variant not in single]
    shown = ", ".join(f"{row.variant} {_signed(_versus(leaderboard, row))}" for row in rivals[:3])
    more = f" and {len(rivals) - 3} more" if len(rivals) > 3 else ""
    unsure = f"; no claim about {', '.join(single)}: only one seed" if single else ""
    return f"{none} differs significantly from {leaderboard.baseline} {on}: {shown}{more}{unsure}"


def _where(leaderboard: Leaderboard, row: Row) -> list[str]:
    """The items for which the variant is better, by the popularity slices."""
    by_popularity = [(name, part) for name, part in row.slices.items() if part.by == "popularity"]
    gaining = []
    for name, part in by_popularity:
        versus = part.metrics[leaderboard.protocol][leaderboard.metrics[0]].versus_baseline
        if versus is not None and versus.verdict == "better":
            gaining.append(name)
    if not gaining:
        return []
    return [f"gains come from {' and '.join([', '.join(gaining[:-1]), gaining[-1]] if gaining[1:] else gaining)} items"]


def _unbeaten(leaderboard: Leaderboard, rivals: Sequence[Row]) -> list[str]:
    """'text (0.0527) does not beat training-free rules (0.0569)', if the sentence doesn't compare with rules anyway."""
    methods = [row for row in leaderboard.rows if row.control is None]
    best = {free: next((row for row in methods if row.training_free == free), None) for free in (False, True)}
    trained, free = best[False], best[True]
    if trained is None or free is None or free in rivals or free.variant == leaderboard.baseline:
        return []
    ours, theirs = _mean(leaderboard, trained), _mean(leaderboard, free)
    if ours > theirs:
        return []
    return [f"{trained.variant} ({ours:.4f}) does not beat training-free {free.variant} ({theirs:.4f})"]


def _controls(leaderboard: Leaderboard, others: Sequence[Row], after_gain: bool) -> list[str]:
    """A warning if controls are better than the baseline, although their text says nothing about the items."""
    gaining = [row for row in others if row.control and _versus(leaderboard, row).verdict == "better"]
    if not gaining:
        return []
    named = " and ".join(f"{row.variant} ({amount(_versus(leaderboard, row)).lstrip(', ')})" for row in gaining)
    one = len(gaining) == 1
    verb = "gains" if one else "gain"
    if after_gain:
        return [f"but the control{'' if one else 's'} {named} {verb} too, so the gain may not come from the text"]
    return [f"but the control{'' if one else 's'} {named} {verb}, so a gain may not come from the text"]


def _named(leaderboard: Leaderboard, rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.variant}{amount(_versus(leaderboard, row))}" for row in rows)


def _signed(versus: Difference) -> str:
    """'+2% [-4, 8]'."""
    if versus.relative is None:
        return "n/a"
    interval = "" if versus.seeds_ci95 is None else " [{:.0f}, {:.0f}]".format(*(100 * e for e in versus.seeds_ci95))
    return f"{versus.relative:+.0%}{interval}"


def _mean(leaderboard: Leaderboard, row: Row) -> float:
    return row.metrics[leaderboard.protocol][leaderboard.metrics[0]].mean


def _versus(leaderboard: Leaderboard, row: Row) -> Difference:
    found = row.metrics[leaderboard.protocol][leaderboard.metrics[0]].versus_baseline
    assert found is not None  # only the baseline has none
    return found
