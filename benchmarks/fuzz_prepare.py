"""Damaged files, prepared: a clear error or their good lines, never a traceback or half a folder.

    python benchmarks/fuzz_prepare.py [--files 2500]

`--files` is the number of files of each kind (JSON lines, TSV, CSV, Parquet). Each gets one to four random damages:
bytes flipped, dropped or inserted, cut off, doubled, missing columns, another encoding, other line ends. A fifth of
them is gzipped, half of these before the damage. Each goes through `blair-rec prepare csv` as in
tests/test_prepare_own.py: an error has to be one of ours and leave nothing, the output has to be complete, and, where
the standard library can read the file, the events have to be the right ones. All output to the terminal is counted,
too. The seed of a file is its number. Recorded in benchmarks/results/fuzz_prepare.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fuzzing import fuzz_kinds, outcome_table
from side_by_side import write_record

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS / "helpers"), str(TESTS / "prepare")]

from test_prepare_own import try_one  # noqa: E402

KINDS = ("jsonl", "tsv", "csv", "parquet")
OUTCOMES = {"refused": "refused with a clear error", "read": "read", "compared": "read, confirmed"}


def to_page(runs: dict[str, list[dict[str, Any]]], files: int) -> list[str]:
    """Return the record as lines of Markdown."""
    return [
        f"# Damaged files: {files:,} of each kind",
        "",
        "No traceback, no half-written folder, no wrong event. `read, confirmed`: the events were also read "
        "independently, by the standard library, and are the same.",
        "",
        *outcome_table(runs, OUTCOMES),
    ]


def main() -> None:
    """Try all kinds in turn; stop at the first file that breaks a promise, with its seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2500, help="of each kind")
    options = parser.parse_args()
    runs = fuzz_kinds(try_one, KINDS, options.files)
    write_record("fuzz_prepare", vars(options), runs, to_page(runs, options.files))


if __name__ == "__main__":
    main()
