"""Shared by the fuzzing benchmarks: try many damaged files in turn, and count their outcomes."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def fuzz(try_one: Callable[[Path, str, int], str], kind: str, files: int, folder: Path) -> dict[str, Any]:
    """Count the files of a kind by outcome, and the bytes written to the terminal.

    `try_one` is called with an empty folder, the kind and the seed of the file, which is its number. The first file
    that breaks a promise stops the run, and its seed is printed.
    """
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


def fuzz_kinds(
    try_one: Callable[[Path, str, int], str], kinds: Sequence[str], files: int
) -> dict[str, list[dict[str, Any]]]:
    """Try so many files of each kind, and print the outcomes of a kind when it is done."""
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            runs[kind] = [fuzz(try_one, kind, files, Path(folder))]
            print(kind, runs[kind][0], flush=True)
    return runs


def outcome_table(runs: Mapping[str, Sequence[Mapping[str, Any]]], outcomes: Mapping[str, str]) -> list[str]:
    """Return a line of Markdown per kind of file; `outcomes` are the words for the results of try_one."""
    table = [
        f"| | {' | '.join(outcomes.values())} | bytes to the terminal |",
        f"|---|{'---|' * (len(outcomes) + 1)}",
    ]
    for kind, (found,) in runs.items():
        counts = " | ".join(f"{found.get(outcome, 0):,}" for outcome in outcomes)
        table.append(f"| .{kind} | {counts} | {found['terminal_bytes']:,} |")
    return table
