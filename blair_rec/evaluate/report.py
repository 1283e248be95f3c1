"""Render a Leaderboard for terminal, Markdown, CSV and JSON: always the same numbers, with how they were measured."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blair_rec.config.names import ProtocolName
from blair_rec.evaluate.across import labels, standings
from blair_rec.evaluate.answer import answer
from blair_rec.evaluate.caption import HISTORY, _versions, caption, facts
from blair_rec.evaluate.cells import (
    _best,
    _claim,
    _colour,
    _ends,
    _escaped,
    _interval,
    _listed,
    _marked,
    _name,
    _value,
)
from blair_rec.evaluate.formats.tex import to_tex
from blair_rec.evaluate.leaderboard import SCHEMA, Leaderboard, Row
from blair_rec.evaluate.notes import SHOWN_NOTES
from blair_rec.evaluate.runs import new_items
from blair_rec.evaluate.runs.run_files import PROTOCOLS
from blair_rec.files.writing import write_text

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

TERMINAL_METRICS = 2
"""More metrics don't fit into 100 columns with the difference, its interval and the other protocol."""
NAME_WIDTH = 12
"""Signs of a variant's name that have a place in a line; longer names are folded."""
VS_WIDTH = 12
"""Signs of the column of differences, which is as wide as the baseline's name."""


class _Column(NamedTuple):
    """A column of the table for terminals."""

    needed: int
    """The columns with the highest number are left out first, where a terminal is too narrow for all."""
    header: str
    cells: list[Text]
    metric: str = ""
    """The metric that is left out of the table with the column."""

    @property
    def width(self) -> int:
        """In signs, with the space between two columns."""
        longest = max(len(line) for line in (*self.header.split("\n"), *(cell.plain for cell in self.cells)))
        return 3 + (min(longest, VS_WIDTH) if self.needed == 1 else longest)


