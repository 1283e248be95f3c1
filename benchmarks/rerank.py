"""Second stages with and without text over the finished runs of a comparison.

    python benchmarks/rerank.py RUNS MEMBERS [-o OUT] [--seeds 1,2,3] [--candidates 50] [--config FILE] [--name NAME]

RUNS is the folder of a comparison, MEMBERS names finished variants in it, such as id,text_delta,sequential_rules. RUNS
is copied to OUT (default: RUNS-rerank), where three variants join the members: `stage` (a second stage over all
members), `stage_no_text` (over those without text) and `stage_average` (their average). With --config the members are
run first, in OUT, as that comparison file says. Written to benchmarks/results/rerank-NAME.{json,md}, where NAME is the
data set: NDCG@10 of all three under both protocols; paired differences with intervals over users, and over seeds and
users, on every slice; pool recall on validation and test; the time from finished members to a ranked second stage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import write_record

STAGE, NO_TEXT, AVERAGE = "stage", "stage_no_text", "stage_average"
METRIC = "NDCG@10"
COMPARED = ((STAGE, NO_TEXT), (STAGE, AVERAGE))


def main() -> None:
    """Run the three variants, measure them and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of a comparison; with --config it need not exist")
    parser.add_argument("members", help="names of variants, separated by commas")
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--seeds", help="some of the seeds, separated by commas")
    parser.add_argument("--candidates", type=int)
    parser.add_argument("--config", type=Path, help="a comparison file, whose members are run first")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of --config")
    parser.add_argument("--name", help="part of the record's file name")
    options = parser.parse_args()
    members = options.members.split(",")
    out = options.out or options.runs.with_name(f"{options.runs.name}-rerank")
    seeds = tuple(map(int, options.seeds.split(","))) if options.seeds else None
    config = joined(options, members, out, seeds)
    compare_in(config, out)
    record = {"dataset": Path(config.dataset).name, "members": members, **measured(config, out, members)}
    settings = {"seeds": list(config.seeds), "candidates": record["stages"][STAGE]["candidates"]}
    name = options.name or record["dataset"]
    write_record(f"rerank-{name}", settings, record, to_page(name, record))


def joined(options: Any, members: list[str], out: Path, seeds: tuple[int, ...] | None) -> Any:
    """Return the comparison of the members and the three variants over them; the members' runs are copied to OUT."""
    from blair_rec.config.comparison import load_config
    from blair_rec.config.variant import VariantConfig

    if options.config is None:
        if not (options.runs / "config.yaml").is_file():
            sys.exit(f"{options.runs} is not the folder of a comparison; give one, or --config FILE")
        if not out.exists():
            shutil.copytree(options.runs, out)
    config = load_config(options.config or options.runs / "config.yaml", options.set)
    if missing := [name for name in members if name not in config.variants]:
        sys.exit(f"no variants of the comparison: {', '.join(missing)}")
    without = [name for name in members if not config.variants[name].uses_text]
    if len(without) < 2 or len(without) == len(members):
        sys.exit("name at least two members without text and one with text")
    top = {} if options.candidates is None else {"candidates": options.candidates}
    variants = {name: config.variants[name] for name in members}
    variants[AVERAGE] = VariantConfig(average=tuple(members))
    variants[STAGE] = VariantConfig(rerank=tuple(members), **top)
    variants[NO_TEXT] = VariantConfig(rerank=tuple(without), **top)
    return config.changed(variants=variants, baseline=AVERAGE, **({} if seeds is None else {"seeds": seeds}))


def compare_in(config: Any, out: Path) -> None:
    """Run what is not finished."""
    from blair_rec.experiment.compare import compare
    from blair_rec.experiment.listener import Job, Listener

    class Says(Listener):
        """A line for each run."""

        def finished(self, job: Job, value: float, seconds: float, settings: str = "") -> None:
            print(f"{job.name}: {value:.4f} on validation, {seconds:.0f} s", flush=True)

    compare(config, out, listener=Says(), accept_code=True)


def measured(config: Any, out: Path, members: list[str]) -> dict[str, Any]:
    """Return everything that the record says."""
    from blair_rec.evaluate.runs.results import for_every_seed, read_runs
    from blair_rec.evaluate.runs.run_files import PROTOCOLS

    runs: dict[str, list[Any]] = {}
    for run in for_every_seed(read_runs(out), config.seeds):
        if run.seed in config.seeds:
            runs.setdefault(run.variant, []).append(run)
    return {
        "values": {
            name: {
                protocol: float(np.mean([run.per_user(METRIC, protocol).mean() for run in of_variant]))
                for protocol in PROTOCOLS
            }
            for name, of_variant in runs.items()
            if name in (*members, STAGE, NO_TEXT, AVERAGE)
        },
        "validation": {
            name: {
                protocol: float(np.mean([run.valid[protocol][METRIC] for run in runs[name]])) for protocol in PROTOCOLS
            }
            for name in (STAGE, NO_TEXT, AVERAGE)
        },
        "seconds": {
            name: float(np.mean([run.wall_seconds for run in runs[name]])) for name in (STAGE, NO_TEXT, AVERAGE)
        },
        "stages": {name: stage_of(runs[name], config) for name in (STAGE, NO_TEXT)},
        "differences": {
            f"{one} - {other}": {protocol: differences_of(runs[one], runs[other], protocol) for protocol in PROTOCOLS}
            for one, other in COMPARED
        },
    }


