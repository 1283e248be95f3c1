"""Shared by the benchmarks that compare peers: a synthetic log, child processes in turn, and the record."""

from __future__ import annotations

import datetime
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
COLUMNS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "train_neg_sample_args": None}
"""RecBole's settings for a model with cross-entropy on a log."""


def write_zipf_log(folder: Path, users: int, items: int, events: int, seed: int = 0) -> Path:
    """Write a data set of the given size: events in random order, Zipf-distributed popularity of items.

    Every user has at least three events, so that leave-one-out leaves a training target; every item has at least one.
    """
    import numpy as np

    if events < max(3 * users, items):
        sys.exit(f"{events} events are too few for {users} users with three each and {items} items")
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, items + 1)
    popular = np.searchsorted(np.cumsum(weights) / weights.sum(), random.random(events - items))
    item = random.permutation(np.concatenate([np.arange(items), np.minimum(popular, items - 1)]))
    busy = (users * random.random(events - 3 * users) ** 2).astype(np.int64)
    user = random.permutation(np.concatenate([np.repeat(np.arange(users), 3), busy]))
    at = random.integers(1_400_000_000, 1_600_000_000, events)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{folder.name}.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for begin in range(0, events, 1 << 20):
            part = slice(begin, begin + (1 << 20))
            rows = zip(user[part].tolist(), item[part].tolist(), at[part].tolist(), strict=True)
            file.writelines(f"u{u}\ti{i}\t{t}\n" for u, i, t in rows)
    return folder


def peak_mib() -> float:
    """Return the peak memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measured(job: Callable[[], Any], **also: Any) -> None:
    """Run a job; print for the parent its seconds, and its peak memory above what the process held before."""
    before, begin = peak_mib(), time.perf_counter()
    found = job()
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib() - before, "before_mib": before, **found, **also}))


def in_turn(
    commands: dict[str, Sequence[str]], rounds: int, folder: str, before: Callable[[], Any] = lambda: None
) -> dict[str, list[dict[str, Any]]]:
    """Run each command in a separate process, in turn, round by round; return the last line that each printed.

    `before` is called before each of them.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            before()
            done = subprocess.run(
                [sys.executable, "-W", "ignore", *command], stdout=subprocess.PIPE, text=True, cwd=folder, check=True
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            last = found[name][-1]
            print(f"{number + 1}: {name}: {last['seconds']:.2f} s, {last['peak_mib']:,.0f} MiB", flush=True)
    return found


def middle(runs: Sequence[dict[str, Any]], key: str) -> float:
    """Return the median of several runs."""
    return median(run[key] for run in runs)


def write_record(name: str, settings: dict[str, Any], runs: dict[str, Any], page: list[str]) -> None:
    """Write benchmarks/results/NAME.json with every run, and NAME.md with the page; both say where and when."""
    import torch

    from blair_rec.experiment.provenance import git_commit, provenance

    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    made = {"date": datetime.date.today().isoformat(), **provenance(threads), "git_commit": git_commit()}
    made["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    RESULTS.mkdir(exist_ok=True)
    record = {"settings": settings, "runs": runs, "provenance": made}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    versions = ", ".join(f"{package} {made[package]}" for package in ("recbole", "torch", "numpy", "pandas", "python"))
    machine = ", ".join(filter(None, (made["machine"], made["gpu"], f"{threads} threads")))
    page = [*page, "", f"{made['date']}, {machine}; {versions}; commit {made['git_commit']}"]
    (RESULTS / f"{name}.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    print("\n".join(page))
