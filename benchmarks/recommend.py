"""Batch recommendations for a synthetic shop: users per second and memory, from a file of events to a file of items.

    python benchmarks/recommend.py                                       # as many users and items as Beauty has
    python benchmarks/recommend.py --users 1000000 --items 100000 --rounds 1

The model is SASRec in the sizes of configs/beauty.yaml with its initial weights, which do not matter for speed, in the
folder of a run. The events, in random order with timestamps, are a Parquet file; so is the output. A round is one
whole `recommend_file` in a separate process, including loading, reading and writing. The items of 200 users are
compared with float64 products of their vectors in NumPy, fully sorted; scores that differ by less than float32
rounding count as ties. Recorded in benchmarks/results/recommend-USERS-users-ITEMS-items.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import in_turn, middle, peak_mib, write_record

CHECKED = 200
"""Users whose items are checked."""
SIZES = {"MAX_ITEM_LIST_LENGTH": 50, "hidden_size": 128, "inner_size": 256, "attn_dropout_prob": 0.2}


def write_run(folder: Path, items: int) -> Path:
    """Write the folder of a run: SASRec with its initial weights over the given number of items."""
    import numpy as np
    import torch

    import blair_rec.recbole  # noqa: F401
    from blair_rec.border.settings import ItemsOnly, recbole_config
    from blair_rec.config.comparison import read_config
    from blair_rec.evaluate.runs.recorded import hash_of
    from blair_rec.experiment.fit import model_settings
    from blair_rec.experiment.planning.plan import run_setup
    from blair_rec.models.text_models import model_class
    from blair_rec.training.checkpoint import save_weights

    variants = {"id": {"items": "id"}}
    config = read_config({"dataset": "shop", "recbole": SIZES, "train": {"temperature": 0.1}, "variants": variants})
    setup = run_setup(config, "id", 1)
    cls = model_class("SASRec")
    recbole = recbole_config(cls, "shop", model_settings(setup))
    torch.manual_seed(1)
    model: Any = cls(recbole, ItemsOnly(recbole, items + 1, None))
    folder.mkdir(parents=True)
    save_weights(model, folder / "model.safetensors", None)
    trained = sum(weights.numel() for weights in model.parameters())
    result = {
        "schema": 1,
        "variant": "id",
        "seed": 1,
        "model": "SASRec",
        "items": "id",
        "control": None,
        "transforms": [],
        "dataset": "shop",
        "selection": None,
        "epochs": 0,
        "train_seconds": 0.0,
        "wall_seconds": 0.0,
        "encoder": None,
        "store": None,
        "store_sha256": None,
        "parameters": {"trained": trained, "frozen": 0},
        "weights": {},
        "hashes": {"config": hash_of(setup)},
        "setup": setup,
        "notes": [],
    }
    (folder / "result.json").write_text(json.dumps(result), "utf-8")
    (folder / "items.json").write_text(json.dumps(["[PAD]", *(f"i{n}" for n in range(items))]), "utf-8")
    np.save(folder / "item_counts.npy", np.arange(items + 1, dtype=np.int64)[::-1].copy())
    return folder


def write_events(path: Path, users: int, items: int, events: int) -> Path:
    """Write events in random order: at least three per user, Zipf-distributed popularity of items."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    random = np.random.default_rng(0)
    busy = (users * random.random(events - 3 * users) ** 2).astype(np.int32)
    user = random.permutation(np.concatenate([np.repeat(np.arange(users, dtype=np.int32), 3), busy]))
    share = np.cumsum(1 / np.arange(1, items + 1))
    with pyarrow.parquet.ParquetWriter(path, _schema()) as writer:
        for begin in range(0, events, 1 << 20):
            some = user[begin : begin + (1 << 20)]
            item = np.searchsorted(share / share[-1], random.random(len(some)))
            at = random.integers(1_400_000_000, 1_600_000_000, len(some))
            columns = [[f"u{n}" for n in some.tolist()], [f"i{n}" for n in item.tolist()], at]
            writer.write_table(pyarrow.table(columns, schema=_schema()))
    return path


def _schema() -> Any:
    import pyarrow

    fields = [("user_id", pyarrow.string()), ("item_id", pyarrow.string()), ("timestamp", pyarrow.int64())]
    return pyarrow.schema(fields)


