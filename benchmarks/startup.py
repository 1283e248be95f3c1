"""Start-up time of the command line: help and imports, compared with an empty Python; medians of processes in turn.

    python benchmarks/startup.py [--rounds 11]

Each round starts every command once, so that other work on the machine slows all of them equally. Seconds are from
start to end of a process, with the files in the page cache: the first round isn't counted. Written to
benchmarks/results/startup.{json,md}. Takes about a minute.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from side_by_side import middle, write_record

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import blair_rec": ["-c", "import blair_rec"],
    "blair-rec --version": ["-m", "blair_rec.cli", "--version"],
    "blair-rec --help": ["-m", "blair_rec.cli", "--help"],
    "blair-rec compare --help": ["-m", "blair_rec.cli", "compare", "--help"],
    "blair-rec prepare csv --help": ["-m", "blair_rec.cli", "prepare", "csv", "--help"],
    "import scipy.stats": ["-c", "import scipy.stats"],
}
EMPTY, FOR_COMPARISON = "python -c pass", "import scipy.stats"


def seconds_of(command: list[str]) -> float:
    """Return the seconds from start to end of a process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            seconds = seconds_of(command)
            if number:
                runs[name].append({"seconds": seconds})
    empty = middle(runs[EMPTY], "seconds")
    table = ["| command | seconds | above an empty Python | slowest |", "|---|---:|---:|---:|"]
    for name, found in runs.items():
        median = middle(found, "seconds")
        slowest = max(run["seconds"] for run in found)
        table.append(f"| {name} | {median:.3f} | {median - empty:.3f} | {slowest:.3f} |")
    page = [
        "# Start-up time of the command line",
        "",
        f"Medians of {rounds} processes each, started in turn, with the files in the page cache, by "
        "`benchmarks/startup.py`.",
        "",
        *table,
        "",
        f"`{FOR_COMPARISON}` is for comparison: no help text imports it, nor NumPy, pandas or torch.",
    ]
    write_record("startup", {"rounds": rounds, "commands": COMMANDS}, runs, page)


if __name__ == "__main__":
    main()