def stage_of(runs: list[Any], config: Any) -> dict[str, Any]:
    """Return what the first seed's second stage recorded, and its pool recall on the test split."""
    first = runs[0]
    recorded: dict[str, Any] = json.loads((first.folder / "result.json").read_text("utf-8"))["rerank"]
    kept = ("candidates", "pool_size", "pool_recall", "trees", "leaves", "lightgbm")
    gains = sorted(zip(recorded["gains"], recorded["features"], strict=True), reverse=True)
    shares = {" ".join(name): gain for gain, name in gains}
    return {
        **{key: recorded[key] for key in kept},
        "test_pool_recall": recall_on_test(first.folder, config),
        "gains": shares,
    }


def recall_on_test(folder: Path, config: Any) -> float:
    """Return the share of test cases whose target is a candidate; outside the history if the protocol is masked."""
    import torch

    from blair_rec.experiment.loading import load_model
    from blair_rec.experiment.planning.data_files import data_folder
    from blair_rec.experiment.splits.reading import read_splits
    from blair_rec.ranking.rerank.fitting import collect

    data, test = read_splits(config, data_folder(config.dataset))
    stage: Any = load_model(folder, dataset=data.train).model
    with torch.no_grad(), stage.eval().shared_items():
        found = collect(stage, test, config.evaluate.batch_size)
    return found.recall(config.evaluate.protocol == "masked")


def differences_of(ours: list[Any], theirs: list[Any], protocol: str) -> list[dict[str, Any]]:
    """Return the paired difference on all cases and on each slice, corrected over all of these."""
    from blair_rec.evaluate.significance import PairedSample, corrected, differences
    from blair_rec.evaluate.slices import slices

    ranks = ours[0].ranks
    parts = [("all", np.ones(len(ranks.user), dtype=bool))]
    parts += [(part.name, part.cases) for part in slices(ranks) if part.cases.any()]
    values = [np.stack([run.per_user(METRIC, protocol) for run in side]) for side in (ours, theirs)]
    drawn = tuple(not side[0].seedless for side in (ours, theirs))
    found = []
    for _, cases in parts:
        pair = PairedSample(values[0][:, cases], values[1][:, cases], drawn)
        found += differences([pair], ranks.user[cases])
    rows = []
    for (name, cases), one in zip(parts, corrected(found), strict=True):
        means = [float(side[:, cases].mean()) for side in values]
        keys = ("relative", "ci95", "seeds_ci95", "p_adjusted", "verdict")
        rows.append(
            {"slice": name, "cases": int(cases.sum()), "means": means, **{key: getattr(one, key) for key in keys}}
        )
    return rows


def to_page(name: str, record: dict[str, Any]) -> list[str]:
    """Return the record as lines of Markdown."""
    page = [
        f"# {name}: a second stage over {', '.join(record['members'])}",
        "",
        f"{METRIC} on the test split, mean over seeds. Validation: held-out folds for second stages.",
        "",
        "| variant | masked | unmasked | validation, masked | validation, unmasked | seconds from finished members |",
        "|---|---|---|---|---|---|",
    ]
    for variant, values in record["values"].items():
        row = [f"{values[protocol]:.4f}" for protocol in ("masked", "unmasked")]
        if variant in record["validation"]:
            row += [f"{record['validation'][variant][protocol]:.4f}" for protocol in ("masked", "unmasked")]
            row += [f"{record['seconds'][variant]:.0f}"]
        page.append(f"| {variant} | " + " | ".join([*row, *[""] * (5 - len(row))]) + " |")
    page += [
        "",
        "| second stage | candidates of a member | of a case | pool recall, validation | test | trees |",
        "|---|---|---|---|---|---|",
    ]
    for variant, stage in record["stages"].items():
        recall = f"{stage['pool_recall']:.1%} | {stage['test_pool_recall']:.1%}"
        page.append(f"| {variant} | {stage['candidates']} | {stage['pool_size']:.0f} | {recall} | {stage['trees']} |")
    for pair, by_protocol in record["differences"].items():
        for protocol in ("masked", "unmasked"):
            page += [
                "",
                f"## {pair}, {protocol}",
                "95% intervals; p corrected over the slices.",
                "",
                "| slice | cases | "
                + " | ".join(pair.split(" - "))
                + " | difference | over users | over seeds and users "
                "| p | |",
                "|---|---|---|---|---|---|---|---|---|",
            ]
            page += [_row(row) for row in by_protocol[protocol]]
    return page


def _row(row: dict[str, Any]) -> str:
    means = " | ".join(f"{mean:.4f}" for mean in row["means"])
    relative = "" if row["relative"] is None else f"{row['relative']:+.1%}"
    intervals = ["" if row[key] is None else "[{:+.1%}, {:+.1%}]".format(*row[key]) for key in ("ci95", "seeds_ci95")]
    p = "" if row["p_adjusted"] is None else f"{row['p_adjusted']:.3g}"
    cells = [row["slice"], f"{row['cases']:,}", means, relative, *intervals, p, row["verdict"]]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
