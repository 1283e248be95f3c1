"""Time and findings of `blair-rec audit` for data sets.

    python benchmarks/audit.py ml-100k FOLDER/Beauty FOLDER/BeautyDated [-o audits] [--record FILE]

Each data set is audited in a process of its own, with two threads, so its time includes the start of Python. The pages
are in the output folder, the record is a page of Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def audited(data: str, out: Path, threads: int) -> dict[str, Any]:
    """Run the command, and return what audit.json says, with the seconds of the whole process."""
    name = Path(data).stem
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    command = [sys.executable, "-m", "blair_rec.cli", "audit", data, "-o", str(out / name), "--quiet"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    report: dict[str, Any] = json.loads((out / name / "audit.json").read_text("utf-8"))
    return {**report, "seconds_of_process": seconds}


def to_page(reports: list[dict[str, Any]], machine: str) -> str:
    """The record as Markdown."""
    lines = [
        "# Audits before training",
        "",
        f"`blair-rec audit`, texts by TF-IDF, on {machine}. Best: the best single scorer by the first metric.",
        "",
        "| data | users | items | events | seconds | protocol | best without training | NDCG@10 | average |",
        "|---|---:|---:|---:|---:|---|---|---:|---:|",
    ]
    for report in reports:
        facts, first = report["data"], report["metrics"][0]
        means = {row["name"]: row["metrics"][report["protocol"]][first]["mean"] for row in report["rows"]}
        average = means.pop("average", None)
        best = max(means, key=lambda name: means[name])
        cells = [f"{facts[key]:,}" for key in ("users", "items", "events")]
        mixed = "" if average is None else f"{average:.4f}"
        lines.append(
            f"| {report['dataset']} | {' | '.join(cells)} | {report['seconds_of_process']:.0f} | {report['protocol']} "
            f"| {best} | {means[best]:.4f} | {mixed} |"
        )
    for report in reports:
        lines += ["", f"## {report['dataset']}", ""]
        lines += [f"- {finding['text']}" for finding in report["findings"]]
        lines += [f"- {name} was left out: {why}" for name, why in report["left_out"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Audit the data sets and write the record."""
    from blair_rec.experiment.provenance import processor

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="data sets, as `blair-rec audit` takes them")
    parser.add_argument("-o", "--out", type=Path, default=Path("audits"), help="folder of the pages")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", type=Path, help="file of the record (default: print it)")
    options = parser.parse_args()
    reports = [audited(data, options.out, options.threads) for data in options.data]
    page = to_page(reports, f"{processor()}, {options.threads} threads")
    if options.record is None:
        print(page)
    else:
        options.record.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
