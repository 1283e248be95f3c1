"""blair-rec audit: what a data set is worth, before anything is trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from blair_rec.cli.progress import add_quiet
from blair_rec.cli.terminal import Console, say


def add(commands: Any) -> None:
    """Register the command."""
    command = commands.add_parser("audit", help="examine a data set before training: a floor, checks, what text adds")
    command.add_argument("data", metavar="DATA", help="a folder with NAME.inter, a comparison file, or ml-100k")
    command.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="output folder (default: audits/NAME for a data set NAME)"
    )
    command.add_argument(
        "--store", type=Path, metavar="STORE", help="a folder that `encode` wrote, instead of TF-IDF of the texts"
    )
    add_quiet(command, "show no progress, only the summary and warnings")
    command.set_defaults(command=_audit)


def _audit(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.experiment.audit.audit import audit, check_out, write_audit
    from blair_rec.experiment.audit.findings import headline

    def stage(name: str) -> None:
        if not options.quiet:
            say(console, f"{name} ...")

    out = options.out or Path("audits") / Path(options.data).stem
    check_out(out)
    audited = audit(options.data, options.store, stage)
    write_audit(audited, out)
    report = audited.report
    say(Console(), f"{report.dataset}: {headline(report)}", "bold")
    for topic in ("floor", "basis", "text", "data"):
        say(Console(), f"{topic}:")
        for finding in report.findings:
            if finding.topic == topic:
                say(Console(), f"  - {finding.text}")
    say(console, f"audit.html and audit.json are in {out} ({report.seconds:.0f} s)")
