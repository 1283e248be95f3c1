"""The caption of a leaderboard: what was measured, on which data, with which encoder and versions."""

from __future__ import annotations

from blair_rec.config.names import ProtocolName
from blair_rec.errors import counted
from blair_rec.evaluate.cells import MARKS, _listed
from blair_rec.evaluate.leaderboard import Leaderboard

HISTORY: dict[ProtocolName, str] = {"unmasked": "history not masked", "masked": "history masked"}
VERSIONS = ("blair_rec", "recbole", "torch", "numpy", "python", "git_commit")
TIES = "ties are averaged over all orders"


def caption(leaderboard: Leaderboard) -> str:
    """The facts as sentences."""
    return f"{'. '.join(facts(leaderboard))}."


def facts(leaderboard: Leaderboard) -> list[str]:
    """Return the facts behind a board: data, protocol, encoder, versions and so on, each without a full stop."""
    cases = "" if leaderboard.cases == leaderboard.users else f", {counted(leaderboard.cases, 'test case')}"
    parts = [
        f"data: {leaderboard.dataset}, test split, {counted(leaderboard.users, 'user')}{cases}",
        f"full ranking over {counted(leaderboard.candidates, 'item')}",
        _seeds_part(leaderboard),
        _protocol_part(leaderboard),
        in_history(leaderboard),
        TIES,
        *_claims_parts(leaderboard),
        *models(leaderboard),
        encoders(leaderboard),
    ]
    if versions := _versions(leaderboard):
        parts.append(f"versions: {versions}")
    return [f"{part[0].upper()}{part[1:]}" for part in parts]


def in_history(leaderboard: Leaderboard) -> str:
    """How many targets are in the user's history, and what that means when the history is masked."""
    count = leaderboard.target_in_history
    if not count:
        return "no target is already in the user's history"
    verb, they_count = ("is", "It counts as a miss") if count == 1 else ("are", "They count as misses")
    share = f"{count:,} of {counted(leaderboard.cases, 'target')}"
    return f"{share} {verb} already in the user's history. {they_count} when the history is masked"


def encoders(leaderboard: Leaderboard) -> str:
    """The encoders that made the vectors, with their variants if there are several; 'no text encoder used' if none."""
    used: dict[str, list[str]] = {}
    for row in leaderboard.rows:
        if row.encoder is not None:
            used.setdefault(str(row.encoder), []).append(row.variant)
    if not used:
        return "no text encoder used"
    if len(used) == 1:
        return f"encoder: {next(iter(used))}"
    return "encoders: " + ", ".join(f"{encoder} for {' and '.join(variants)}" for encoder, variants in used.items())


def models(leaderboard: Leaderboard) -> list[str]:
    """'models: SASRec for id and text, GRU4Rec for gru', for the trained variants; empty if all have the same model."""
    used: dict[str, list[str]] = {}
    for row in leaderboard.rows:
        if row.epochs:
            used.setdefault(row.model, []).append(row.variant)
    named = [f"{model} for {' and '.join(variants)}" for model, variants in used.items()]
    return ["models: " + ", ".join(named)] if len(named) > 1 else []


def _seeds_part(leaderboard: Leaderboard) -> str:
    seeds = {row.seeds for row in leaderboard.rows}
    if len(seeds) > 1:
        return "mean ± standard deviation over the seeds of each variant, which differ between variants (see the notes)"
    (common,) = seeds
    if len(common) == 1:
        return f"one seed ({common[0]}), so no standard deviation"
    return f"mean ± standard deviation over {len(common)} seeds ({_listed(common)})"


def _claims_parts(leaderboard: Leaderboard) -> tuple[str, str]:
    return (
        f"{MARKS['better']} {MARKS['worse']}: significantly better or worse than {leaderboard.baseline}",
        "significant: p at most .05 over users and over seeds, corrected for all variants and metrics with Holm's "
        "method",
    )


def _protocol_part(leaderboard: Leaderboard) -> str:
    protocol, selected_on = leaderboard.protocol, leaderboard.selected_on
    if not selected_on:
        return f"ordered by the results with {HISTORY[protocol]}, and nothing was selected on validation"
    if all(selection.endswith(f" {protocol}") for selection in selected_on):
        metrics = _listed([selection.removesuffix(f" {protocol}") for selection in selected_on])
        return f"{HISTORY[protocol]} (validation used {metrics} with this protocol, too)"
    return f"ordered by the results with {HISTORY[protocol]}, but validation selected on {_listed(selected_on)}"


def _versions(leaderboard: Leaderboard) -> str:
    """'blair_rec 0.1.0, torch 2.6.0': the recorded versions; 'a / b' where runs differ."""
    found = []
    for key in VERSIONS:
        value = leaderboard.provenance.get(key)
        values = value if isinstance(value, list) else [value]
        if values != [None]:
            found.append(f"{key} {' / '.join('unknown' if one is None else str(one) for one in values)}")
    return _listed(found)
