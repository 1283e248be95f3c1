"""A leaderboard as a LaTeX table with booktabs rules: the best value in bold, marks for significant differences."""

from __future__ import annotations

import re

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
    "`": r"\`{}",
    **{sign: rf"\{sign}" for sign in "&%$#_"},
}


NEEDS_T1 = frozenset("«»ÐÞðþĄąĐđĘęĮįŊŋŲų")
"""Signs that pdfLaTeX prints only with the font encoding T1."""
BEYOND_LATIN = frozenset("–—‘’“”„…•†‡‰€™")
"""Signs after LAST_LATIN that pdfLaTeX prints."""
LAST_LATIN, NOT_PRINTED = "\u017f", frozenset("ĦħĸĿŀŉŦŧſ")
"""Letters up to LAST_LATIN that pdfLaTeX can't print."""
FITTED = (
    r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
    r"\resizebox*{!}{\ifdim\totalheight>0.65\textheight 0.65\textheight\else\totalheight\fi}{%",
)
"""Shrink a table that is wider than the column of text, or that leaves no room for its caption on a page."""


def to_tex(leaderboard: Leaderboard) -> str:
    """A `table` environment with one block of rows per protocol, the chosen one first; needs booktabs and graphicx.

    The table is shrunk if it is wider than the text. Notes are comments.
    """
    protocols = sorted(PROTOCOLS, key=lambda protocol: protocol != leaderboard.protocol)
    width = 1 + len(leaderboard.metrics)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption[{{{escaped(leaderboard.dataset)}}}]{{{_caption(leaderboard)}}}",
        r"\smallskip",
        *FITTED,
        rf"\begin{{tabular}}{{l{'r' * len(leaderboard.metrics)}}}",
        r"\toprule",
        f"variant & {' & '.join(escaped(metric) for metric in leaderboard.metrics)} \\\\",
    ]
    for protocol in protocols:
        best = {metric: _best(leaderboard, protocol, metric) for metric in leaderboard.metrics}
        lines += [
            r"\midrule",
            rf"\multicolumn{{{width}}}{{l}}{{\itshape {HISTORY[protocol]}}} \\",
            *(
                _line(row, [(row.metrics[protocol][metric], best[metric]) for metric in best])
                for row in leaderboard.rows
            ),
        ]
    lines += [r"\bottomrule", r"\end{tabular}}}", r"\end{table}"]
    comments = [r"Needs \usepackage{booktabs} and \usepackage{graphicx}.", *_letters("".join(lines))]
    comments += [f"Note: {note}" for note in leaderboard.notes]
    return "\n".join(" ".join(line.split()) for line in (*(f"% {line}" for line in comments), *lines)) + "\n"


def _letters(text: str) -> list[str]:
    """Say what LaTeX needs for this text; an empty list if its default fonts have all letters."""
    signs = sorted(set(text))
    beyond = [sign for sign in signs if sign > LAST_LATIN and sign not in BEYOND_LATIN or sign in NOT_PRINTED]
    if beyond:
        return [f"pdfLaTeX can't print {' '.join(beyond)}: use XeLaTeX or LuaLaTeX, and a font that has these letters."]
    needs_t1 = [sign for sign in signs if sign in NEEDS_T1]
    return [rf"{' '.join(needs_t1)} needs \usepackage[T1]{{fontenc}}."] if needs_t1 else []


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
    return f"{words} Best values are bold."


def escaped(text: str) -> str:
    """The text in one line, as LaTeX prints it; control characters, which LaTeX refuses, are left out."""
    signs = (ESCAPES.get(sign, sign) for sign in " ".join(text.split()) if sign.isprintable())
    return re.sub(r"([-',])(?=\1)", r"\1{}", "".join(signs))  # LaTeX joins two of them to another sign
