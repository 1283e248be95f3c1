"""Files with something wrong, prepared: a clear error or their good lines, never a traceback or half a folder.

    python benchmarks/fuzz_prepare.py [--files 2500]

So many files of each kind (JSON lines, TSV, CSV, Parquet) suffer one to four accidents: bytes flipped, dropped or put
in, cut off, doubled, columns gone, another encoding, other line ends; a fifth of them is gzipped, half of these before
the accidents. Each goes through `blair-rec prepare csv` as a test does it (tests/test_prepare_own.py), which asserts
that an error is one of ours and leaves nothing, that what is written is whole, and, where the standard library can
tell them, that the events are the right ones. What anything writes to the terminal meanwhile is counted, too. The seed
of a file is its number. Recorded in benchmarks/results/fuzz_prepare.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from fuzzing import fuzz, outcome_table
from side_by_side import write_record

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS / "helpers"), str(TESTS / "prepare")]

from test_prepare_own import try_one  # noqa: E402

KINDS = ("jsonl", "tsv", "csv", "parquet")
OUTCOMES = {"refused": "refused with a clear error", "read": "read", "compared": "read, and rightly"}


def to_page(runs: dict[str, list[dict[str, Any]]], files: int) -> list[str]:
    """The record as lines of Markdown."""
    return [
        f"# Files with something wrong: {files:,} of each kind",
        "",
        "No traceback, no half-written folder, no wrong event. `read, and rightly`: the events were also read "
        "independently, by the standard library, and are the same.",
        "",
        *outcome_table(runs, OUTCOMES),
    ]


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
    write_record("fuzz_prepare", vars(options), runs, to_page(runs, options.files))


if __name__ == "__main__":
    main()
