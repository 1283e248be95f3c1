"""Stock RecBole SASRec and BLaIRSASRec with `blair_items: id`, both through run_recbole.

Same data, epochs and settings.

    python benchmarks/against_recbole.py [--epochs 8] [--dataset ml-100k] [--seeds 1,2,3,4,5] [--keep-stock]

Each trains in a process of its own, one after the other. Stock RecBole trains one target per padded row; ours learns
the same targets from packed sequences. Stock RecBole, which takes minutes an epoch, runs with the first seed only;
`--keep-stock` takes its run from the last record. Written to benchmarks/results/against_recbole-DATASET.{md,json}.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev

RESULTS = Path(__file__).parent / "results"
MODELS = ("SASRec", "BLaIRSASRec")
SETTINGS = {
    "train_neg_sample_args": None,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "metrics": ["NDCG", "Recall"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 6,
    "show_progress": False,
    "state": "ERROR",
}


def train_one(model: str, dataset: str, epochs: int, seed: int) -> None:
    """Train one model in this process and print its record as JSON."""
    import blair_rec.recbole  # noqa: F401
    from blair_rec.recbole import run_recbole

    from recbole.trainer import BLaIRSASRecTrainer, Trainer

    seconds: list[float] = []
    curve: list[float] = []
    for cls in (Trainer, BLaIRSASRecTrainer):
        train_epoch = cls._train_epoch

        def timed(self, *args, _train_epoch=train_epoch, **kwargs):
            if type(self)._train_epoch.__wrapped__ is not _train_epoch:  # called through super()
                return _train_epoch(self, *args, **kwargs)
            begin = time.perf_counter()
            result = _train_epoch(self, *args, **kwargs)
            seconds.append(time.perf_counter() - begin)
            return result

        timed.__wrapped__ = train_epoch
        cls._train_epoch = timed
    valid_epoch = Trainer._valid_epoch

    def watched(self, *args, **kwargs):
        score, result = valid_epoch(self, *args, **kwargs)
        curve.append(float(score))
        return score, result

    Trainer._valid_epoch = watched
    result = run_recbole(model=model, dataset=dataset, config_dict={**SETTINGS, "epochs": epochs, "seed": seed})
    test = {name: float(value) for name, value in result["test_result"].items()}
    print(
        json.dumps({"model": model, "seed": seed, "seconds_per_epoch": seconds, "valid_ndcg@10": curve, "test": test})
    )


def main() -> None:
    """Run both, one after the other, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--keep-stock", action="store_true")
    parser.add_argument("--one", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.argv = sys.argv[:1]
        train_one(options.one, options.dataset, options.epochs, int(options.seeds))
        return
    from blair_rec.provenance import git_commit, provenance

    path = RESULTS / f"against_recbole-{options.dataset}"
    seeds = options.seeds.split(",")
    records = []
    wanted = [("SASRec", seeds[0]), *(("BLaIRSASRec", seed) for seed in seeds)]
    if options.keep_stock:
        last = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        records = [run for run in last["runs"] if run["model"] == "SASRec"]
        wanted = wanted[1:]
    with tempfile.TemporaryDirectory() as folder:
        for model, seed in wanted:
            command = [sys.executable, str(Path(__file__).resolve()), "--one", model, "--dataset", options.dataset]
            done = subprocess.run(
                [*command, "--epochs", str(options.epochs), "--seeds", seed],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                sys.exit(done.stderr)
            records.append({**json.loads(done.stdout.splitlines()[-1]), "git_commit": git_commit()})
            print(json.dumps(records[-1]), flush=True)
    import torch

    record = {
        "date": datetime.date.today().isoformat(),
        "dataset": options.dataset,
        "epochs": options.epochs,
        "provenance": provenance(torch.get_num_threads()),
        "runs": records,
    }
    RESULTS.mkdir(exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(to_markdown(record), encoding="utf-8")


def to_markdown(record: dict) -> str:
    """The record as a page."""
    machine = record["provenance"]
    lines = [
        f"# Stock RecBole SASRec and ours at equal epochs, {record['dataset']}",
        "",
        f"{record['epochs']} epochs each, RecBole's own defaults (2 layers, width 64, dropout 0.5, batches of 2048 "
        "targets, Adam, learning rate 0.001), no item text, history not masked, both evaluated by RecBole.",
        "",
        "| model | seed | median s per epoch | best NDCG@10 on validation | test NDCG@10 | test Recall@10 |",
        "|---|---|---|---|---|---|",
    ]
    for run in record["runs"]:
        seconds = sorted(run["seconds_per_epoch"])[len(run["seconds_per_epoch"]) // 2]
        test = run["test"]
        best = max(run["valid_ndcg@10"])
        measured = f"{seconds:.1f} | {best:.4f} | {test['ndcg@10']:.4f} | {test['recall@10']:.4f}"
        lines.append(f"| {run['model']} | {run['seed']} | {measured} |")
    ours = [run for run in record["runs"] if run["model"] != "SASRec"]
    if len(ours) > 1:
        valid, test = [max(run["valid_ndcg@10"]) for run in ours], [run["test"]["ndcg@10"] for run in ours]
        lines += [
            "",
            f"Ours over {len(ours)} seeds, mean ± standard deviation: {mean(valid):.4f} ± {stdev(valid):.4f} "
            f"on validation, {mean(test):.4f} ± {stdev(test):.4f} on test.",
        ]
    lines += ["", "NDCG@10 on validation, epoch by epoch:", ""]
    lines += [
        f"- {run['model']}, seed {run['seed']}: {', '.join(f'{v:.4f}' for v in run['valid_ndcg@10'])}"
        for run in record["runs"]
    ]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("blair_rec", "recbole", "torch", "numpy", "python"))
    lines += ["", f"{record['date']}; {machine['machine']}, {machine['threads']} threads; {versions}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
