"""A leaderboard as a LaTeX table with booktabs rules: the best value in bold, marks for significant differences."""

from __future__ import annotations

from blair_rec.evaluate.caption import HISTORY, caption
from blair_rec.evaluate.cells import _best, _name
from blair_rec.evaluate.leaderboard import Leaderboard, Row, Summary
from blair_rec.evaluate.runs.run_files import PROTOCOLS

MARKS = {"better": r"\textsuperscript{$\ast$}", "worse": r"\textsuperscript{$\circ$}"}
"""After a value: significantly better or worse than the baseline. Both signs are in every LaTeX font."""
ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",  # LaTeX's default fonts print other signs for these three
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: rf"\{sign}" for sign in "&%$#_"},
}


def to_tex(leaderboard: Leaderboard) -> str:
    """A `table` environment with all metrics under both protocols, the chosen one first; it needs booktabs."""
    protocols = sorted(PROTOCOLS, key=lambda protocol: protocol != leaderboard.protocol)
    columns = [(protocol, metric) for protocol in protocols for metric in leaderboard.metrics]
    best = {column: _best(leaderboard, *column) for column in columns}
    width = len(leaderboard.metrics)
    heads = [rf"\multicolumn{{{width}}}{{c}}{{{HISTORY[protocol]}}}" for protocol in protocols]
    rules = [rf"\cmidrule(lr){{{2 + width * place}-{1 + width * (place + 1)}}}" for place in range(len(protocols))]
    lines = [
        f"% {line}" for line in (r"Needs \usepackage{booktabs}.", *(f"Note: {note}" for note in leaderboard.notes))
    ]
    lines += [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(leaderboard)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        f" & {' & '.join(heads)} \\\\",
        " ".join(rules),
        f"variant & {' & '.join(escaped(metric) for _, metric in columns)} \\\\",
        r"\midrule",
        *(
            _line(row, [(row.metrics[protocol][metric], best[protocol, metric]) for protocol, metric in columns])
            for row in leaderboard.rows
        ),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(" ".join(line.split()) for line in lines) + "\n"


def _line(row: Row, cells: list[tuple[Summary, float]]) -> str:
    return f"{escaped(_name(row))} & {' & '.join(_cell(summary, best) for summary, best in cells)} \\\\"


def _cell(summary: Summary, best: float) -> str:
    value = f"{summary.mean:.4f}"
    value = rf"\textbf{{{value}}}" if summary.mean == best else value
    spread = "" if summary.std is None else rf" {{\scriptsize$\pm${summary.std:.4f}}}"
    verdict = summary.versus_baseline.verdict if summary.versus_baseline else ""
    return f"{value}{MARKS.get(verdict, '')}{spread}"


def _caption(leaderboard: Leaderboard) -> str:
    """The caption of the other formats, with the marks of this one."""
    words = escaped(caption(leaderboard))
    for ours, theirs in (("▲ ▼", f"{MARKS['better']} {MARKS['worse']}"), ("±", r"$\pm$")):
        words = words.replace(ours, theirs)
    return f"{words}. Best values are bold."


def escaped(text: str) -> str:
    """The text as LaTeX prints it."""
    return "".join(ESCAPES.get(sign, sign) for sign in text)
