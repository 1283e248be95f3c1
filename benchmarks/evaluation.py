"""Full ranking of a test split: RecBole's evaluator and ours, with the same SASRec on the same synthetic log.

    python benchmarks/evaluation.py [--users 20000] [--items 100000] [--rounds 3] [--recbole-batch 4096]

The log has ten events per user, or one per item if that is more. The model has RecBole's default sizes and its initial
weights, which do not matter for speed. Only the evaluation of the test split is measured: seconds, and peak memory
above what the process held with data and model. RecBole's evaluator gives NDCG@10 and Recall@10; ours gives the ranks,
masked and unmasked, from which both metrics follow. Both run in turn in separate processes, several times; medians
are recorded in benchmarks/results/evaluation.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import COLUMNS, in_turn, measured, middle, write_record, write_zipf_log

PEERS = {"recbole": "RecBole's evaluator", "ours": "ours, counts", "ours-top20": "ours, counts and the top 20"}
METRICS = ["NDCG@10", "Recall@10"]


def evaluate(peer: str, data: str, batch: int) -> None:
    """Run one evaluator; this runs as a separate process."""
    import blair_rec.recbole  # noqa: F401
    from blair_rec.border.settings import recbole_config
    from blair_rec.data.dataset import TextSequentialDataset
    from blair_rec.evaluate.metrics import metric_values
    from blair_rec.models.text_models import model_class
    from blair_rec.ranking.scoring import rank
    from blair_rec.training.epochs import seed_everything

    from recbole.data.dataloader import FullSortEvalDataLoader
    from recbole.trainer import Trainer

    settings = {"metrics": ["NDCG", "Recall"], "topk": [10], "valid_metric": "NDCG@10", "metric_decimal_place": 9}
    settings |= {"MAX_ITEM_LIST_LENGTH": 50, "eval_batch_size": batch}
    config = recbole_config(model_class("SASRec"), data, {**COLUMNS, **settings})
    train, _, test = TextSequentialDataset(config).build()
    seed_everything(1)
    model = model_class("SASRec")(config, train).eval()

    def with_recbole() -> dict[str, float]:
        result = Trainer(config, model).evaluate(FullSortEvalDataLoader(config, test, None), load_best_model=False)
        return {name: float(result[name.lower()]) for name in METRICS}

    def with_ours() -> dict[str, float]:
        ranks = rank(model, test, batch, k=20 if peer == "ours-top20" else 0)
        return metric_values(METRICS, ranks.higher_unmasked, ranks.equal_unmasked)

    measured(with_recbole if peer == "recbole" else with_ours, users=len(test), items=test.item_num - 1)


def to_page(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> list[str]:
    """Return the record as lines of Markdown."""
    first = runs["recbole"][0]
    lines = [
        f"# Full ranking: {first['users']:,} test cases against {first['items']:,} items",
        "",
        f"SASRec (2 layers, width 64, window of 50), median of {options.rounds} runs in turn; memory is the peak above "
        f"what the process held before it began. RecBole scores {options.recbole_batch} cases at once, ours "
        f"{options.batch}.",
        "",
        "| | seconds | times as fast | peak MiB | share of memory | NDCG@10 |",
        "|---|---|---|---|---|---|",
    ]
    base = {key: middle(runs["recbole"], key) for key in ("seconds", "peak_mib")}
    for peer, name in PEERS.items():
        seconds, peak = middle(runs[peer], "seconds"), middle(runs[peer], "peak_mib")
        ratios = f"{base['seconds'] / seconds:.1f} | {peak:,.0f} | {peak / base['peak_mib']:.3f}"
        lines.append(f"| {name} | {seconds:.2f} | {ratios} | {runs[peer][0]['NDCG@10']:.7f} |")
    return lines


def main() -> None:
    """Measure all peers in turn and write the record, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recbole-batch", type=int, default=4096, help="eval_batch_size; 4096 is RecBole's default")
    parser.add_argument("--batch", type=int, default=1024, help="cases that ours scores per batch")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        sys.argv = sys.argv[:1]  # RecBole reads the command line
        evaluate(options.peer, options.data, options.recbole_batch if options.peer == "recbole" else options.batch)
        return
    events = max(10 * options.users, 2 * options.items)
    with tempfile.TemporaryDirectory() as folder:
        data = write_zipf_log(Path(folder) / "zipf", options.users, options.items, events)
        sizes = ["--recbole-batch", str(options.recbole_batch), "--batch", str(options.batch)]
        command = [str(Path(__file__).resolve()), "--data", str(data), *sizes, "--peer"]
        runs = in_turn({peer: [*command, peer] for peer in PEERS}, options.rounds, folder)
    write_record("evaluation", {**vars(options), "events": events}, runs, to_page(runs, options))


if __name__ == "__main__":
    main()
