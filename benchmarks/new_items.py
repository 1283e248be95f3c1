"""New items, in two ways: 5% of the items hidden, and a cut-off split whose later items are the new ones.

    python benchmarks/new_items.py DATASET -o RUNS [--epochs 50] [--seeds 1,2,3] [--ways hidden,cutoff] [--set K=VALUE]

DATASET is a folder of atomic files with epoch seconds and titles, such as BeautyDated. Settings are those of
configs/new-items.yaml. RUNS/hidden and RUNS/cutoff are comparisons: an interrupted benchmark resumes.
Written to benchmarks/results/new_items-NAME.{json,md}, unless `--epochs` asks for fewer than the config does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from side_by_side import write_record

CONFIG = Path(__file__).parent.parent / "configs" / "new-items.yaml"
WAYS = {
    "hidden": ["evaluate.new_items=0.05"],
    "cutoff": ["evaluate.new_items=after_cutoff", "split={valid_from: '2014-03-01', test_from: '2014-05-01'}"],
}
"""The settings of each way. The dates leave about a tenth of Beauty's events for validation and a tenth for testing."""
TITLES = {
    "hidden": "5% of the items hidden, leave-one-out",
    "cutoff": "Cut-off times 2014-03-01 and 2014-05-01, items without an event before the first one",
}


def compared(way: str, dataset: str, out: Path, settings: list[str]) -> dict[str, Any]:
    """Run one way, and what its leaderboard.json says."""
    from blair_rec.config.comparison import load_config
    from blair_rec.experiment.compare import compare
    from blair_rec.experiment.listener import Job, Listener

    class Says(Listener):
        """A line for each run."""

        def finished(self, job: Job, value: float, seconds: float, settings: str = "") -> None:
            print(f"{way} {job.name}: {value:.4f} on validation, {seconds:.0f} s", flush=True)

    begin = time.perf_counter()
    compare(load_config(CONFIG, [f"dataset={dataset}", *WAYS[way], *settings]), out / way, listener=Says())
    board: dict[str, Any] = json.loads((out / way / "leaderboard.json").read_text("utf-8"))
    kept = ("new_items", "notes", "provenance", "users", "cases", "candidates", "rows")
    of_row = ("variant", "seeds", "train_seconds", "epochs", "metrics")
    rows = [{key: row[key] for key in of_row} for row in board["rows"]]
    return {**{key: board[key] for key in kept}, "rows": rows, "seconds_of_this_sitting": time.perf_counter() - begin}


def to_page(name: str, found: dict[str, dict[str, Any]], settings: list[str]) -> list[str]:
    """The record as lines of Markdown."""
    page = [
        f"# {name}: items that training has not seen",
        "",
        "Histories masked, mean over test cases and seeds, ± the standard deviation over seeds. `new`: test cases "
        "whose target is a new item, among known and new items, and among the new ones alone. `known`: all other test "
        "cases, among known items. Settings: configs/new-items.yaml" + "".join(f", {one}" for one in settings) + ".",
    ]
    for way, board in found.items():
        new = board["new_items"]
        page += [
            "",
            f"## {TITLES[way]}",
            "",
            f"{new['items']:,} new items and {new['known']:,} known ones; {new['cases']:,} test cases of new items, "
            f"{new['left_out']:,} more without a known item before them left out; {board['cases']:,} of known items.",
            "",
            "| variant | new, among all: NDCG@10 | Recall@10 | new, among new: NDCG@10 | Recall@10 | known: NDCG@10 "
            "| Recall@10 |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for row in board["rows"]:
            of_new = new["rows"][row["variant"]]
            cells = ["can't score new items", "", "", ""]
            if of_new["why"] is None:
                parts = of_new["among_all"]["masked"], of_new["among_new"]
                cells = [_value(one) for part in parts for one in part.values()]
            cells += [_value(one) for one in row["metrics"]["masked"].values()]
            page.append(f"| {row['variant']} | {' | '.join(cells)} |")
        made = board["provenance"]
        versions = ", ".join(f"{package} {made[package]}" for package in ("recbole", "torch", "numpy", "python"))
        trained_on = f"Trained on {made['device']}; {versions}; code {made['code']}, data {made['data_sha256'][:12]}."
        chance = " | ".join(f"{one:.4f}" for one in new["by_chance"].values())
        page += [f"| (random order) | | | {chance} | | |", "", trained_on]
    return page


def _value(summary: dict[str, Any]) -> str:
    return f"{summary['mean']:.4f}" + ("" if summary["std"] is None else f" ± {summary['std']:.4f}")


def main() -> None:
    """Run both ways, and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a folder of atomic files with epoch seconds and titles, such as BeautyDated")
    parser.add_argument("-o", "--out", type=Path, required=True, help="where the two comparisons are kept")
    parser.add_argument("--epochs", type=int, help="fewer than the config's 50: to try it out, without a record")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"some of {', '.join(WAYS)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for blair-rec compare")
    options = parser.parse_args()
    ways = options.ways.split(",")
    if unknown := [way for way in ways if way not in WAYS]:
        sys.exit(f"unknown way: {', '.join(unknown)}; known: {', '.join(WAYS)}")
    epochs = [] if options.epochs is None else [f"train.epochs={options.epochs}"]
    settings = [f"seeds=[{options.seeds}]", *epochs, *options.set]
    found = {way: compared(way, options.dataset, options.out, settings) for way in ways}
    name = Path(options.dataset).name
    page = to_page(name, found, settings)
    if options.epochs is not None:
        print("\n".join(page))
    else:
        write_record(f"new_items-{name}", {"settings": settings, "ways": ways}, found, page)


if __name__ == "__main__":
    main()
