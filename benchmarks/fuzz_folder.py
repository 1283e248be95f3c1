"""Damaged data folders of users: a clear error, or the data set that a plain reader confirms.

    python benchmarks/fuzz_folder.py [--folders 10000] [--compare 300]

Each folder has odd ids and texts (`NA`, `7" tablet`, a text that begins with a quotation mark, tabs in quoted cells),
written with and without quoting. In turn its .inter file, its .item file or one of its benchmark files gets one to
four random damages (tests/mutations.py). Our reader reads it as a comparison does, and tests/own_folders.py reads it
again with loops over lines and characters. Both have to agree on events, their order and their ids, on items and
texts, on the number of skipped lines, and on what is refused. Nothing in the folder may change. Some folders
(`--compare`) go through a whole comparison that trains nothing. It ends with a leaderboard or with an error of ours,
and leaves no half-written folder. The seed of a folder is its number. Recorded in
benchmarks/results/fuzz_folder.{json,md}.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from side_by_side import write_record

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

from own_folders import KINDS, compare_one, try_one

NAMES = {"inter": "NAME.inter", "item": "NAME.item", "benchmark": "NAME.train.inter, .valid.inter or .test.inter"}
OUTCOMES = {
    "refused": "refused with a clear error",
    "in part": "read, with lines skipped and counted",
    "read": "read whole",
    "compared": "whole comparison: a leaderboard",
    "compare refused": "whole comparison: a clear error",
}


def fuzz(kind: str, seeds: range, compared: int) -> dict[str, Any]:
    """Count folders by outcome; the first `compared` of them also go through a comparison."""
    begin, found = time.perf_counter(), Counter[str]()
    for at, seed in enumerate(seeds):
        with tempfile.TemporaryDirectory() as place:
            try:
                found[try_one(Path(place) / "read", kind, seed)] += 1
                if at < compared:
                    found[compare_one(Path(place) / "compare", kind, seed)] += 1
            except BaseException:
                print(f"{kind}, seed {seed}:", file=sys.stderr)
                raise
    return {**found, "folders": len(seeds), "seconds": time.perf_counter() - begin}


def to_page(runs: dict[str, list[dict[str, Any]]], folders: int) -> list[str]:
    """Return the record as lines of Markdown."""
    page = [
        f"# Damaged data folders: {folders:,} folders",
        "",
        "No traceback, no half-written folder, nothing in the user's folder changed. A plain reader reads or refuses "
        "the same files: the same events in the same order, items, texts and numbers of skipped lines.",
        "",
        f"| damaged file | folders | {' | '.join(OUTCOMES.values())} |",
        f"|---|---|{'---|' * len(OUTCOMES)}",
    ]
    for kind, (found,) in runs.items():
        counts = " | ".join(f"{found.get(outcome, 0):,}" for outcome in OUTCOMES)
        page.append(f"| {NAMES[kind]} | {found['folders']:,} | {counts} |")
    return page


def main() -> None:
    """Try all kinds in turn; stop at the first folder that breaks a promise, with its seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=10_000)
    parser.add_argument("--compare", type=int, default=300, help="number of folders that go through a whole comparison")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("blair_rec").setLevel(logging.CRITICAL)
    runs = {}
    for number, kind in enumerate(KINDS):
        seeds = range(number, options.folders, len(KINDS))
        runs[kind] = [fuzz(kind, seeds, options.compare // len(KINDS))]
        print(kind, runs[kind][0], flush=True)
    write_record("fuzz_folder", vars(options), runs, to_page(runs, options.folders))


if __name__ == "__main__":
    main()
