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
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from side_by_side import write_record

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from test_prepare_own import try_one

KINDS = ("jsonl", "tsv", "csv", "parquet")
OUTCOMES = {"refused": "refused with a clear error", "read": "read", "compared": "read, and rightly"}


def fuzz(kind: str, files: int, folder: Path) -> dict[str, Any]:
    """How many files had which outcome, and the bytes that came to the terminal."""
    begin, terminal = time.perf_counter(), os.dup(2)
    found: Counter[str] = Counter()
    with (folder / f"{kind}.txt").open("w+b") as said:
        os.dup2(said.fileno(), 2)  # also what libraries write past sys.stderr
        try:
            for seed in range(files):
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    found[try_one(Path(place), kind, seed)] += 1
        except BaseException:
            os.write(terminal, f"{kind}, seed {seed}:\n".encode())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
        size = said.seek(0, os.SEEK_END)
    return {**found, "terminal_bytes": size, "seconds": time.perf_counter() - begin}


def to_page(runs: dict[str, list[dict[str, Any]]], files: int) -> list[str]:
    """The record as lines of Markdown."""
    page = [
        f"# Files with something wrong: {files:,} of each kind",
        "",
        "No traceback, no half-written folder, no wrong event. `read, and rightly`: the events were also read "
        "independently, by the standard library, and are the same.",
        "",
        f"| | {' | '.join(OUTCOMES.values())} | bytes to the terminal |",
        "|---|---|---|---|---|",
    ]
    for kind, (found,) in runs.items():
        counts = " | ".join(f"{found.get(outcome, 0):,}" for outcome in OUTCOMES)
        page.append(f"| .{kind} | {counts} | {found['terminal_bytes']:,} |")
    return page


def main() -> None:
    """All kinds, one after the other; the first file that breaks a promise ends it with its seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2500, help="of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for kind in KINDS:
            runs[kind] = [fuzz(kind, options.files, Path(folder))]
            print(kind, runs[kind][0], flush=True)
    write_record("fuzz_prepare", vars(options), runs, to_page(runs, options.files))


if __name__ == "__main__":
    main()
