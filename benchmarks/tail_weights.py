"""Separate weights for tail items in an average: an ablation on validation alone.

    python benchmarks/tail_weights.py RUNS [--average all] [--seed 1] [--tail 0,0.5,1,2]

RUNS is the folder of a finished comparison. Its average has one weight per member. Here items with at most 5 training
events have separate weights, and a shift towards or away from all of them: any ensemble of these members that treats
tail items equally. The weights are fitted by hill climbing on every second case of the validation split and measured
on the others, and the other way round. The objective is NDCG@10 over all cases plus TAIL times NDCG@10 over those
whose target is a tail item. Written to benchmarks/results/tail_weights-DATASET.{json,md}.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import write_record
from torch import Tensor

TAIL = 5
"""The most training events of a tail item."""
K = 10
STEPS = (0.2, 0.1, 0.05, 0.025)
SHIFTED = 3
"""Step of a shift in steps of a weight: it is added to a sum of weighted z-scores."""
BATCH = 256
LOWEST = -1e30


@dataclass
class Cases:
    """The validation split scored by the members, with G = 2 groups of items: tail and others."""

    scores: list[Tensor]
    """By member, [B, N] z-scores; LOWEST where an item is not a candidate."""
    target: Tensor
    """[B] int64."""
    missed: Tensor
    """[B] bool: the target is in the history."""
    group: Tensor
    """[N] int64: 0 for tail items."""

    def ndcg(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Return [R] of some cases, with weights [G, members + 1], of which the last one is the shift."""
        values = []
        by_item = weights[self.group].T.contiguous()
        for some in rows.split(BATCH):
            mixed = by_item[-1].repeat(len(some), 1)
            for scores, weight in zip(self.scores, by_item[:-1], strict=True):
                mixed.addcmul_(scores[some], weight.expand(len(some), -1))
            own = mixed.gather(1, self.target[some, None])
            higher = (mixed > own).sum(1) + ((mixed == own).sum(1) - 1) / 2
            hit = (higher < K) & ~self.missed[some]
            values.append(torch.where(hit, 1 / torch.log2(higher.double() + 2), 0.0))
        return torch.cat(values)


def climbed(cases: Cases, rows: Tensor, tail: float, apart: bool) -> Tensor:
    """Return [G, members + 1] by hill climbing from equal weights, by coordinate; with `apart`, separate by group."""
    members, is_tail = len(cases.scores), cases.group[cases.target[rows]] == 0

    def aim(weights: Tensor) -> float:
        values = cases.ndcg(weights, rows)
        return float(values.mean() + tail * values[is_tail].mean())

    weights = torch.zeros(2, members + 1)
    weights[:, :members] = 1 / members
    best = aim(weights)
    moves = [(slice(None), member) for member in range(members)]
    if apart:
        moves += [(slice(0, 1), column) for column in range(members + 1)]
    for step in STEPS:
        moved = True
        while moved:
            moved = False
            for which, column in moves:
                for by in (step, -step):
                    tried = weights.clone()
                    tried[which, column] += by * (SHIFTED if column == members else 1)
                    if tried[:, :members].min() < 0:
                        continue
                    if (reached := aim(tried)) > best + 1e-6:
                        weights, best, moved = tried, reached, True
    return weights


def held_out(cases: Cases, tail: float, apart: bool) -> dict[str, Any]:
    """Return NDCG@10 of all, tail and other cases, each measured with the weights that the other half chose."""
    rows = torch.arange(len(cases.target))
    halves, values, chosen = (rows[::2], rows[1::2]), torch.zeros(len(rows), dtype=torch.float64), []
    for mine, others in (halves, halves[::-1]):
        weights = climbed(cases, mine, tail, apart)
        values[others] = cases.ndcg(weights, others)
        chosen.append((weights / weights[1, :-1].sum()).tolist())
    return {"tail_counts": tail, "apart": apart, **by_case(cases, values), "weights": chosen}


