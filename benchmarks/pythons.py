"""Test the built package on several Pythons: `make test-all PYTHONS="python3.10 python3.12"`.

Builds the wheel and the source archive once and checks them with twine. For each Python it makes an empty environment,
installs the wheel with the pins of constraints.txt, and runs the quick start (one seed, one epoch) in an empty folder.
Then it installs the test tools and runs the fast half of the tests against the installed wheel. For the Python of .venv
it takes what `make test` found last, which is the whole suite. Results go to benchmarks/results/pythons.{json,md}, one
row per Python; rows of other Pythons stay.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "pythons"
WHOLE = REPOSITORY / ".venv" / "tests.xml"
"""The results of the whole suite, as `make test` wrote them."""
FAST = ["-m", "not slow"]
SHOWN = ("recbole", "torch", "transformers", "numpy", "scipy", "pandas")
QUICK = ["--seeds", "1", "--set", "train.epochs=1"]
VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def find_python(name: str) -> str | None:
    """Return a Python that runs under this name: on the path, or of pyenv; None if there is none."""
    version = name.removeprefix("python")
    kept = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python"))
    for one in (name, *map(str, reversed(kept))):
        if (found := shutil.which(one)) and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    return None


def call(*command: str | Path, cwd: Path = REPOSITORY) -> tuple[str, float]:
    """Run a command, show what it prints, and return that and the seconds; stop if it fails."""
    print("$", " ".join(map(str, command)), flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    begin, said = time.monotonic(), []
    with subprocess.Popen(
        list(map(str, command)), cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
    if process.returncode:
        sys.exit(f"this failed with status {process.returncode}: {' '.join(map(str, command))}")
    return "".join(said), time.monotonic() - begin


class NotInstalled(Exception):
    """The packages that a Python needs could not be installed."""


def install(*command: str | Path) -> float:
    """Run pip and return the seconds.

    Raises:
        NotInstalled: pip failed, for example because a package could not be downloaded.
    """
    try:
        return call(*command)[1]
    except SystemExit as error:
        raise NotInstalled(str(error)) from error


def build(tools: Path) -> Path:
    """Build the wheel from the source archive, check both, and return the wheel."""
    dist = REPOSITORY / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    call(tools, "-m", "build", "--outdir", dist)
    call(tools, "-m", "twine", "check", "--strict", *sorted(dist.iterdir()))
    (wheel,) = dist.glob("*.whl")
    return wheel


def test_on(name: str, found: str, wheel: Path, keep: bool) -> dict[str, Any]:
    """Install the wheel for one Python, run the quick start and the tests, and return what came out."""
    folder = REPOSITORY / f".venv-{name}"
    python = folder / "bin" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    call(found, "-m", "venv", folder)
    pip = (
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        REPOSITORY / "constraints.txt",
    )
    install_seconds = install(*pip, f"{wheel}[quickstart]")
    empty = folder / "empty"
    empty.mkdir()
    shutil.copy(REPOSITORY / "configs" / "quickstart.yaml", empty)
    first = call(folder / "bin" / "blair-rec", "compare", "quickstart.yaml", "-o", "out", *QUICK, cwd=empty)[1]
    board = json.loads((empty / "out" / "leaderboard.json").read_text(encoding="utf-8"))
    version = call(python, "-c", "import sys; print(sys.version.split()[0])")[0].strip()
    if version == version_of(WHOLE.parent):
        suite, tests = "whole", WHOLE
    else:
        suite, tests = "fast half", fast_half(folder, pip, wheel)
    counts, seconds = tests_in(tests)
    versions = json.loads(call(python, "-c", VERSIONS, *SHOWN)[0])
    if not keep:
        shutil.rmtree(folder)
    return {
        "python": version,
        "versions": versions,
        "install_seconds": round(install_seconds),
        "first_run_seconds": round(first),
        "first_run_variants": [row["variant"] for row in board["rows"]],
        "suite": suite,
        "tests": counts,
        "tests_seconds": round(seconds),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def version_of(folder: Path) -> str | None:
    """Return the version of an environment's Python, such as 3.11.7."""
    file = folder / "pyvenv.cfg"
    found = re.search(r"^version = (\S+)", file.read_text("utf-8"), flags=re.MULTILINE) if file.is_file() else None
    return found[1] if found else None