def to_terminal(leaderboard: Leaderboard, all_notes: bool = False, width: int = 100) -> Table:
    """A table with up to two metrics under the chosen protocol, and the first one under the other.

    Of the notes the five most important ones are shown, or all of them.

    Args:
        width: signs in a line; columns that don't fit into it are left out, and named below the table.
    """
    # Only the command line shows tables, so nothing else imports rich.
    from rich import box
    from rich.table import Table
    from rich.text import Text

    chosen, first = leaderboard.protocol, leaderboard.metrics[0]
    notes = leaderboard.notes if all_notes else leaderboard.notes[:SHOWN_NOTES]
    names = [Text(_name(row)) for row in leaderboard.rows]
    least = min(NAME_WIDTH, max(len(name.plain) for name in names))
    columns, left_out = _fitting(_terminal_columns(leaderboard), width - 3 - max(least, len("variant")))
    # Text, not str: rich must not read brackets in names as markup.
    lines = [f"- {fact}" for fact in facts(leaderboard)] + [f"- Note: {note}" for note in notes]
    if more := len(leaderboard.notes) - len(notes):
        lines.append(f"- {more} more {'note' if more == 1 else 'notes'}: `blair-rec leaderboard DIR --notes` shows all")
    if any(_marked(row.metrics[chosen][first]).startswith("?") for row in leaderboard.rows):
        lines.append("- ?: too few seeds or users to tell a difference from luck")
    if left_out := [*left_out, *leaderboard.metrics[TERMINAL_METRICS:]]:
        lines.append(f"- Also measured: {', '.join(left_out)} (in leaderboard.md)")
    table = Table(
        title=Text(f"{leaderboard.dataset}: {HISTORY[chosen]}", style="bold"),
        caption=Text("\n".join(lines)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("variant", overflow="fold", min_width=least)  # else rich shows rows without names
    for column in columns:
        widest = VS_WIDTH if column.needed == 1 else None
        table.add_column(Text(column.header), justify="right", no_wrap=True, max_width=widest)
    for row in zip(names, *(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def _terminal_columns(leaderboard: Leaderboard) -> Iterator[_Column]:
    """All columns but the names, in their order."""
    from rich.text import Text

    chosen, rows = leaderboard.protocol, leaderboard.rows
    other = next(protocol for protocol in PROTOCOLS if protocol != chosen)
    shown, first = leaderboard.metrics[:TERMINAL_METRICS], leaderboard.metrics[0]
    for place, (protocol, metric) in enumerate([*((chosen, metric) for metric in shown), (other, first)]):
        found = [row.metrics[protocol][metric] for row in rows]
        best = _best(leaderboard, protocol, metric)
        cells = [Text(_value(one), style="bold" if one.mean == best else "") for one in found]
        needed = 0 if place == 0 else 5 if protocol == chosen else 4
        yield _Column(needed, f"{metric}\n{protocol}", cells, metric if protocol == chosen else f"{metric} {protocol}")
        if place == 0:
            yield _Column(1, f"vs\n{leaderboard.baseline}", [Text(_marked(one), style=_colour(one)) for one in found])
            yield _Column(2, "95%\ninterval", [Text(_interval(one)) for one in found], "95% intervals")
    if (new := leaderboard.new_items) is not None:
        metric = new_items.NEW_METRICS[0]
        cells = [Text(new_items.first_cell(new, row.variant, chosen)) for row in rows]
        yield _Column(3, f"{metric}\nnew items", cells, f"{metric} of new items")


def _fitting(columns: Iterable[_Column], width: int) -> tuple[list[_Column], list[str]]:
    """The columns that fit into a width, and what the other ones show. The first two are always there."""
    kept: list[_Column] = list(columns)
    left_out: list[str] = []
    while sum(one.width for one in kept) > width and len(kept) > 2:
        least = max(kept, key=lambda one: one.needed)
        kept.remove(least)
        left_out.insert(0, least.metric)
    return kept, left_out


def to_terminal_across(leaderboards: Sequence[Leaderboard], folders: Sequence[Path]) -> Table:
    """Several leaderboards side by side: the first metric of their common variants, Borda count and mean rank.

    folders: where each leaderboard is from; they label leaderboards of the same data set.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    first = leaderboards[0]
    table = Table(
        title=Text(f"{len(leaderboards)} leaderboards, {first.metrics[0]}: {HISTORY[first.protocol]}", style="bold"),
        caption=Text(
            "- Borda: number of variants beaten, summed over leaderboards, half for a tie\n"
            "- Mean rank: 1 is best\n"
            "- Neither says whether a difference is significant; the marks do, for one leaderboard each"
        ),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    for name in ("variant", "mean rank", "Borda", *labels(leaderboards, folders)):
        table.add_column(Text(name), justify="left" if name == "variant" else "right", overflow="fold")
    for one in standings(leaderboards):
        cells = [f"{summary.mean:.4f} {_marked(summary)}" for summary in one.summaries]
        table.add_row(Text(one.variant), f"{one.mean_rank:.2f}", f"{one.borda:g}", *(Text(cell) for cell in cells))
    return table


def to_markdown(leaderboard: Leaderboard) -> str:
    """A heading, the answer, one table per protocol (the chosen one first), slices, facts and notes."""
    blocks = [f"# {_escaped(leaderboard.dataset)}", f"**{_escaped(answer(leaderboard))}.**"]
    for protocol in sorted(PROTOCOLS, key=lambda protocol: protocol != leaderboard.protocol):
        blocks += [f"## {HISTORY[protocol].capitalize()} ({protocol})", _markdown_table(leaderboard, protocol)]
    protocol, first = leaderboard.protocol, leaderboard.metrics[0]
    blocks += [f"## For whom: {_escaped(first)}, {HISTORY[protocol]}", _slice_table(leaderboard)]
    if (new := leaderboard.new_items) is not None:
        header, lines = new_items.table_cells(new, {row.variant: _name(row) for row in leaderboard.rows}, protocol)
        escaped = [[_escaped(cell) for cell in line] for line in lines]
        blocks += [f"## New items: {HISTORY[protocol]}", _table(header, escaped, left=1), new_items.caption(new)]
    k = leaderboard.rows[0].top_lists[protocol].k
    blocks += [f"## What is recommended: top {k}, {HISTORY[protocol]}", _top_lists_table(leaderboard)]
    below = [*facts(leaderboard), *(f"Note: {note}" for note in leaderboard.notes)]
    blocks.append("\n".join(f"- {_escaped(line)}" for line in below))
    return "\n\n".join(blocks) + "\n"


def to_csv(leaderboard: Leaderboard) -> str:
    """Tidy CSV: one line per variant, slice, protocol and metric, with its context, so that files can be joined."""
    text = io.StringIO()
    records = [
        _csv_record(leaderboard, row, name, protocol, metric)
        for row in leaderboard.rows
        for name in ("all", *row.slices)
        for protocol in PROTOCOLS
        for metric in leaderboard.metrics
    ]
    records += [
        {**_csv_record(leaderboard, row, "all", leaderboard.protocol, leaderboard.metrics[0]), **changes}
        for row in leaderboard.rows
        for changes in new_items.csv_changes(leaderboard.new_items, row.variant)
    ]
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def to_json(leaderboard: Leaderboard) -> str:
    """The content of leaderboard.json: `Leaderboard.to_json()`, caption and answer. Raises ValueError for a NaN."""
    content = {**leaderboard.to_json(), "caption": caption(leaderboard), "answer": answer(leaderboard)}
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_jsonl(leaderboard: Leaderboard) -> str:
    """The content of results.jsonl: one `Score` per line."""
    lines = ({"schema": SCHEMA, **score._asdict()} for score in leaderboard.scores())
    return "".join(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n" for line in lines)


REPORT_FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.json", "leaderboard.tex", "results.jsonl")


def write_reports(leaderboard: Leaderboard, folder: Path) -> None:
    """Write leaderboard.md, .csv, .json, .tex and results.jsonl, each under a temporary name that is then renamed."""
    for name, render in zip(REPORT_FILES, (to_markdown, to_csv, to_json, to_tex, to_jsonl), strict=True):
        write_text(Path(folder) / name, render(leaderboard))


def _markdown_table(leaderboard: Leaderboard, protocol: ProtocolName) -> str:
    """Every metric with its difference to the baseline, and the costs of the variant."""
    header = ["variant", "items"]
    for metric in leaderboard.metrics:
        header += [metric, f"vs {leaderboard.baseline}"]
    header += ["seeds", "trials", "test evaluations", "trained parameters", "training (s)", "peak memory (MB)"]
    lines = []
    best = {metric: _best(leaderboard, protocol, metric) for metric in leaderboard.metrics}
    for row in leaderboard.rows:
        cells = [_name(row), row.items]
        for metric in leaderboard.metrics:
            summary = row.metrics[protocol][metric]
            cells += [_value(summary), _claim(summary)]
        memory = "unknown" if row.peak_memory_mb is None else f"{row.peak_memory_mb:,}"
        costs = [f"{row.parameters.trained:,}", f"{row.train_seconds:,.1f}", memory]
        costs = ["unknown"] * len(costs) if row.elsewhere else costs
        cells = [
            _escaped(cell) for cell in [*cells, str(len(row.seeds)), str(row.trials), str(row.test_evaluations), *costs]
        ]
        for place, metric in enumerate(leaderboard.metrics):
            if row.metrics[protocol][metric].mean == best[metric]:
                cells[2 + 2 * place] = f"**{cells[2 + 2 * place]}**"
        lines.append(cells)
    return _table([_escaped(cell) for cell in header], lines, left=2)


def _slice_table(leaderboard: Leaderboard) -> str:
    """The first metric on every slice: the baseline's value, and the difference of each variant."""
    protocol, first = leaderboard.protocol, leaderboard.metrics[0]
    others = [row for row in leaderboard.rows if row.variant != leaderboard.baseline]
    (baseline,) = (row for row in leaderboard.rows if row.variant == leaderboard.baseline)
    lines = []
    for name, part in baseline.slices.items():
        value = _value(part.metrics[protocol][first])
        claims = [_claim(row.slices[name].metrics[protocol][first]) for row in others]
        lines.append([_escaped(cell) for cell in [part.label, f"{part.users:,}", value, *claims]])
    header = ["test cases", "users", leaderboard.baseline, *(f"{_name(row)}" for row in others)]
    return _table([_escaped(cell) for cell in header], lines, left=1)


def _top_lists_table(leaderboard: Leaderboard) -> str:
    """A table about the recommended items. It shows whether a gain comes from popular items alone."""
    lines = []
    for row in leaderboard.rows:
        lists = row.top_lists[leaderboard.protocol]
        lines.append([_escaped(_name(row)), f"{lists.coverage:.1%}", f"{lists.popularity:,.1f}", f"{lists.gini:.3f}"])
    return _table(
        ["variant", "items recommended at least once", "training events per recommended item", "Gini"], lines, left=1
    )


def _table(header: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table of escaped cells; all columns but the first `left` are numbers."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *lines])


def _csv_record(leaderboard: Leaderboard, row: Row, name: str, protocol: ProtocolName, metric: str) -> dict[str, Any]:
    """One line of leaderboard.csv; None becomes an empty cell."""
    part = row.slices.get(name)
    summary = (row.metrics if part is None else part.metrics)[protocol][metric]
    versus = summary.versus_baseline
    return {
        "dataset": leaderboard.dataset,
        "variant": row.variant,
        "items": row.items,
        "control": row.control,
        "protocol": protocol,
        "slice": name,
        "metric": metric,
        "mean": summary.mean,
        "std": summary.std,
        "baseline": leaderboard.baseline,
        "relative": versus and versus.relative,
        **_ends("ci95", versus.ci95 if versus else None),
        **_ends("seeds_ci95", versus.seeds_ci95 if versus else None),
        "p_users": versus and versus.p_users,
        "p_seeds": versus and versus.p_seeds,
        "p_adjusted": versus and versus.p_adjusted,
        "effect_size": versus and versus.effect_size,
        "verdict": versus and versus.verdict,
        "seeds": " ".join(str(seed) for seed in row.seeds),
        "users": leaderboard.users if part is None else part.users,
        "cases": leaderboard.cases if part is None else part.cases,
        "candidates": leaderboard.candidates,
        "target_in_history": leaderboard.target_in_history,
        "selected_on": _listed(leaderboard.selected_on),
        "model": row.model,
        "encoder": "none" if row.encoder is None else row.encoder.name,
        "encoder_asked_for": "none" if row.encoder is None else row.encoder.asked_for,
        "trained_parameters": None if row.elsewhere else row.parameters.trained,
        "frozen_parameters": None if row.elsewhere else row.parameters.frozen,
        "trials": row.trials,
        "test_evaluations": row.test_evaluations,
        "train_seconds": None if row.elsewhere else row.train_seconds,
        "wall_seconds": row.wall_seconds,
        "peak_memory_mb": row.peak_memory_mb,
        "versions": _versions(leaderboard),
    }
