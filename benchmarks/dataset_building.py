"""Time and memory to build the data set and its loaders from a log: RecBole's SequentialDataset against ours.

    python benchmarks/dataset_building.py [--users 100000] [--items 50000] [--events 1000000] [--rounds 3]

The log is synthetic, with Zipf-distributed popularity of items. Everything from the file to the input of training and
evaluation is measured, in three ways: RecBole's data set and its three loaders; ours as a comparison builds it (splits
and training sequences; validation and test need no loaders); and ours with RecBole's `data_preparation`, samplers and
loaders, as run_recbole builds it. Reported are seconds, and peak memory above the imports, whose memory is reported
too. The ways run in turn in separate processes, several times; medians are recorded in
benchmarks/results/dataset_building.{json,md}, or under the name of --record.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import COLUMNS, in_turn, measured, middle, write_record, write_zipf_log

PEERS = {
    "recbole": "RecBole: SequentialDataset and loaders",
    "ours": "ours: splits and training sequences",
    "plugin": "ours, with RecBole's loaders",
}


def build(peer: str, data: str) -> None:
    """Run one way; this runs as a separate process."""
    import blair_rec.recbole  # noqa: F401
    from blair_rec.border.settings import recbole_config
    from blair_rec.data.dataset import TextSequentialDataset
    from blair_rec.data.sequences import training_sequences

    from recbole.data.dataset import SequentialDataset
    from recbole.data.utils import data_preparation

    config = recbole_config("SASRec", data, {**COLUMNS, "MAX_ITEM_LIST_LENGTH": 50})
    held: list[Any] = []  # until the memory is read

    def with_loaders(dataset_class: type) -> dict[str, Any]:
        held.extend(data_preparation(config, dataset_class(config)))
        return {"cases": [len(loader._dataset) for loader in held]}

    def with_sequences() -> dict[str, Any]:
        held.extend(TextSequentialDataset(config).build())
        cases = [len(split) for split in held]
        held.append(training_sequences(held[0]))
        return {"cases": cases}

    jobs = {
        "recbole": lambda: with_loaders(SequentialDataset),
        "plugin": lambda: with_loaders(TextSequentialDataset),
        "ours": with_sequences,
    }
    measured(jobs[peer])


def to_page(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> list[str]:
    """Return the record as lines of Markdown."""
    base = {key: middle(runs["recbole"], key) for key in ("seconds", "peak_mib")}
    lines = [
        f"# Building the data set: {options.events:,} events, {options.users:,} users, {options.items:,} items",
        "",
        f"From the .inter file to splits and loaders, window of 50, median of {options.rounds} runs in turn; memory is "
        f"the peak above the imports, which take {middle(runs['recbole'], 'before_mib'):,.0f} MiB in all of them.",
        "",
        "| | seconds | times as fast | peak MiB | share of memory |",
        "|---|---|---|---|---|",
    ]
    for peer, name in PEERS.items():
        seconds, peak = middle(runs[peer], "seconds"), middle(runs[peer], "peak_mib")
        ratios = f"{base['seconds'] / seconds:.1f} | {peak:,.0f} | {peak / base['peak_mib']:.3f}"
        lines.append(f"| {name} | {seconds:.2f} | {ratios} |")
    return lines


def main() -> None:
    """Measure all peers in turn and write the record, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", default="dataset_building", metavar="NAME")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        sys.argv = sys.argv[:1]  # RecBole reads the command line
        build(options.peer, options.data)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = write_zipf_log(Path(folder) / "zipf", options.users, options.items, options.events)
        command = [str(Path(__file__).resolve()), "--data", str(data), "--peer"]
        runs = in_turn({peer: [*command, peer] for peer in PEERS}, options.rounds, folder)
    cases = {peer: found[0]["cases"] for peer, found in runs.items()}
    if len({tuple(counts) for counts in cases.values()}) > 1:
        sys.exit(f"the data sets have different cases: {cases}")
    write_record(options.record, vars(options), runs, to_page(runs, options))


if __name__ == "__main__":
    main()
