"""One Leaderboard -> terminal, Markdown, CSV, JSON: the same numbers, each time with what they were measured on."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blair_rec.evaluate.leaderboard import Leaderboard, Row, Summary
from blair_rec.evaluate.results import PROTOCOLS, ProtocolName

if TYPE_CHECKING:
    from rich.table import Table

HISTORY: dict[ProtocolName, str] = {"unmasked": "history not masked", "masked": "history masked"}
VERSIONS = ("blair_rec", "recbole", "torch", "numpy", "python", "git_commit")
TERMINAL_METRICS = 3
"""That many fit into 100 columns next to the difference and the other protocol."""


def caption(leaderboard: Leaderboard) -> str:
    """What was measured, on what, with which encoder and versions: several parts, joined by '; '."""
    cases = "" if leaderboard.cases == leaderboard.users else f", {leaderboard.cases:,} test cases"
    parts = [
        f"{leaderboard.dataset}, test split",
        _seeds_part(leaderboard),
        f"full ranking over {leaderboard.candidates:,} items",
        f"{leaderboard.users:,} users{cases}",
        _protocol_part(leaderboard),
        f"{leaderboard.target_in_history:,} of {leaderboard.cases:,} true items stand in their own history: "
        "misses where it is masked",
        "equal scores count as their mean over all orders",
        encoders(leaderboard),
    ]
    if versions := _versions(leaderboard):
        parts.append(versions)
    return "; ".join(parts)


def encoders(leaderboard: Leaderboard) -> str:
    """The encoders that made the vectors, and for whom if there are several; 'no text encoder used' without text."""
    used: dict[str, list[str]] = {}
    for row in leaderboard.rows:
        if row.encoder is not None:
            used.setdefault(str(row.encoder), []).append(row.variant)
    if not used:
        return "no text encoder used"
    if len(used) == 1:
        return f"encoder: {next(iter(used))}"
    return "encoders: " + ", ".join(f"{encoder} for {' and '.join(variants)}" for encoder, variants in used.items())


def to_terminal(leaderboard: Leaderboard) -> Table:
    """A table for 100 columns: up to three metrics under the chosen protocol, the first one under the other, too."""
    # Only the command line shows tables, and everything else stays free of rich.
    from rich import box
    from rich.table import Table
    from rich.text import Text

    chosen = leaderboard.protocol
    other = next(protocol for protocol in PROTOCOLS if protocol != chosen)
    shown, first = leaderboard.metrics[:TERMINAL_METRICS], leaderboard.metrics[0]
    # Text, not str: brackets in names are no markup.
    lines = [caption(leaderboard)] + [f"Note: {note}" for note in leaderboard.notes]
    if left_out := leaderboard.metrics[TERMINAL_METRICS:]:
        lines.append(f"Also measured: {', '.join(left_out)} (in leaderboard.md)")
    table = Table(
        title=Text(f"{leaderboard.dataset}: {HISTORY[chosen]}", style="bold"),
        caption=Text("\n".join(lines)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("variant", overflow="fold")
    columns = [(chosen, metric) for metric in shown] + [(other, first)]
    for place, (protocol, metric) in enumerate(columns):
        table.add_column(f"{metric}\n{protocol}", justify="right", no_wrap=True)
        if place == 0:
            table.add_column(Text(f"vs\n{leaderboard.baseline}"), justify="right", no_wrap=True, max_width=12)
    best = {column: _best(leaderboard, *column) for column in columns}
    for row in leaderboard.rows:
        cells: list[Text] = [Text(_name(row))]
        for place, (protocol, metric) in enumerate(columns):
            summary = row.metrics[protocol][metric]
            cells.append(Text(_value(summary), style="bold" if summary.mean == best[protocol, metric] else ""))
            if place == 0:
                cells.append(Text(_difference(summary)))
        table.add_row(*cells)
    return table


def to_markdown(leaderboard: Leaderboard) -> str:
    """A heading, one table per protocol (the chosen one first), the caption and the notes."""
    blocks = [f"# {_escaped(leaderboard.dataset)}"]
    for protocol in sorted(PROTOCOLS, key=lambda protocol: protocol != leaderboard.protocol):
        blocks += [f"## {HISTORY[protocol].capitalize()} ({protocol})", _markdown_table(leaderboard, protocol)]
    blocks.append(f"{_escaped(caption(leaderboard))}.")
    if leaderboard.notes:
        blocks.append("\n".join(f"- Note: {_escaped(note)}" for note in leaderboard.notes))
    return "\n\n".join(blocks) + "\n"


def to_csv(leaderboard: Leaderboard) -> str:
    """Tidy: one line per variant, protocol and metric, each with the whole context, so that files can be joined."""
    text = io.StringIO()
    records = [
        _csv_record(leaderboard, row, protocol, metric)
        for row in leaderboard.rows
        for protocol in PROTOCOLS
        for metric in leaderboard.metrics
    ]
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def to_json(leaderboard: Leaderboard) -> str:
    """The content of leaderboard.json: `Leaderboard.to_json()` and the caption. A NaN is a ValueError."""
    content = {**leaderboard.to_json(), "caption": caption(leaderboard)}
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_jsonl(leaderboard: Leaderboard) -> str:
    """The content of results.jsonl: one `Score` per line."""
    scores = leaderboard.scores()
    return "".join(json.dumps(score._asdict(), allow_nan=False, ensure_ascii=False) + "\n" for score in scores)


def write_reports(leaderboard: Leaderboard, folder: Path) -> None:
    """leaderboard.md, .csv and .json, and results.jsonl, each written under a temporary name and renamed."""
    texts = {
        "leaderboard.md": to_markdown(leaderboard),
        "leaderboard.csv": to_csv(leaderboard),
        "leaderboard.json": to_json(leaderboard),
        "results.jsonl": to_jsonl(leaderboard),
    }
    for name, text in texts.items():
        temporary = Path(folder) / f".{name}.{os.getpid()}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8", newline="\n")
            os.replace(temporary, Path(folder) / name)
        finally:
            temporary.unlink(missing_ok=True)


def _seeds_part(leaderboard: Leaderboard) -> str:
    seeds = {row.seeds for row in leaderboard.rows}
    if len(seeds) > 1:
        return "mean ± standard deviation over the seeds of each variant, not the same for all (see the notes)"
    (common,) = seeds
    if len(common) == 1:
        return f"one seed ({common[0]}), so no standard deviation"
    return f"mean ± standard deviation over {len(common)} seeds ({_listed(common)})"


def _protocol_part(leaderboard: Leaderboard) -> str:
    protocol, selected_on = leaderboard.protocol, leaderboard.selected_on
    if not selected_on:
        return f"ordered with the {HISTORY[protocol]}; nothing was selected on validation"
    if all(selection.endswith(f" {protocol}") for selection in selected_on):
        return f"{HISTORY[protocol]}: the protocol that validation selected on ({_listed(selected_on)})"
    return f"ordered with the {HISTORY[protocol]}, while validation selected on {_listed(selected_on)}"


def _versions(leaderboard: Leaderboard) -> str:
    """'blair_rec 0.1.0, torch 2.6.0', as far as the runs recorded them; 'a / b' where they differ."""
    found = []
    for key in VERSIONS:
        value = leaderboard.provenance.get(key)
        values = value if isinstance(value, list) else [value]
        if values != [None]:
            found.append(f"{key} {' / '.join('unknown' if one is None else str(one) for one in values)}")
    return _listed(found)


def _best(leaderboard: Leaderboard, protocol: ProtocolName, metric: str) -> float:
    return max(row.metrics[protocol][metric].mean for row in leaderboard.rows)


def _name(row: Row) -> str:
    """The variant, and that its text is meaningless if it is."""
    return row.variant if row.control is None else f"{row.variant} ({row.control} control)"


def _value(summary: Summary) -> str:
    """'0.0512 ± 0.0004', without the spread for a single seed."""
    return f"{summary.mean:.4f}" if summary.std is None else f"{summary.mean:.4f} ± {summary.std:.4f}"


def _difference(summary: Summary) -> str:
    """'+12.3%', 'baseline' for the baseline itself, 'n/a' where the baseline's mean is 0."""
    if summary.versus_baseline is None:
        return "baseline"
    relative = summary.versus_baseline.relative
    return "n/a" if relative is None else f"{relative:+.1%}"