def fast_half(folder: Path, pip: tuple[str | Path, ...], wheel: Path) -> Path:
    """Run the fast half of the tests against the installed wheel, and return pytest's report."""
    install(*pip, f"{wheel}[test]")
    report = folder / "tests.xml"
    # The program and not `python -m pytest`, which would import the package from the working directory.
    call(folder / "bin" / "pytest", "--numprocesses", "2", "--junitxml", report, *FAST)
    return report


def tests_in(report: Path) -> tuple[dict[str, int], float]:
    """Return the counts and the seconds of a JUnit report; stop if a test failed or no report is there."""
    if not report.is_file():
        sys.exit(f"{report} is missing; run `make test` first, which runs the whole suite on this Python")
    total = ElementTree.parse(report).getroot().find("testsuite")
    assert total is not None
    said = {name: int(total.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    if said["failures"] or said["errors"]:
        sys.exit(f"{report}: tests failed; run `make test` again")
    return {"passed": said["tests"] - said["skipped"], "skipped": said["skipped"]}, float(total.get("time", "0"))


def write(found: dict[str, dict[str, Any]]) -> None:
    """Write the record: all Pythons as JSON, and as a table."""
    found = dict(sorted(found.items(), key=lambda one: int(one[0].split(".")[1])))
    content = {"schema": 1, "pythons": found}
    RESULTS.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# The built package on each Python",
        "",
        "`make test-all`: the wheel in an empty environment with the pins of `constraints.txt`; the first run of the "
        f"quick start (`{' '.join(QUICK)}`) in an empty folder; the fast half of the tests against the installed wheel "
        "(the whole suite on the Python of `.venv`). Times depend on the load of the machine (2 cores).",
        "",
        "| Python | " + " | ".join(SHOWN) + " | first run | tests | passed | skipped | minutes | date |",
        "|---" * (len(SHOWN) + 7) + "|",
    ]
    for one in found.values():
        cells = [one["python"], *(one["versions"][name] for name in SHOWN)]
        cells += [counted(len(one["first_run_variants"]), "variant"), one["suite"]]
        cells += [f"{one['tests'].get(name, 0):,}" for name in ("passed", "skipped")]
        lines.append(f"| {' | '.join(cells)} | {one['tests_seconds'] / 60:.0f} | {one['date']} |")
    RESULTS.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'s' * (number != 1)}"


SKIP = "go on without a Python that is not installed, or whose packages can't be"


def main() -> None:
    """Build, then test on each Python; each result is written as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="such as python3.12")
    parser.add_argument("--keep", action="store_true", help="keep the environments, which take gigabytes")
    parser.add_argument("--skip-missing", action="store_true", help=SKIP)
    parser.add_argument("--no-record", action="store_true", help="leave benchmarks/results as it is")
    options = parser.parse_args()
    found = {name: find_python(name) for name in options.pythons}
    for name in [name for name, path in found.items() if path is None]:
        if not options.skip_missing:
            sys.exit(f"{name} was not found; install it, or name others: make test-all PYTHONS='python3.11'")
        print(f"{name} was not found, so it is skipped")
    wheel = build(Path(sys.executable))
    for name, path in found.items():
        if path is None:
            continue
        try:
            one = test_on(name, path, wheel, options.keep)
        except NotInstalled as error:
            if not options.skip_missing:
                sys.exit(str(error))
            print(f"{name} is skipped: its packages could not be installed")
            continue
        if options.no_record:
            continue
        known = (
            json.loads(RESULTS.with_suffix(".json").read_text("utf-8")) if RESULTS.with_suffix(".json").exists() else {}
        )
        write({**known.get("pythons", {}), ".".join(one["python"].split(".")[:2]): one})
    if not options.no_record:
        print(f"{RESULTS.with_suffix('.md')} has the results")


if __name__ == "__main__":
    main()
