"""Damaged files of histories: a clear error that leaves nothing, or recommendations for exactly the right histories.

    python benchmarks/fuzz_histories.py [--files 334]

`--files` is the number of files of each kind that `blair-rec recommend --histories` reads (CSV, JSON lines, Parquet),
with events or with a list per user. A third is valid; the others have one to four damaged places. Each goes through
`recommend_file` into a file of one of the kinds; in half of the cases an older file exists there. An error has to be
one of ours, in one line, and to leave the folder unchanged. The histories that were used have to be those that the
standard library or Arrow's own reader finds in the file. The seed of a file is its number. Recorded in
benchmarks/results/fuzz_histories.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fuzzing import fuzz_kinds, outcome_table
from side_by_side import write_record

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

from history_files import KINDS, try_one, world

OUTCOMES = {"refused": "refused with a clear error", "used": "used, confirmed"}


def main() -> None:
    """Try all kinds in turn; stop at the first file that breaks a promise, with its seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=334, help="of each kind")
    options = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line
    world()
    runs = fuzz_kinds(try_one, KINDS, options.files)
    page = [
        f"# Damaged files of histories: {options.files:,} of each kind",
        "",
        "No traceback, nothing half-written, no older file changed. `used, confirmed`: the standard library or Arrow's "
        "own reader finds the same histories in the file.",
        "",
        *outcome_table(runs, OUTCOMES),
    ]
    write_record("fuzz_histories", vars(options), runs, page)


if __name__ == "__main__":
    main()
