"""Latency of one history and of 256 histories: the run in torch against its exported folder in onnxruntime.

    python benchmarks/export_latency.py [--items 20000] [--rounds 3]

SASRec (2 layers, width 64, window of 50) on IDs, trained for one epoch on a synthetic log; its weights do not matter
for speed. Histories have 10 items on average and 50 at most; the ten best new items are requested. `torch` is
`blair_rec.load(run).recommend(...)`, `exported` is recommend.py of the folder. Each runs in a separate process on one
core, several times in turn; a process reports the median of many calls. "Ready" is the time from the first import to
the first answer. Medians are recorded in benchmarks/results/export_latency.{json,md}.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from side_by_side import in_turn, measured, middle, write_record, write_zipf_log

PEERS = {"torch": "the run, in torch", "exported": "the exported folder, in onnxruntime"}
CALLS = {1: 200, 256: 15}
"""Number of calls, by the number of histories."""
WINDOW = 50


def make(folder: Path, items: int) -> None:
    """Make the run, its export, and histories in `folder`."""
    import numpy as np

    from blair_rec.config.comparison import read_config
    from blair_rec.experiment.compare import compare
    from blair_rec.serve.export.folder import export_run

    data = write_zipf_log(folder / "zipf", 2_000, items, 2 * items)
    raw = {
        "dataset": str(data),
        "recbole": {"MAX_ITEM_LIST_LENGTH": WINDOW},
        "model": "SASRec",
        "train": {"epochs": 1, "learning_rate": 0.001},
        "variants": {"id": {"items": "id"}},
        "baseline": "id",
        "seeds": [1],
    }
    compare(read_config(raw), folder / "out")
    export_run(folder / "out" / "runs" / "id-1", folder / "exported")
    random = np.random.default_rng(0)
    lengths = np.minimum(random.geometric(0.1, 256), WINDOW)
    tokens = json.loads((folder / "exported" / "items.json").read_text("utf-8"))
    histories = [[tokens[item] for item in random.integers(0, len(tokens), length)] for length in lengths]
    (folder / "histories.json").write_text(json.dumps(histories), encoding="utf-8")


def answer(peer: str, folder: Path) -> None:
    """Measure torch or the export; this runs as a separate process."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # onnxruntime uses all cores and ignores OMP_NUM_THREADS
    histories = json.loads((folder / "histories.json").read_text("utf-8"))
    recommend: Callable[[list[list[str]], int], Any]
    begin = time.perf_counter()
    if peer == "torch":
        import blair_rec

        recommend = blair_rec.load(folder / "out" / "runs" / "id-1").recommend
    else:
        spec = importlib.util.spec_from_file_location("recommend", folder / "exported" / "recommend.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        recommend = module.ExportedModel(folder / "exported").recommend
    first = recommend(histories[:1], 10)
    ready = time.perf_counter() - begin

    def job() -> dict[str, Any]:
        found: dict[str, Any] = {"ready": ready, "best": first[0][0][0]}
        for size, calls in CALLS.items():
            seconds = []
            for call in range(calls):
                some = histories[:size] if size > 1 else [histories[call % len(histories)]]
                begin = time.perf_counter()
                recommend(some, 10)
                seconds.append(time.perf_counter() - begin)
            found[f"ms_{size}"] = 1000 * median(seconds)
        return {**found, "held_mib": held_mib()}

    measured(job)


def held_mib() -> float:
    """Return the peak memory of this program; getrusage would include the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    [kib] = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kib) / 1024


def to_page(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> list[str]:
    """Return the record as lines of Markdown."""
    assert len({run["best"] for found in runs.values() for run in found}) == 1, "the answers differ"
    lines = [
        f"# An exported folder against torch: {options.items:,} items",
        "",
        f"SASRec (2 layers, width 64, window of {WINDOW}), the ten best new items, one core; median of "
        f"{options.rounds} processes in turn. Ready: from the first import to the first answer. Memory: the most that "
        "the process held.",
        "",
        "| | 1 history (ms) | 256 histories (ms) | ready (s) | memory (MiB) |",
        "|---|---:|---:|---:|---:|",
    ]
    for peer, name in PEERS.items():
        one, many, ready, held = (middle(runs[peer], key) for key in ("ms_1", "ms_256", "ready", "held_mib"))
        lines.append(f"| {name} | {one:.2f} | {many:.1f} | {ready:.2f} | {held:,.0f} |")
    return lines


def main() -> None:
    """Measure both in turn and write the record, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        answer(options.peer, Path(options.folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.items)
        command = [str(Path(__file__).resolve()), "--folder", folder, "--peer"]
        runs = in_turn({peer: [*command, peer] for peer in PEERS}, options.rounds, folder)
    write_record("export_latency", vars(options), runs, to_page(runs, options))


if __name__ == "__main__":
    main()