def _markdown_table(leaderboard: Leaderboard, protocol: ProtocolName) -> str:
    """Every metric with its difference to the baseline, and what the variant costs."""
    header = ["variant", "items"]
    for metric in leaderboard.metrics:
        header += [metric, f"vs {leaderboard.baseline}"]
    header += ["seeds", "trained parameters", "training (s)"]
    lines = [header, ["---", "---"] + ["---:"] * (len(header) - 2)]
    best = {metric: _best(leaderboard, protocol, metric) for metric in leaderboard.metrics}
    for row in leaderboard.rows:
        cells = [_name(row), row.items]
        for metric in leaderboard.metrics:
            summary = row.metrics[protocol][metric]
            cells += [_value(summary), _difference(summary)]
        cells += [str(len(row.seeds)), f"{row.parameters.trained:,}", f"{row.train_seconds:,.1f}"]
        cells = [_escaped(cell) for cell in cells]
        for place, metric in enumerate(leaderboard.metrics):
            if row.metrics[protocol][metric].mean == best[metric]:
                cells[2 + 2 * place] = f"**{cells[2 + 2 * place]}**"
        lines.append(cells)
    lines[0] = [_escaped(cell) for cell in header]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _csv_record(leaderboard: Leaderboard, row: Row, protocol: ProtocolName, metric: str) -> dict[str, Any]:
    """One line of leaderboard.csv; None becomes an empty cell."""
    summary = row.metrics[protocol][metric]
    versus = summary.versus_baseline
    return {
        "dataset": leaderboard.dataset,
        "variant": row.variant,
        "items": row.items,
        "control": row.control,
        "protocol": protocol,
        "slice": "all",
        "metric": metric,
        "mean": summary.mean,
        "std": summary.std,
        "baseline": leaderboard.baseline,
        "relative": None if versus is None else versus.relative,
        "seeds": " ".join(str(seed) for seed in row.seeds),
        "users": leaderboard.users,
        "cases": leaderboard.cases,
        "candidates": leaderboard.candidates,
        "target_in_history": leaderboard.target_in_history,
        "selected_on": _listed(leaderboard.selected_on),
        "model": row.model,
        "encoder": "none" if row.encoder is None else row.encoder.name,
        "encoder_asked_for": "none" if row.encoder is None else row.encoder.asked_for,
        "trained_parameters": row.parameters.trained,
        "frozen_parameters": row.parameters.frozen,
        "trials": row.trials,
        "train_seconds": row.train_seconds,
        "versions": _versions(leaderboard),
    }


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line; an underscore inside a word means nothing to it."""
    text = re.sub(r"([\\`*{}\[\]<>|#~$&!])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)
