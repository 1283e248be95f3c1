"""RecTools' SASRec with softmax and our ID-only SASRec, both trained to their best: same split, window and test cases.

    python benchmarks/against_rectools.py --rectools PYTHON [--dataset ml-100k] [--dropout 0.2,0.5] [--set KEY=VALUE]

RecTools (pip install "rectools[torch]==0.19.*") needs a separate environment; `--rectools` names its python. Both
have 2 layers, 2 heads and width 64, train with Adam at a learning rate of 0.001, and validate after every epoch. They
stop after ten validations without a new best (RecTools, whose epochs are shorter, after thirty) or after `--minutes`.
RecTools trains once per dropout, ours with three seeds and the settings of `--set`; `--keep-ours` takes our runs from
the existing record. Leave-one-out; NDCG@10 over all items, unmasked (which selects) and masked. Written to
benchmarks/results/against_rectools-DATASET.{json,md}.
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
from typing import Any

RESULTS = Path(__file__).parent / "results"
WINDOW, WIDTH, LAYERS, HEADS = 50, 64, 2, 2
PATIENCE, THEIR_PATIENCE = 10, 30
"""Validations without a new best. RecTools' epoch has only the last 51 events of a user: 40% of ml-100k's targets."""


def train_rectools(events: str, dropout: float, minutes: float) -> None:
    """Train in the other environment, validate after every epoch, and print the record as JSON."""
    import numpy as np
    import pandas as pd
    from pytorch_lightning import Callback, Trainer, seed_everything
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    frame = pd.read_csv(events, dtype={"user": str, "item": str})
    frame.columns = [Columns.User, Columns.Item, Columns.Datetime]
    frame[Columns.Weight] = 1
    frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="s")
    from_end = frame.groupby(Columns.User).cumcount(ascending=False)
    long_enough = frame.groupby(Columns.User)[Columns.Item].transform("size") >= 3
    train = frame[(from_end >= 2) | ~long_enough]
    splits = {  # the history of a case, and its target
        "valid": (train, frame[(from_end == 1) & long_enough]),
        "test": (frame[(from_end >= 1) | ~long_enough], frame[(from_end == 0) & long_enough]),
    }

    def ndcg(split: str, masked: bool) -> float:
        history, target = splits[split]
        target = target.set_index(Columns.User)[Columns.Item]
        rows = model.recommend(
            users=target.index.to_numpy(),
            dataset=Dataset.construct(history),
            k=10,
            filter_viewed=masked,
            on_unsupported_targets="ignore",
        )
        hits = rows[rows[Columns.Item].to_numpy() == target.loc[rows[Columns.User]].to_numpy()]
        return float((1 / np.log2(hits[Columns.Rank] + 1)).sum() / len(target))

    curve: list[dict[str, float]] = []
    begin, best = time.perf_counter(), {"unmasked": -1.0}

    class Validate(Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            self.begin = time.perf_counter()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            seconds = time.perf_counter() - self.begin
            model.is_fitted = True
            valid = ndcg("valid", masked=False)
            curve.append({"epoch": len(curve) + 1, "seconds": seconds, "valid": valid})
            if valid > best["unmasked"]:
                best.update(epoch=len(curve), unmasked=valid)
                best["test"] = {"unmasked": ndcg("test", masked=False), "masked": ndcg("test", masked=True)}  # type: ignore[assignment]
            model.is_fitted = False
            module.train()
            print(f"epoch {len(curve)}: {valid:.4f}, {seconds:.1f} s", file=sys.stderr, flush=True)
            late = time.perf_counter() - begin > 60 * minutes
            trainer.should_stop = len(curve) - best["epoch"] >= THEIR_PATIENCE or late

    def trainer() -> Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(max_epochs=500, min_epochs=1, callbacks=[Validate()], enable_checkpointing=False, **quiet)

    seed_everything(1, verbose=False)
    model = SASRecModel(
        n_blocks=LAYERS,
        n_heads=HEADS,
        n_factors=WIDTH,
        dropout_rate=dropout,
        session_max_len=WINDOW,
        loss="softmax",
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(train))
    print(json.dumps({"dropout": dropout, "seed": 1, "best": best, "curve": curve}))


def train_ours(dataset: str, seeds: tuple[int, ...], out: Path, also: list[str]) -> list[dict[str, Any]]:
    """Run our ID-only variant by `compare`; return a record per seed. `also` are settings as in `compare --set`."""
    from blair_rec.config.comparison import load_config
    from blair_rec.experiment.compare import compare

    settings = {"MAX_ITEM_LIST_LENGTH": WINDOW, "hidden_size": WIDTH, "n_layers": LAYERS, "n_heads": HEADS}
    config = {
        "dataset": dataset,
        "variants": {"id": {"items": "id"}},
        "train": {"epochs": 500, "patience": PATIENCE, "learning_rate": 0.001},
        "recbole": {**settings, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}},
        "evaluate": {"protocol": "unmasked"},
        "seeds": list(seeds),
    }
    path = out.with_suffix(".yaml")
    path.write_text(json.dumps(config), encoding="utf-8")  # which is YAML, too
    board = compare(load_config(path, also), out)
    assert board is not None
    records = []
    for index, seed in enumerate(seeds):
        folder = out / "runs" / f"id-{seed}"
        curve = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
        test = {name: values["NDCG@10"].per_seed[index] for name, values in board.rows[0].metrics.items()}
        best = json.loads((folder / "result.json").read_text(encoding="utf-8"))["selection"]
        seconds = [
            {"seconds": epoch["train_seconds"], "valid": (epoch["valid"] or {}).get("NDCG@10")} for epoch in curve
        ]
        records.append(
            {"seed": seed, "best": {"epoch": best["epoch"], "unmasked": best["value"], "test": test}, "curve": seconds}
        )
    return records


def write_events(dataset: str, path: Path) -> None:
    """All events of the data set in our order, as user, item, order."""
    import csv

    import torch

    import blair_rec.recbole  # noqa: F401
    from blair_rec.border.settings import recbole_config
    from blair_rec.data.dataset import TextSequentialDataset
    from blair_rec.experiment.planning.data_files import data_folder
    from blair_rec.models.text_models import model_class

    config = recbole_config(model_class("SASRec"), str(data_folder(dataset)), {"MAX_ITEM_LIST_LENGTH": WINDOW})
    data = TextSequentialDataset(config)
    data.build()
    assert data.log is not None
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "order"])
        order = data.log.before(torch.arange(len(data.log.item))).tolist()
        writer.writerows(zip(data.log.user.tolist(), data.log.item.tolist(), order, strict=True))


def to_markdown(record: dict[str, Any]) -> str:
    """Return the record as a page."""
    lines = [
        f"# RecTools SASRec and ours, each trained to its best, {record['dataset']}",
        "",
        "2 layers, 2 heads, width 64, window of 50, full softmax, Adam at 0.001"
        + (f" (ours: {', '.join(record['settings_of_ours'])})" if record["settings_of_ours"] else "")
        + f", stopped after {PATIENCE} epochs (RecTools, whose epochs are shorter, {THEIR_PATIENCE}) without "
        f"a new best on validation or after {record['minutes']:.0f} minutes; leave-one-out, ranked among all items, "
        "selected on unmasked validation NDCG@10.",
        "",
        "| model | dropout | seed | epochs | best epoch | validation | test, unmasked | test, masked |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in (("RecTools SASRec", record["rectools"]), ("blair_rec, id", record["ours"])):
        for run in runs:
            best, test = run["best"], run["best"]["test"]
            lines.append(
                f"| {name} | {run.get('dropout', 0.5)} | {run['seed']} | {len(run['curve'])} | {best['epoch']} | "
                f"{best['unmasked']:.4f} | {test['unmasked']:.4f} | {test['masked']:.4f} |"
            )
    tests = [run["best"]["test"] for run in record["ours"]]
    if len(tests) > 1:
        spread = {
            p: f"{mean(t[p] for t in tests):.4f} ± {stdev(t[p] for t in tests):.4f}" for p in ("unmasked", "masked")
        }
        lines += ["", f"Ours over {len(tests)} seeds: test {spread['unmasked']} unmasked, {spread['masked']} masked."]
    made = record["provenance"]
    versions = ", ".join(f"{name} {made[name]}" for name in ("blair_rec", "torch", "numpy", "python"))
    lines += [
        "",
        f"{record['date']}; {made['machine']}, {made['threads']} threads; {versions}; {record['git_commit']}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train both and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k", help="a name, or a folder of atomic files")
    parser.add_argument("--rectools", help="python of an environment that has RecTools")
    parser.add_argument("--dropout", default="0.2,0.5")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of ours, as compare takes them")
    parser.add_argument("--keep-ours", action="store_true", help="train RecTools alone")
    parser.add_argument("--events", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.events:
        train_rectools(options.events, float(options.dropout), options.minutes)
        return
    import torch

    from blair_rec.experiment.provenance import git_commit, provenance

    name = Path(options.dataset).name
    path = RESULTS / f"against_rectools-{name}"
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events.csv"
        write_events(options.dataset, events)
        if options.keep_ours:
            known = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            ours, options.set = known["ours"], known["settings_of_ours"]
        else:
            seeds = tuple(map(int, options.seeds.split(",")))
            ours = train_ours(options.dataset, seeds, Path(folder) / "ours", options.set)
        rectools = []
        for dropout in options.dropout.split(",") if options.rectools else ():
            command = [options.rectools, str(Path(__file__).resolve()), "--events", str(events), "--dropout", dropout]
            done = subprocess.run(
                [*command, "--minutes", str(options.minutes)], stdout=subprocess.PIPE, text=True, check=True, cwd=folder
            )
            rectools.append(json.loads(done.stdout.splitlines()[-1]))
    record = {
        "dataset": name,
        "date": datetime.date.today().isoformat(),
        "git_commit": git_commit(),
        "minutes": options.minutes,
        "rectools": rectools,
        "ours": ours,
        "settings_of_ours": options.set,
        "provenance": provenance(torch.get_num_threads()),
    }
    RESULTS.mkdir(exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(to_markdown(record), encoding="utf-8")


if __name__ == "__main__":
    main()
