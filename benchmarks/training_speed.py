"""Seconds per training target: ours, RecBole's SASRec and RecTools' SASRec, epoch by epoch in turn.

    python benchmarks/training_speed.py [--dataset ml-100k] [--data-path DIR] [--rounds 3] [--rectools PYTHON]

Every trainer is a separate process and trains one epoch on request, so that all of them run under the same conditions.
RecTools (pip install "rectools[torch]==0.19.*") needs a separate environment; `--rectools` names its python, and
without it RecTools is skipped. All have 2 layers, 2 heads, width 64, dropout 0.5, a window of 50, and a softmax over
all items. Also measured: the rate at which this machine multiplies matrices of these shapes, the time of the
arithmetic alone at that rate, and the operators that take the rest. Written to
benchmarks/results/training_speed-DATASET.{json,md}.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
WINDOW, WIDTH, LAYERS, HEADS, DROPOUT, BATCH = 50, 64, 2, 2, 0.5, 2048
RECTOOLS_BATCH = 128  # users, its default
NAMES = {
    "ours": "blair_rec, every position packed",
    "ours_bfloat16": "the same, softmax in bfloat16",
    "recbole": "RecBole SASRec",
    "rectools": "RecTools SASRec, softmax",
}


def wait_for_turn() -> None:
    """Block until the parent requests the next epoch; end the process after the last one."""
    if sys.stdin.readline().strip() != "epoch":
        sys.exit(0)


def tell(**values: Any) -> None:
    """Print one line for the parent."""
    print(json.dumps(values), flush=True)


PRECISIONS = {"ours": "float32", "ours_bfloat16": "bfloat16"}


def recbole_trainer(model_name: str, dataset: str, data_path: str | None, **also: Any) -> tuple[Any, Any]:
    """Return RecBole's own trainer and training data for a model, built as run_recbole builds them."""
    import blair_rec.recbole  # noqa: F401

    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    sys.argv = sys.argv[:1]
    settings = {
        "train_neg_sample_args": None,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": WINDOW,
        "hidden_size": WIDTH,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_dropout_prob": DROPOUT,
        "attn_dropout_prob": DROPOUT,
        "train_batch_size": BATCH,
        "state": "ERROR",
        "seed": 1,
        **({"data_path": data_path} if data_path else {}),
        **also,
    }
    config = Config(model=model_name, dataset=dataset, config_dict=settings)
    init_seed(1, True)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), train_data


def train_with_recbole(worker: str, dataset: str, data_path: str | None) -> None:
    """Train epochs of a model that RecBole finds by name; this runs as a separate process."""
    if worker in PRECISIONS:
        trainer, train_data = recbole_trainer("BLaIRSASRec", dataset, data_path, blair_precision=PRECISIONS[worker])
    else:
        trainer, train_data = recbole_trainer("SASRec", dataset, data_path)
    tell(ready=True)
    epoch = 0
    while True:
        wait_for_turn()
        begin = time.perf_counter()
        trainer._train_epoch(train_data, epoch, show_progress=False)
        tell(seconds=time.perf_counter() - begin)
        epoch += 1


def train_with_rectools(events: str) -> None:
    """Train epochs of RecTools' SASRec on the training split, in a process of the other environment."""
    import pandas as pd
    from pytorch_lightning import Callback, Trainer
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    class Turns(Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            wait_for_turn()
            self.begin = time.perf_counter()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            tell(seconds=time.perf_counter() - self.begin)

    def trainer() -> Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(max_epochs=10_000, callbacks=[Turns()], enable_checkpointing=False, devices=1, **quiet)

    frame = pd.read_csv(events, dtype={"user": str, "item": str})
    frame.columns = [Columns.User, Columns.Item, Columns.Datetime]
    frame[Columns.Weight] = 1
    frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="s")
    model = SASRecModel(
        n_blocks=LAYERS,
        n_heads=HEADS,
        n_factors=WIDTH,
        dropout_rate=DROPOUT,
        session_max_len=WINDOW,
        loss="softmax",
        batch_size=RECTOOLS_BATCH,
        get_trainer_func=trainer,
    )
    tell(ready=True)
    model.fit(Dataset.construct(frame))


