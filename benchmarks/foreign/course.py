"""The course of a training with a time limit: validation curve, best weights, and the record that goes to the page."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

CORES = 2
"""On a CPU the limit counts minutes of two cores, so that other work on the machine takes nothing from a training."""
LAST = 3
"""Validation still rose if the limit ended the training and the best of all was among so many last validations."""


class Course:
    """Validations of one training. Epochs may be fractions: the limit can end a training inside of an epoch."""

    def __init__(self, minutes: float, patience: int | None = None, device: str = "cpu") -> None:
        """
        Args:
            minutes: the limit of training and validation together, in minutes of two cores (cpu) or of the clock
                (cuda); the lists are written after it.
            patience: validations without a new best that end the training; None: only the limit does.
            device: cpu or cuda.
        """
        self.minutes, self.patience, self.device = minutes, patience, device
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.weights: Any = None
        self.begin, self.begin_cpu = time.perf_counter(), time.process_time()

    def used(self) -> float:
        """Minutes of the limit that are used: CPU time of all threads over two cores, or the clock on a GPU."""
        return self.clock() if self.device == "cuda" else (time.process_time() - self.begin_cpu) / 60 / CORES

    def clock(self) -> float:
        """Minutes of the clock since the beginning."""
        return (time.perf_counter() - self.begin) / 60

    def is_late(self) -> bool:
        """Whether the minutes are used up."""
        return self.used() >= self.minutes

    def add(self, epoch: float, valid: float) -> bool:
        """Add a validation; return whether it is a new best, so that the caller keeps the weights."""
        self.curve.append(
            {"epoch": round(epoch, 3), "valid": valid, "minutes": self.used(), "clock_minutes": self.clock()}
        )
        print(f"epoch {epoch:.2f}: NDCG@10 {valid:.4f} after {self.used():.1f} minutes", file=sys.stderr, flush=True)
        if self.best and valid <= self.best["valid"]:
            return False
        self.best = self.curve[-1]
        return True

    def is_over(self) -> bool:
        """Whether the training ends after this validation."""
        return self.ended_by() != "epochs"

    def ended_by(self) -> str:
        """Return minutes, patience, or epochs (neither of them)."""
        if self.curve and self.curve[-1]["minutes"] >= self.minutes:
            return "minutes"
        since = len(self.curve) - 1 - self.curve.index(self.best) if self.best else 0
        return "patience" if self.patience is not None and since >= self.patience else "epochs"

    def record(self) -> dict[str, Any]:
        """Return what the page says about the training."""
        ended_by = self.ended_by()
        rising = ended_by == "minutes" and self.best in self.curve[-LAST:]
        return {
            "limit_minutes": self.minutes,
            "used_minutes": self.curve[-1]["minutes"],
            "clock_minutes": self.curve[-1]["clock_minutes"],
            "epochs": self.curve[-1]["epoch"],
            "best": self.best,
            "ended_by": ended_by,
            "still_rising": rising,
            "curve": self.curve,
        }


LIMIT = "limit of training and validation, in minutes of two cores (cpu) or of the clock (cuda) (default: 60)"


def write_record(out: Path, name: str, packages: tuple[str, ...], record: dict[str, Any]) -> None:
    """Write NAME.json next to the lists: settings, course, versions, threads and cores."""
    made = {package: version(package) for package in ("numpy", *packages)}
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    machine = {"python": platform.python_version(), "threads": threads, "cores": os.cpu_count()}
    text = json.dumps({"system": name, **record, "versions": made, "machine": machine}, indent=1)
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def arguments(description: str | None, minutes: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all scripts share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path, help="the folder that `blair-rec split` wrote")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the lists and the record")
    if minutes:
        parser.add_argument("--minutes", type=float, default=60, help=LIMIT)
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it trains (default: cpu)")
    return parser
