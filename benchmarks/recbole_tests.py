"""RecBole's own tests, run after `import blair_rec.recbole` has repaired it.

    git clone --branch master https://github.com/RUCAIBox/RecBole CHECKOUT
    pip install hyperopt
    python benchmarks/recbole_tests.py CHECKOUT

Runs the folder `tests` of the checkout against the installed RecBole, in a separate folder. pytest imports the plugin
first. One thing is changed: S3Rec pre-trains for 1 epoch instead of 500; its test resumes from the file of that epoch.
Failures are recorded by reason, the last line of the error, in benchmarks/results/recbole_tests.{json,md}. Takes a
quarter of an hour on one thread.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from side_by_side import write_record


def run_tests(checkout: Path, also: list[str]) -> dict[str, Any]:
    """Return the number of tests that pass, and by reason the names of the others."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(checkout / "tests", Path(folder) / "tests")
        with (Path(folder) / "tests" / "model" / "test_model.yaml").open("a", encoding="utf-8") as file:
            file.write("\npretrain_epochs: 1\n")
        report = Path(folder) / "report.xml"
        # `python -m pytest` would import RecBole from the folder instead of the installed one.
        command = [sys.executable, "-c", "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"]
        command += ["-p", "blair_rec.recbole", "-q", f"--junitxml={report}", "tests", *also]
        subprocess.run(command, cwd=folder, check=False)
        found = read_report(report)
    return {**found, "seconds": time.perf_counter() - begin}


def read_report(path: Path) -> dict[str, Any]:
    """Return the numbers of tests and of passed ones, and by reason the names of the others, from a JUnit file."""
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    cases = list(ElementTree.parse(path).iter("testcase"))
    for case in cases:
        for kind in ("failure", "error", "skipped"):
            if (problem := case.find(kind)) is not None:
                name = f"{case.get('classname', '')}::{case.get('name')}"
                reasons[f"{kind}: {' '.join(problem.get('message', '').split())}"].append(name)
    failed = {name for names in reasons.values() for name in names}
    return {"tests": len(cases), "passed": len(cases) - len(failed), "others": dict(sorted(reasons.items()))}


def to_page(found: dict[str, Any]) -> list[str]:
    """Return the record as lines of Markdown."""
    page = [
        "# RecBole's own tests under `import blair_rec.recbole`",
        "",
        f"{found['passed']} of {found['tests']} pass (S3Rec pre-trains for one epoch, not 500). The others, by reason:",
        "",
        "| reason | tests | |",
        "|---|---|---|",
    ]
    for reason, names in found["others"].items():
        short = ", ".join(f"`{name.rpartition('::')[2]}`" for name in names)
        page.append(f"| {reason[:160].replace('|', '/')} | {len(names)} | {short} |")
    return page


def main() -> None:
    """Run all tests of the checkout, or those chosen by options of pytest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="of RecBole's repository")
    parser.add_argument("--commit", help="commit of the checkout, for the record")
    options, also = parser.parse_known_args()
    found = run_tests(options.checkout, also)
    try:
        hyperopt = version("hyperopt")
    except PackageNotFoundError:
        hyperopt = None
    settings = {"commit": options.commit, "hyperopt": hyperopt, "pytest": also}
    write_record("recbole_tests", settings, {"with the plugin": [found]}, to_page(found))


if __name__ == "__main__":
    main()