class Peer:
    """A trainer in a separate process."""

    def __init__(self, command: list[str], folder: str) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder
        )
        self.seconds: list[float] = []
        self.hear()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit(f"a trainer ended early: {self.process.args}")

    def epoch(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("epoch\n")
        self.process.stdin.flush()
        self.seconds.append(self.hear()["seconds"])
        return self.seconds[-1]


def training_split(dataset: str, data_path: str | None, path: Path) -> dict[str, Any]:
    """Write the training events as user, item, order; return each trainer's number of targets and mean context."""
    import numpy as np

    import blair_rec.recbole  # noqa: F401  (first of all: RecBole's models turn on a debugging mode of torch)
    from blair_rec.data.sequences import training_sequences

    trainer, train_data = recbole_trainer("BLaIRSASRec", dataset, data_path)
    sequences = training_sequences(train_data._dataset)
    length = np.diff(sequences.offsets)
    user = np.repeat(np.arange(len(length)), length)
    order = np.arange(len(user)) - np.repeat(sequences.offsets[:-1], length)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "order"])
        writer.writerows(zip(user.tolist(), sequences.items.tolist(), order.tolist(), strict=True))
    inputs = length[length > 1] - 1
    kept = np.minimum(inputs, WINDOW)
    return {
        "items": int(trainer.model.n_items) - 1,
        "users": len(length),
        "targets": {
            **dict.fromkeys(("ours", "ours_bfloat16", "recbole"), sequences.n_targets),
            "rectools": int(kept.sum()),
        },
        "mean_context": {
            **dict.fromkeys(PRECISIONS, sequences.mean_context(WINDOW, WINDOW)),
            "recbole": sequences.mean_context(WINDOW, 1),
            "rectools": float((kept * (kept + 1) / 2).sum() / kept.sum()),
        },
    }


def arithmetic(items: int, targets: int, mean_context: float) -> dict[str, float]:
    """Return the operations of one epoch, forward and backward, of the model and of the softmax over all items."""
    per_token = 2 * (4 * WIDTH * WIDTH + 2 * WIDTH * 256) + 2 * 2 * WIDTH * mean_context
    return {"model": 3 * LAYERS * per_token * targets, "softmax": 3 * 2 * WIDTH * float(items) * targets}


def matrix_rate(rows: int, columns: int) -> float:
    """Return the operations per second of a float32 product [rows, WIDTH] x [WIDTH, columns], the best of many."""
    import torch

    left, right, out = torch.randn(rows, WIDTH), torch.randn(WIDTH, columns), torch.empty(rows, columns)
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        torch.mm(left, right, out=out)
        times.append(time.perf_counter() - begin)
    return 2 * rows * columns * WIDTH / min(times)


def where_time_goes(dataset: str, data_path: str | None, top: int = 12) -> list[tuple[str, float]]:
    """Return the shares of one of our epochs by operator, from torch's profiler (which slows small operators)."""
    from torch.profiler import ProfilerActivity, profile

    trainer, train_data = recbole_trainer("BLaIRSASRec", dataset, data_path)
    trainer._train_epoch(train_data, 0, show_progress=False)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        trainer._train_epoch(train_data, 1, show_progress=False)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [(event.key, event.self_cpu_time_total / total) for event in events[:top]]


