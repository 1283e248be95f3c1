"""A large log on a small machine: build it, train one epoch with sampled softmax, evaluate some of the users.

    python benchmarks/ten_million_events.py [--users 1000000] [--items 500000] [--events 10000000] [--evaluate 50000]

The log is synthetic, with Zipf-distributed popularity of items; the model is SASRec on IDs at RecBole's default sizes.
Each step is timed, with the peak memory of the process up to its end. The goal is at most 16 GiB in all. Recorded in
benchmarks/results/ten_million_events.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import COLUMNS, in_turn, peak_mib, write_record, write_zipf_log

LIMIT_GIB = 16
METRICS = ["NDCG@10", "Recall@10"]


def work(data: str, evaluate: int) -> None:
    """Do all steps; this runs as a separate process, and its last line is the record."""
    import copy

    import numpy as np

    import blair_rec.recbole  # noqa: F401
    from blair_rec.border.settings import recbole_config
    from blair_rec.config.sections import TrainConfig
    from blair_rec.data.dataset import TextSequentialDataset
    from blair_rec.data.sequences import training_sequences
    from blair_rec.evaluate.metrics import metric_values
    from blair_rec.models.text_models import model_class
    from blair_rec.ranking.scoring import rank
    from blair_rec.training.epochs import build_training
    from blair_rec.training.loop import make_optimizer, run_epoch

    steps: list[dict[str, Any]] = [{"step": "imports", "seconds": 0.0, "peak_mib": peak_mib()}]
    begin = time.perf_counter()

    def done(step: str) -> None:
        nonlocal begin
        steps.append({"step": step, "seconds": time.perf_counter() - begin, "peak_mib": peak_mib()})
        print(f"{step}: {steps[-1]['seconds']:.1f} s, {peak_mib():,.0f} MiB so far", file=sys.stderr, flush=True)
        begin = time.perf_counter()

    classes = model_class("SASRec")
    config = recbole_config(classes, data, {**COLUMNS, "MAX_ITEM_LIST_LENGTH": 50})
    train, _, test = TextSequentialDataset(config).build()
    sequences = training_sequences(train)
    done("build")
    setting = TrainConfig(loss="sampled_softmax")
    model, losses = build_training(classes, config, train, sequences, setting, seed=1)
    done("model")
    loss = run_epoch(model, make_optimizer(model, setting), losses(1))
    done("one epoch")
    some = copy.copy(test)
    drawn = np.random.default_rng(1).permutation(len(test))[:evaluate]
    some.inter_feat = test.inter_feat.select(np.sort(drawn))
    ranks = rank(model, some, batch_size=1024)
    done("evaluate")
    values = metric_values(METRICS, ranks.higher_unmasked, ranks.equal_unmasked)
    total = {"seconds": sum(step["seconds"] for step in steps), "peak_mib": peak_mib()}
    found = {"targets": sequences.n_targets, "evaluated": len(some), "loss": loss, "negatives": setting.negatives}
    print(json.dumps({**total, **found, **values, "steps": steps}))


def to_page(run: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Return the record as lines of Markdown."""
    gib = run["peak_mib"] / 1024
    lines = [
        f"# {options.events:,} events, {options.users:,} users, {options.items:,} items",
        "",
        f"SASRec (2 layers, width 64, window of 50), sampled softmax with {run['negatives']} negatives per step, one "
        f"epoch over {run['targets']:,} targets, {run['evaluated']:,} test cases ranked among all items (NDCG@10 "
        f"{run['NDCG@10']:.5f}). Peak memory is {gib:.1f} GiB, "
        f"{'within' if gib <= LIMIT_GIB else 'more than'} the goal of {LIMIT_GIB}.",
        "",
        "| step | seconds | peak MiB so far |",
        "|---|---|---|",
    ]
    return lines + [f"| {step['step']} | {step['seconds']:.1f} | {step['peak_mib']:,.0f} |" for step in run["steps"]]


def main() -> None:
    """Write the log, run the steps in a separate process, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--evaluate", type=int, default=50_000, help="test cases to rank")
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data:
        sys.argv = sys.argv[:1]  # RecBole reads the command line
        work(options.data, options.evaluate)
        return
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        data = write_zipf_log(Path(folder) / "zipf", options.users, options.items, options.events)
        print(f"wrote the log in {time.perf_counter() - begin:.0f} s", flush=True)
        command = [str(Path(__file__).resolve()), "--evaluate", str(options.evaluate), "--data", str(data)]
        runs = in_turn({"ours": command}, 1, folder)
    write_record("ten_million_events", vars(options), runs, to_page(runs["ours"][0], options))


if __name__ == "__main__":
    main()
