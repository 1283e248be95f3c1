"""SASRec and eSASRec on one data set, each tuned with the same number of trials, then compared on three seeds.

    python benchmarks/backbones.py plan DATASET -o OUT [--store STORE] [--budget 8] [--set KEY=VALUE]
    blair-rec compare OUT/trials.yaml -o OUT/trials
    python benchmarks/backbones.py choose OUT [--set KEY=VALUE]
    blair-rec compare OUT/final.yaml -o OUT/final
    python benchmarks/backbones.py record OUT

Both comparisons can be split with `--shard I/N`, and both resume. `plan` writes a comparison in which every variant is
one trial: the same settings for both models, on IDs and, with STORE (a store of the items' text vectors), with text.
`choose` keeps the settings of each model that are best on validation; it doesn't read the test split. `record` writes
benchmarks/results/backbones-NAME.{json,md}. The sizes are those of configs/beauty.yaml. `--set` of `plan` changes both
comparisons, that of `choose` the final one: `plan --set train.epochs=10` and `choose --set train.epochs=50` make short
trials and whole final trainings.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from side_by_side import write_record

from blair_rec.errors import counted

MODELS = {"sasrec": "SASRec", "esasrec": "eSASRec"}
GRID: dict[str, tuple[Any, ...]] = {
    "learning_rate": (0.001, 0.0005),
    "temperature": (None, 0.1),
    "hidden_dropout_prob": (0.5, 0.2),
    "initializer_range": (0.02, 0.1),
}
"""Values tried for both models. eSASRec's authors start from larger weights than RecBole's 0.02."""
TEXT: dict[str, Any] = {"items": "text_delta", "transforms": ["center"], "max_delta": 1.0}
TEXT_TEMPERATURES = (0.07, 0.1)
"""In place of GRID's temperatures: a model with text scores by cosine."""
TUNING_SEED, SEEDS = 0, [1, 2, 3]
SHARED: dict[str, Any] = {
    "recbole": {"MAX_ITEM_LIST_LENGTH": 50, "hidden_size": 128, "inner_size": 256, "attn_dropout_prob": 0.2},
    "train": {"epochs": 50, "patience": 5, "batch_size": 2048, "precision": "bfloat16"},
    "evaluate": {"protocol": "masked", "metrics": ["NDCG@10", "Recall@10"]},
}


ROW = ("variant", "model", "seeds", "trials", "test_evaluations", "train_seconds", "epochs", "config_sha256")
"""Fields of a leaderboard's row that the record keeps."""


def plan(dataset: str, store: str | None, budget: int) -> dict[str, Any]:
    """Return the comparison of all trials; trial T of every model and item side has the T-th settings of the grid."""
    grid = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    if not 1 <= budget <= len(grid):
        sys.exit(f"--budget is {budget}; the grid has {len(grid)} settings")
    tried = random.Random(TUNING_SEED).sample(grid, budget)
    variants = {
        f"{model}_{kind}_{number}": variant(MODELS[model], kind, settings)
        for model in MODELS
        for kind in (("id",) if store is None else ("id", "text"))
        for number, settings in enumerate(tried, 1)
    }
    text = {"missing_text": "mean"} if store is None else {"missing_text": "mean", "store": str(Path(store).resolve())}
    return {
        "dataset": str(Path(dataset).resolve()),
        "text": text,
        **SHARED,
        "variants": variants,
        "baseline": next(iter(variants)),
        "seeds": [TUNING_SEED],
    }


