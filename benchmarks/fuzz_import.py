"""Damaged files of vectors, imported: a clear error or exactly their vectors, never half a store.

    python benchmarks/fuzz_import.py [--files 2500]

`--files` is the number of files of each kind that `blair-rec store import` reads (.npy with ids, .parquet, .feature
with .data_maps, .itememb). They are small; some have ids that don't fit the vectors, and a third has one to four
damaged places. Half of the imports write to a place that has a store already, or a store with a file of somebody else.
Each file is tried as in tests/test_store_import.py: an error has to be one of ours and change nothing on disk, and a
store has to hold what NumPy, pyarrow and the standard library read in the files. The seed of a file is its number.
Recorded in benchmarks/results/fuzz_import.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fuzzing import fuzz_kinds, outcome_table
from side_by_side import write_record

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS / "helpers"), str(TESTS / "text")]

from test_store_import import KINDS, try_one  # noqa: E402

OUTCOMES = {"refused": "refused with a clear error", "confirmed": "imported, confirmed"}


def main() -> None:
    """Try all kinds in turn; stop at the first file that breaks a promise, with its seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2500, help="of each kind")
    options = parser.parse_args()
    runs = fuzz_kinds(try_one, KINDS, options.files)
    page = [
        f"# Damaged files of vectors: {options.files:,} of each kind",
        "",
        "No traceback, no half-written folder, none deleted. `imported, confirmed`: NumPy, pyarrow and the standard "
        "library read the same ids and vectors in the files.",
        "",
        *outcome_table(runs, OUTCOMES),
    ]
    write_record("fuzz_import", vars(options), runs, page)


if __name__ == "__main__":
    main()