def by_case(cases: Cases, values: Tensor) -> dict[str, float]:
    """Return the means over all cases, over those of tail items, and over the others."""
    is_tail = cases.group[cases.target] == 0
    return {"all": values.mean().item(), "tail": values[is_tail].mean().item(), "head": values[~is_tail].mean().item()}


@torch.no_grad()
def read_cases(runs: Path, names: list[str], seed: int) -> Cases:
    """Return the members' scores of the validation split, history masked."""
    from blair_rec.config.comparison import load_config
    from blair_rec.experiment.loading import load_model
    from blair_rec.experiment.planning.data_files import data_folder
    from blair_rec.experiment.splits.reading import training_data
    from blair_rec.ranking.ensemble import Ensemble

    config = load_config(runs / "config.yaml")
    data = training_data(config, data_folder(config.dataset))
    members = [load_model(runs / "runs" / f"{name}-{seed}", dataset=data.train).model for name in names]
    ensemble, split, parts = Ensemble(members).eval(), data.valid, []
    with ensemble.shared_items():
        for begin in range(0, len(split), BATCH):
            rows = torch.arange(begin, min(begin + BATCH, len(split)))
            parts.append(ensemble.member_scores(split[rows]))
    scores = list(torch.cat(parts, dim=1))
    target = split.inter_feat[split.iid_field]
    out = torch.zeros(scores[0].shape, dtype=torch.bool)
    out[:, 0] = True
    out[split.histories()] = True
    case = torch.arange(len(target))
    missed = out[case, target]
    out[case, target] = False
    for member in scores:
        member.masked_fill_(out, LOWEST)
    return Cases(scores, target, missed, (torch.from_numpy(np.asarray(data.item_counts)) > TAIL).long())


def to_page(name: str, names: list[str], baseline: dict[str, float], rows: list[dict[str, Any]]) -> list[str]:
    """Return the record as lines of Markdown."""
    page = [
        f"# {name}: an average of {', '.join(names)} with separate weights for tail items",
        "",
        "NDCG@10 on validation, history masked, one seed; weights chosen on one half of the cases, measured on the "
        f"other. Tail cases: a target with at most {TAIL} training events. Weights are chosen for all cases plus the "
        "tail cases times the number in the second column.",
        "",
        "| weights | tail counted | all cases | tail | head |",
        "|---|---|---|---|---|",
        "| ID alone | | " + " | ".join(f"{baseline[part]:.4f}" for part in ("all", "tail", "head")) + " |",
    ]
    for row in rows:
        values = " | ".join(f"{row[part]:.4f} ({row[part] / baseline[part]:.2f}x)" for part in ("all", "tail", "head"))
        kind = "tail items' own" if row["apart"] else "one for all items"
        page.append(f"| {kind} | {row['tail_counts']:g} | {values} |")
    return page


def main() -> None:
    """Read a comparison, fit weights for each objective, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of a finished comparison")
    parser.add_argument("--average", default="all", help="the average whose members are weighted")
    parser.add_argument("--baseline", default="id")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tail", default="0,0.5,1,2", help="extra weight of tail cases")
    options = parser.parse_args()
    from blair_rec.config.comparison import load_config

    config = load_config(options.runs / "config.yaml")
    names = list(config.variants[options.average].average)
    if not names:
        sys.exit(f"{options.average} is not an average")
    alone = read_cases(options.runs, [options.baseline, names[0]], options.seed)
    only_first = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    baseline = by_case(alone, alone.ndcg(only_first, torch.arange(len(alone.target))))
    cases, rows = read_cases(options.runs, names, options.seed), []
    for apart in (False, True):
        for tail in map(float, options.tail.split(",")):
            rows.append(held_out(cases, tail, apart))
            print(rows[-1], flush=True)
    name = Path(config.dataset).name
    settings = {"average": names, "baseline": baseline, "seed": options.seed}
    write_record(f"tail_weights-{name}", settings, {"rows": rows}, to_page(name, names, baseline, rows))


if __name__ == "__main__":
    main()