def variant(model: str, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the variant of one trial."""
    temperature = settings["temperature"]
    if kind == "text":
        temperature = TEXT_TEMPERATURES[GRID["temperature"].index(temperature)]
    return {
        **({"items": "id"} if kind == "id" else TEXT),
        "model": model,
        "train": {"learning_rate": settings["learning_rate"], "temperature": temperature},
        "recbole": {key: settings[key] for key in ("hidden_dropout_prob", "initializer_range")},
    }


def choose(out: Path) -> dict[str, Any]:
    """Return the final comparison: for each model and item side the trial that is best on validation.

    It exits if a trial is not finished.
    """
    comparison = read(out / "trials.yaml")
    values = trial_values(comparison, out)
    if lacking := sorted(set(comparison["variants"]) - set(values)):
        sys.exit(f"{out / 'trials'} lacks {counted(len(lacking), 'trial')}: {', '.join(lacking)}; finish it first")
    groups: dict[str, list[str]] = {}
    for name in comparison["variants"]:
        groups.setdefault(name.rpartition("_")[0], []).append(name)
    chosen = {
        group: {**comparison["variants"][max(names, key=values.__getitem__)], "trials": len(names)}
        for group, names in groups.items()
    }
    return comparison | {"variants": chosen, "baseline": next(iter(chosen)), "seeds": SEEDS}


def finished(comparison: dict[str, Any], folder: Path) -> list[Any]:
    """Return the finished runs that a comparison plans."""
    from blair_rec.evaluate.runs.results import read_runs, run_name

    planned = {run_name(variant, seed) for variant in comparison["variants"] for seed in comparison["seeds"]}
    return read_runs(folder, planned)


def trial_values(comparison: dict[str, Any], out: Path) -> dict[str, float]:
    """Return the best validation value of every finished trial, by name."""
    return {run.variant: run.selection.value for run in finished(comparison, out / "trials")}


def read(path: Path) -> dict[str, Any]:
    """Return a comparison that `write` has written."""
    found: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return found


def write(path: Path, comparison: dict[str, Any], changed: Sequence[str] = ()) -> None:
    """Write a comparison with changed keys, and check that it can be read."""
    from blair_rec.config.comparison import read_config
    from blair_rec.config.yaml.files import load_yaml

    path.write_text(yaml.safe_dump(comparison, sort_keys=False), encoding="utf-8")
    if changed:
        comparison = load_yaml(path, changed)
        path.write_text(yaml.safe_dump(comparison, sort_keys=False), encoding="utf-8")
    found = read_config(comparison, str(path))
    sizes = f"{counted(len(found.variants), 'variant')}, {counted(len(found.seeds), 'seed')}"
    print(f"wrote {path}: {sizes}; run blair-rec compare {path}")


def results(final: dict[str, Any], out: Path) -> dict[str, Any]:
    """Return the leaderboard of each item side as JSON's types: eSASRec with SASRec on the same items as baseline."""
    from blair_rec.evaluate.leaderboard import build_leaderboard

    runs, boards = finished(final, out / "final"), {}
    for kind in dict.fromkeys(name.partition("_")[2] for name in final["variants"]):
        own = [run for run in runs if run.variant.partition("_")[2] == kind]
        board = build_leaderboard(own, f"sasrec_{kind}", final["evaluate"]["metrics"], final["evaluate"]["protocol"])
        rows = [{name: getattr(row, name) for name in ROW} | summaries(row) | text_of(row) for row in board.rows]
        boards[kind] = {"rows": rows, "provenance": dict(board.provenance)}
    return boards


def summaries(row: Any) -> dict[str, Any]:
    """Return the metrics of a row, masked, and its number of trained parameters."""
    found = {name: dataclasses.asdict(summary) for name, summary in row.metrics["masked"].items()}
    return {"metrics": found, "trained_parameters": row.parameters.trained}


def text_of(row: Any) -> dict[str, Any]:
    """Return the encoder and the hash of the vectors of a row with text."""
    return {} if row.encoder is None else {"encoder": dataclasses.asdict(row.encoder), "store_sha256": row.store_sha256}


def to_page(name: str, final: dict[str, Any], boards: dict[str, Any], trial_epochs: int) -> list[str]:
    """Return the record as lines of Markdown."""
    trials = sorted({row["trials"] for board in boards.values() for row in board["rows"]})
    first, *others = final["evaluate"]["metrics"]
    page = [
        f"# {name}: SASRec and eSASRec, {' or '.join(map(str, trials))} trials each",
        "",
        f"History masked, mean over {counted(len(final['seeds']), 'seed')} ± their standard deviation. Both models "
        f"tried the same settings, at most {counted(trial_epochs, 'epoch')} each; those that were best on validation "
        f"(seed {TUNING_SEED}) are used, for at most {counted(final['train']['epochs'], 'epoch')}. Sizes, loss and "
        "budget are the same for both. Intervals and p-values are over seeds and users.",
        "",
        f"| variant | model | {first} | vs SASRec | {' | '.join(others)} "
        "| parameters | epochs | training (s) | settings |",
        f"|---|---|---:|---:|{'---:|' * len(others)}---:|---:|---:|---|",
    ]
    for board in boards.values():
        for row in board["rows"]:
            own = final["variants"][row["variant"]]
            cells = [
                row["variant"],
                row["model"],
                _value(row["metrics"][first]),
                _difference(row["metrics"][first]["versus_baseline"]),
                *(_value(row["metrics"][metric]) for metric in others),
                f"{row['trained_parameters']:,}",
                f"{row['epochs']:.0f}",
                f"{row['train_seconds']:.0f}",
                ", ".join(f"{key} {value}" for key, value in {**own["train"], **own["recbole"]}.items()),
            ]
            page.append(f"| {' | '.join(cells)} |")
    made = next(iter(boards.values()))["provenance"]
    parts = [f"Trained on {made['device']}; code {made['code']}, data {made['data_sha256'][:12]}"]
    used = {(row["encoder"]["name"], row["encoder"]["revision"], row["store_sha256"]) for row in rows_with_text(boards)}
    parts += [f"texts by {name} ({revision}), vectors {store[:12]}" for name, revision, store in sorted(used)]
    return [*page, "", "; ".join(parts) + "."]


def rows_with_text(boards: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of all boards that have an encoder."""
    return [row for board in boards.values() for row in board["rows"] if "encoder" in row]


def _value(summary: dict[str, Any]) -> str:
    return f"{summary['mean']:.4f}" + ("" if summary["std"] is None else f" ± {summary['std']:.4f}")


def _difference(versus: dict[str, Any] | None) -> str:
    if versus is None:
        return "baseline"
    low, high = versus["seeds_ci95"] or (None, None)
    between = "" if low is None else f" [{low:+.1%}, {high:+.1%}], p = {versus['p_adjusted']:.3f}"
    return f"{versus['relative']:+.1%}{between}: {versus['verdict']}"


def main() -> None:
    """Do one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    planned = steps.add_parser("plan", help="write OUT/trials.yaml")
    planned.add_argument("dataset", help="a folder of atomic files, such as Beauty")
    planned.add_argument("-o", "--out", type=Path, required=True)
    planned.add_argument("--store", help="a store of the items' text vectors; without it, only IDs are compared")
    planned.add_argument("--budget", type=int, default=8, help="trials of each model and item side (at most 16)")
    chosen = steps.add_parser("choose", help="write OUT/final.yaml")
    chosen.add_argument("out", type=Path)
    for step in (planned, chosen):
        step.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for blair-rec compare")
    steps.add_parser("record", help="write the record of OUT/final").add_argument("out", type=Path)
    options = parser.parse_args()
    out: Path = options.out
    if options.step == "record":
        final = read(out / "final.yaml")
        name, boards = Path(final["dataset"]).name, results(final, out)
        tried = read(out / "trials.yaml")
        trials, trial_epochs = trial_values(tried, out), tried["train"]["epochs"]
        settings = {key: value for key, value in final.items() if key not in ("dataset", "text")}  # no paths of here
        figures = {"trial_epochs": trial_epochs, "trials": trials, **boards}
        write_record(f"backbones-{name}", settings, figures, to_page(name, final, boards, trial_epochs))
        return
    out.mkdir(parents=True, exist_ok=True)
    if options.step == "plan":
        write(out / "trials.yaml", plan(options.dataset, options.store, options.budget), options.set)
    else:
        write(out / "final.yaml", choose(out), options.set)


if __name__ == "__main__":
    main()