def recommend(run: Path, events: Path, out: Path, k: int) -> dict[str, Any]:
    """Run one round: return what was written, the seconds and the peak memory."""
    import blair_rec

    before, begin = peak_mib(), time.perf_counter()
    blair_rec.load  # noqa: B018  (imports torch and RecBole, which is not measured)
    imported = time.perf_counter() - begin
    begin, processor = time.perf_counter(), time.process_time()
    served = blair_rec.recommend_file(run, out, histories=events, k=k)
    seconds = time.perf_counter() - begin
    cpu = time.process_time() - processor
    found = {"users": served.users, "rows": served.rows, "seconds": seconds, "cpu_seconds": cpu}
    return {**found, "import_seconds": imported, "peak_mib": peak_mib(), "before_mib": before}


def agreement(run: Path, events: Path, out: Path, k: int) -> float:
    """Return the share of checked users whose items are the best by float64 products; ties may be in any order."""
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet

    import blair_rec

    chosen = [f"u{n}" for n in range(CHECKED)]
    keep = pc.field("user_id").isin(chosen)
    history: dict[str, list[tuple[int, str]]] = {}
    for row in pyarrow.parquet.read_table(events, filters=keep).to_pylist():
        history.setdefault(row["user_id"], []).append((row["timestamp"], row["item_id"]))
    best: dict[str, list[str]] = {}
    for row in pyarrow.parquet.read_table(out, filters=keep).to_pylist():
        best.setdefault(row["user_id"], []).append(row["item_id"])
    model = blair_rec.load(run)
    histories = [[item for _, item in sorted(history[user], key=lambda pair: pair[0])] for user in history]
    scores = model.user_vectors(histories).astype(np.float64) @ model.item_vectors().astype(np.float64).T
    right = 0
    for row, (user, seen) in zip(scores, zip(history, histories, strict=True), strict=True):
        place = {token: at for at, token in enumerate(model.item_tokens)}
        row[[place[token] for token in seen]] = -np.inf
        ours = row[[place[token] for token in best[user]]]
        right += len(set(best[user])) == k and np.allclose(ours, np.sort(row)[::-1][:k], rtol=1e-5, atol=1e-5)
    return right / len(history)


def to_page(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace, agree: float) -> list[str]:
    """Return the record as lines of Markdown."""
    of = runs["recommend"]
    seconds, cpu, peak = middle(of, "seconds"), middle(of, "cpu_seconds"), max(run["peak_mib"] for run in of)
    return [
        f"# Batch recommendations: {options.users:,} users, {options.items:,} items, the best {options.k}",
        "",
        f"SASRec in the sizes of configs/beauty.yaml (width {SIZES['hidden_size']}, window of 50); "
        f"{options.events:,} events in random order, from Parquet to Parquet; median of {options.rounds} rounds.",
        "",
        "| users per second | seconds, including loading, reading and writing | CPU seconds, all threads | users per "
        "CPU second | peak MiB of the process | exact |",
        "|---|---|---|---|---|---|",
        f"| {options.users / seconds:,.0f} | {seconds:,.1f} | {cpu:,.1f} | {options.users / cpu:,.0f} | {peak:,.0f} | "
        f"{agree:.1%} of {CHECKED} users |",
    ]


def main() -> None:
    """Measure and write the record, or be one round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=22_363)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--events", type=int, help="number of events (default: 8.88 per user, as on Beauty)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line
    if options.folder:
        run, events, out = (options.folder / name for name in ("run", "events.parquet", "best.parquet"))
        print(json.dumps(recommend(run, events, out, options.k)))
        return
    options.events = options.events or int(8.88 * options.users)
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder) / "run", options.items)
        events = write_events(Path(folder) / "events.parquet", options.users, options.items, options.events)
        command = [str(Path(__file__).resolve()), "-k", str(options.k), "--folder", folder]
        runs = in_turn({"recommend": command}, options.rounds, folder)
        agree = agreement(run, events, Path(folder) / "best.parquet", options.k)
    settings = {name: value for name, value in vars(options).items() if name != "folder"}
    name = f"recommend-{options.users}-users-{options.items}-items"
    write_record(name, {**settings, "exact": agree}, runs, to_page(runs, options, agree))


if __name__ == "__main__":
    main()
