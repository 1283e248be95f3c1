"""RecBole's own tests, run where `import blair_rec.recbole` has repaired it.

    git clone --branch master https://github.com/RUCAIBox/RecBole CHECKOUT
    pip install hyperopt
    python benchmarks/recbole_tests.py CHECKOUT

Takes the folder `tests` of the checkout and the RecBole that is installed here, in a folder of its own. pytest imports
the plugin first and changes nothing else, but that S3Rec pre-trains for one epoch, the one whose file its test goes on
from, and not for 500. What fails is recorded by reason, the last line of the error, in
benchmarks/results/recbole_tests.{json,md}. A quarter of an hour on one thread.
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
    """How many of the tests pass, and by reason the names of those that don't."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(checkout / "tests", Path(folder) / "tests")
        with (Path(folder) / "tests" / "model" / "test_model.yaml").open("a", encoding="utf-8") as file:
            file.write("\npretrain_epochs: 1\n")
        report = Path(folder) / "report.xml"
        # Not `python -m pytest`, which would put the folder before the RecBole that is installed.
        command = [sys.executable, "-c", "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"]
        command += ["-p", "blair_rec.recbole", "-q", f"--junitxml={report}", "tests", *also]
        subprocess.run(command, cwd=folder, check=False)
        found = read_report(report)
    return {**found, "seconds": time.perf_counter() - begin}


def read_report(path: Path) -> dict[str, Any]:
    """Tests, those that passed, and by reason the names of the others, from pytest's JUnit file."""
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
    """The record as lines of Markdown."""
    page = [
        "# RecBole's own tests under `import blair_rec.recbole`",
        "",
        f"{found['passed']} of {found['tests']} pass (S3Rec pre-trains for one epoch, not 500). By reason the others:",
        "",
        "| reason | tests | |",
        "|---|---|---|",
    ]
    for reason, names in found["others"].items():
        short = ", ".join(f"`{name.rpartition('::')[2]}`" for name in names)
        page.append(f"| {reason[:160].replace('|', '/')} | {len(names)} | {short} |")
    return page


def main() -> None:
    """All tests of the checkout, or those that options of pytest choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="of RecBole's repository")
    parser.add_argument("--commit", help="that was checked out, for the record")
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