def to_markdown(record: dict[str, Any]) -> str:
    """Return the record as a page."""
    ours = [record["nanoseconds_per_target"][name] for name in PRECISIONS]
    lines = [
        f"# Seconds per training target, {record['dataset']}",
        "",
        f"{record['users']:,} users, {record['items']:,} items; 2 layers, width 64, window of 50, full softmax, one "
        f"epoch of each in turn, {record['rounds']} rounds ({record['rounds'] * record['ours_per_round']} epochs of "
        "ours), medians.",
        "",
        "| trainer | targets an epoch | mean context | s an epoch | µs a target | ours / in bfloat16 is faster by |",
        "|---|---|---|---|---|---|",
    ]
    for name, per_target in record["nanoseconds_per_target"].items():
        faster = "" if name in PRECISIONS else " / ".join(f"{per_target / own:.1f}x" for own in ours)
        lines.append(
            f"| {NAMES[name]} | {record['targets'][name]:,} | {record['mean_context'][name]:.1f} | "
            f"{record['median_seconds'][name]:.2f} | {per_target / 1000:.2f} | {faster} |"
        )
    needed = record["operations"]["model"] / record["rate"]["model"]
    softmax = record["operations"]["softmax"] / record["rate"]["softmax"]
    lines += [
        "",
        "Mean context: number of items that a target is predicted from. Ours cuts long sequences at random offsets, "
        "RecBole gives every target its whole window, RecTools keeps the last 51 events of a user.",
        "",
        f"The arithmetic of one of our epochs takes {needed + softmax:.2f} s at the rate at which this machine "
        f"multiplies float32 matrices of these shapes ({record['rate']['model'] / 1e9:.0f} GFLOP/s for the model: "
        f"{needed:.2f} s; {record['rate']['softmax'] / 1e9:.0f} GFLOP/s for the softmax: {softmax:.2f} s): "
        f"{(needed + softmax) / record['median_seconds']['ours']:.0%} of the epoch in float32. Where it goes, by "
        "operator (torch's profiler, own time):",
        "",
        "| operator | share |",
        "|---|---|",
        *(f"| `{name}` | {share:.1%} |" for name, share in record["profile"]),
        "",
    ]
    made = record["provenance"]
    versions = ", ".join(f"{name} {made[name]}" for name in ("blair_rec", "recbole", "torch", "numpy", "python"))
    lines.append(f"{record['date']}; {made['machine']}, {made['threads']} threads; {versions}; {record['git_commit']}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train in turns and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data-path", type=Path, help="folder that holds DATASET/ (default: RecBole's examples)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours-per-round", type=int, default=3, help="epochs of ours in each round")
    parser.add_argument("--rectools", help="python of an environment that has RecTools")
    parser.add_argument("--worker", choices=list(NAMES), help=argparse.SUPPRESS)
    parser.add_argument("--events", help=argparse.SUPPRESS)
    options = parser.parse_args()
    data_path = str(options.data_path.resolve()) if options.data_path else None
    if options.worker == "rectools":
        train_with_rectools(options.events)
        return
    if options.worker:
        train_with_recbole(options.worker, options.dataset, data_path)
        return
    import torch

    from blair_rec.experiment.provenance import git_commit, provenance

    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events.csv"
        split = training_split(options.dataset, data_path, events)
        peers = {}
        for name in NAMES:
            python = options.rectools if name == "rectools" else sys.executable
            if python:
                command = [python, str(Path(__file__).resolve()), "--worker", name, "--dataset", options.dataset]
                command += ["--events", str(events)] + (["--data-path", data_path] if data_path else [])
                peers[name] = Peer(command, folder)
        for turn in range(options.rounds):
            for name, peer in peers.items():
                for _ in range(options.ours_per_round if name in PRECISIONS else 1):
                    print(f"round {turn + 1}: {name} {peer.epoch():.2f} s", flush=True)
        for peer in peers.values():
            peer.process.communicate("stop\n")
    seconds = {name: median(peer.seconds) for name, peer in peers.items()}
    record = {
        "dataset": options.dataset,
        "date": datetime.date.today().isoformat(),
        "git_commit": git_commit(),
        "rounds": options.rounds,
        "ours_per_round": options.ours_per_round,
        **split,
        "seconds": {name: peer.seconds for name, peer in peers.items()},
        "median_seconds": seconds,
        "nanoseconds_per_target": {name: 1e9 * value / split["targets"][name] for name, value in seconds.items()},
        "operations": arithmetic(split["items"], split["targets"]["ours"], split["mean_context"]["ours"]),
        "rate": {"model": matrix_rate(BATCH, 256), "softmax": matrix_rate(64, split["items"])},
        "profile": where_time_goes(options.dataset, data_path),
        "provenance": provenance(torch.get_num_threads()),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"training_speed-{options.dataset}"
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(to_markdown(record), encoding="utf-8")


if __name__ == "__main__":
    main()
