"""The loss of accuracy by a truncated SVD of sequential rules, on the validation split; no test split is read.

    BLAIR_REC_DATA=DIR python benchmarks/rules_svd.py [--data Beauty] [--store STORE] [--cases 1500] [--others 6000]

`export_vectors(..., rules_rank=R)` writes rules between items as vectors. For each rank: NDCG@10 of sequential_rules
alone and in an average with recent_history, and the share of the ten best items by the exact rules (without the
history) that are among the 10 and the 100 best by the vectors. Weights of the average are chosen with the exact rules
on `--cases` cases, drawn at random, for each protocol; everything is measured on `--others` other ones. An SVD of the
table as it is (balance 0) is measured, too. Seconds are CPU seconds. STORE holds text vectors; without it they are made
by all-MiniLM-L6-v2. Written to benchmarks/results/rules_svd-DATA.{json,md}.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scorers import NEAR, PROTOCOLS, RULES, Bench
from side_by_side import write_record

RANKS = (32, 64, 128, 256, 512)
BEST, CANDIDATES, COMPARED = 10, 100, 2000
"""Items of a list, items that an index may give to be ordered by exact scores, and cases whose lists are compared."""


def best_lists(model: Any, split: Any) -> np.ndarray:
    """Return the best items of the first cases of a split, without those of the history: [cases, CANDIDATES]."""
    from blair_rec.ranking.best import best_columns

    found = []
    for cases in torch.arange(min(COMPARED, len(split))).split(256):
        interaction = split[cases].to(model.device)
        scores = model.full_sort_predict(interaction).float()
        scores[:, 0] = -torch.inf
        scores.scatter_(1, interaction[model.ITEM_SEQ], -torch.inf)
        found.append(best_columns(scores, min(CANDIDATES, scores.shape[1]))[0].cpu().numpy())
    return np.concatenate(found)


def row_of(bench: Bench, near: Any, rules: Any, weights: dict[str, list[float]], exact: dict[str, Any]) -> Any:
    """Return NDCG@10 of rules alone and of the averages, and what their lists share with the exact ones.

    `exact` has the exact lists; empty lists are filled in.
    """
    from blair_rec.ranking.ensemble import Ensemble
    from blair_rec.serve.export.approximation import overlap

    alone = bench.ndcg(rules, bench.others)
    row: dict[str, Any] = {"alone": {protocol: float(alone[protocol].mean()) for protocol in PROTOCOLS}, "average": {}}
    scorers = {"alone": rules}
    for protocol in PROTOCOLS:
        scorers[protocol] = Ensemble([near, rules], weights[protocol])
        row["average"][protocol] = float(bench.ndcg(scorers[protocol], bench.others)[protocol].mean())
    lists = {name: best_lists(scorer, bench.others) for name, scorer in scorers.items()}
    for key, most in (("overlap", BEST), ("found", CANDIDATES)):
        row[key] = {
            name: overlap(exact.setdefault(name, lists[name])[:, :BEST], found[:, :most])
            for name, found in lists.items()
        }
    return row


def measured(bench: Bench, options: dict[str, float]) -> dict[str, Any]:
    """Return the record of sequential rules with these options."""
    from blair_rec.serve.export.factored import BALANCE, factored

    near, rules = bench.fitted(NEAR, {}), bench.fitted(RULES, options)
    weights = {protocol: bench.averaged([near, rules], protocol)[0] for protocol in PROTOCOLS}
    lists: dict[str, Any] = {}
    exact = row_of(bench, near, rules, weights, lists)
    print("exact", weights, exact, flush=True)
    rows = []
    for balance in (BALANCE, 0.0):
        for rank in (rank for rank in RANKS if rank < rules.n_items):
            begin = time.process_time()
            made, kept = factored(rules, rank, balance)
            seconds = time.process_time() - begin
            mib = (made.sources.numel() + made.targets.numel()) * 4 / 2**20
            row = row_of(bench, near, made, weights, lists)
            rows.append({"balance": balance, "rank": rank, "kept": kept, "seconds": seconds, "mib": mib, **row})
            print(rows[-1], flush=True)
    return {"options": options, "rules": rules.transitions.numel(), "weights": weights, "exact": exact, "ranks": rows}


def to_page(settings: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Return the record as lines of Markdown."""
    exact, weights = record["exact"], record["weights"]
    shares = " and ".join(
        f"{', '.join(f'{weight:.2g}' for weight in weights[protocol])} ({protocol})" for protocol in PROTOCOLS
    )
    page = [
        f"# Sequential rules as vectors on {settings['data']}, validation",
        "",
        f"NDCG@10 of {settings['others']:,} validation cases, and in brackets the share of the figure with the exact "
        f"rules; the test split was not read. {settings['items']:,} items, {record['rules']:,} rules"
        f"{', ' + str(record['options']) if record['options'] else ''}. The average is that of recent_history and "
        f"sequential_rules, with weights {shares}, chosen with the exact rules on {settings['cases']:,} other cases. "
        "Norm: the share of the table's squared norm that the vectors keep. In 10, in 100: the share of the ten best "
        "items by the exact rules that are among the 10 and the 100 best by vectors, of the rules alone and of the "
        f"averages with the masked and the unmasked weights ({settings['compared']:,} cases, history masked). MiB: "
        "vectors of items and of histories' items. CPU seconds of the SVD.",
    ]
    for balance in sorted({row["balance"] for row in record["ranks"]}, reverse=True):
        title = f"Table divided by sums ^ {balance:g}, as it is exported" if balance else "Table as it is"
        page += [
            "",
            f"## {title}",
            "",
            "| rank | norm | rules, masked | unmasked | average, masked | unmasked | in 10 | in 100 | MiB | s |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for row in ({"rank": "exact", **exact}, *(row for row in record["ranks"] if row["balance"] == balance)):
            cells = [str(row["rank"]), f"{row['kept']:.3f}" if "kept" in row else ""]
            for kind in ("alone", "average"):
                for protocol in PROTOCOLS:
                    value = row[kind][protocol]
                    share = f" ({100 * value / exact[kind][protocol]:.0f}%)" if "kept" in row else ""
                    cells.append(f"{value:.4f}{share}")
            for key in ("overlap", "found"):
                cells.append(", ".join(f"{row[key][name]:.2f}" for name in ("alone", *PROTOCOLS)))
            cells += [f"{row['mib']:.0f}", f"{row['seconds']:.0f}"] if "kept" in row else ["", ""]
            page.append(f"| {' | '.join(cells)} |")
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every rank, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="Beauty", help="a data set in the folder BLAIR_REC_DATA")
    parser.add_argument("--store", type=Path, help="text vectors of its items")
    parser.add_argument("--cases", type=int, default=1500, help="validation cases that choose the average's weights")
    parser.add_argument("--others", type=int, default=6000, help="validation cases that are measured")
    parser.add_argument("--source-power", type=float, default=0, help="source_power of sequential_rules")
    parser.add_argument("--seed", type=int, default=1, help="seed of the drawn cases")
    given = parser.parse_args(arguments)
    options = {"source_power": given.source_power} if given.source_power else {}
    from scorers import LEFT_OUT

    from blair_rec.registry import trusting

    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), trusting(LEFT_OUT.values()):
        bench = Bench(given.data, given.store, given.cases, given.others, given.seed, Path(folder))
        settings = {
            "data": given.data,
            "cases": len(bench.some),
            "others": len(bench.others),
            "seed": given.seed,
            "compared": min(COMPARED, len(bench.others)),
            "items": len(bench.data.item_tokens) - 1,
        }
        record = measured(bench, options)
    write_record(f"rules_svd-{given.data}", settings, record, to_page(settings, record))


if __name__ == "__main__":
    main()
