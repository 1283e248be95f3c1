"""Damaged files of other systems: a clear error, or exactly the ranks that the file gives.

    python benchmarks/fuzz_foreign.py [--files 200]

`--files` is the number of files of each kind that `from` reads: top lists as CSV, JSON lines, Parquet and TREC run, and
score matrices as .npz. A third is valid; the others have one to four damaged places. An error has to be one of ours and
to name the file in each line. The metrics of a file that was used have to be those worked out by hand, under both
protocols, from what the standard library's, Arrow's or NumPy's own reader finds in it. The seed of a file is its
number. Recorded in benchmarks/results/fuzz_foreign.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fuzzing import fuzz_kinds, outcome_table
from side_by_side import write_record

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

from list_files import KINDS, try_one, world

OUTCOMES = {"refused": "refused with a clear error", "used": "used, confirmed"}


def main() -> None:
    """Try all kinds in turn; stop at the first file that breaks a promise, with its seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200, help="of each kind")
    options = parser.parse_args()
    world()
    runs = fuzz_kinds(try_one, KINDS, options.files)
    page = [
        f"# Damaged files of other systems: {options.files:,} of each kind",
        "",
        "No traceback. `used, confirmed`: NDCG under both protocols is the one worked out by hand from what the "
        "standard library's, Arrow's or NumPy's own reader finds in the file.",
        "",
        *outcome_table(runs, OUTCOMES),
    ]
    write_record("fuzz_foreign", vars(options), runs, page)


if __name__ == "__main__":
    main()
