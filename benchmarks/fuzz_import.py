"""Files of vectors with something wrong, imported: a clear error or exactly their vectors, never half a store.

    python benchmarks/fuzz_import.py [--files 2500]

So many files of each kind that `blair-rec store import` reads (.npy with ids, .parquet, .feature with .data_maps,
.itememb): small and valid, or with ids and vectors that don't fit, and a third of the files after one to four accidents
to their bytes. Half of the imports go to a place where there is a store already, or a store with somebody's file in it.
Each is tried as a test does it (tests/test_store_import.py), which asserts that an error is one of ours and changes
nothing on disk, and that a store holds what NumPy, pyarrow and the standard library read in the files. The seed of a
file is its number. Recorded in benchmarks/results/fuzz_import.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from fuzzing import fuzz, outcome_table
from side_by_side import write_record

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS / "helpers"), str(TESTS / "text")]

from test_store_import import KINDS, try_one  # noqa: E402

OUTCOMES = {"refused": "refused with a clear error", "confirmed": "imported, and rightly"}


def main() -> None:
    """All kinds, one after the other; the first file that breaks a promise ends it with its seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2500, help="of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for kind in KINDS:
            runs[kind] = [fuzz(try_one, kind, options.files, Path(folder))]
            print(kind, runs[kind][0], flush=True)
    page = [
        f"# Files of vectors with something wrong: {options.files:,} of each kind",
        "",
        "No traceback, no half-written folder, none deleted. `imported, and rightly`: NumPy, pyarrow and the standard "
        "library read the same ids and vectors in the files.",
        "",
        *outcome_table(runs, OUTCOMES),
    ]
    write_record("fuzz_import", vars(options), runs, page)


if __name__ == "__main__":
    main()
