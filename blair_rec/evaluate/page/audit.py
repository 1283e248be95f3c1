"""Render an audit as audit.html: findings, tables and charts in one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blair_rec.evaluate.caption import HISTORY, TIES
from blair_rec.evaluate.page.gains import Gain
from blair_rec.evaluate.page.plots import interval_plot
from blair_rec.evaluate.page.render import page_engine
from blair_rec.evaluate.runs.run_files import PROTOCOLS

TOPICS = {
    "floor": "The floor without training",
    "basis": "What a figure rests on",
    "text": "How much text could add",
    "data": "The data",
}


def audit_html(report: Mapping[str, Any], headline: str) -> str:
    """The whole page.

    report: the content of audit.json. The template engine escapes everything that comes from files.
    """
    protocols = sorted(PROTOCOLS, key=lambda protocol: protocol != report["protocol"])
    return (
        page_engine()
        .get_template("audit.html")
        .render(
            report=report,
            headline=f"{headline[0].upper()}{headline[1:]}.",
            topics={
                title: [one["text"] for one in report["findings"] if one["topic"] == topic]
                for topic, title in TOPICS.items()
            },
            protocols=protocols,
            history=HISTORY,
            ties=TIES,
            best={
                (protocol, metric): max(row["metrics"][protocol][metric]["mean"] for row in report["rows"])
                for protocol in protocols
                for metric in report["metrics"]
            },
            charts=_charts(report),
        )
    )


def _charts(report: Mapping[str, Any]) -> dict[str, str]:
    """Charts of the relative changes, as SVG, by the name of their check."""
    checks = report["checks"]
    titles = {"ties": "ties shuffled", "order": "histories shuffled", "cutoffs": "cut-off times"}
    charts = {}
    for name, title in titles.items():
        if checks[name] is not None and (gains := _gains(checks[name]["changes"])):
            charts[name] = interval_plot(gains, f"{report['metrics'][0]}: {title}", percent=True)
    return charts


def _gains(changes: Mapping[str, Any]) -> list[Gain]:
    return [
        Gain(name, one["relative"], one["ci95"], None, _verdict(one["ci95"]))
        for name, one in changes.items()
        if one["relative"] is not None
    ]


def _verdict(interval: tuple[float, float] | None) -> str:
    if interval is None or interval[0] <= 0 <= interval[1]:
        return ""
    return "better" if interval[0] > 0 else "worse"
