"""False claims of the leaderboard where no difference exists, and its power to find one that does.

    python benchmarks/false_claims.py [--comparisons 5000]

Simulates comparisons of variants that are equally good by construction, with everything that makes them look
different: newly sampled users, a seed that raises or lowers all users of a training together, users that a variant
happens to suit, and chance. Any claim is then false. The record also has the power to find effects of known size, and
the claims of simpler rules. It is benchmarks/results/false_claims.{json,md}. Takes a quarter of an hour on one thread.

The model is a latent normal variable for every user and training. Its upper tenth is ranked among the first ten, at
ranks as on Beauty (22,363 users, NDCG@10 about .05, nine zeros in ten). Correlations of a user's NDCG@10 are those of
configs/beauty.yaml (SASRec with and without text, history masked): .89 between two seeds of one variant, .86 between
two variants; unmasked .87 and .85. The standard deviation over seeds, .0015, is somewhat larger than observed there.
Separate rows simulate the quick start's runs on ml-100k (.59 to .66, and .51 to .69, here about .66 and .53) and
Scientific (.84 to .94, and .77 to .90, here .91 and .84).
"""

from __future__ import annotations

import argparse
import datetime
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from blair_rec.evaluate.significance import ALPHA, PairedSample, corrected, differences

RESULTS = Path(__file__).parent / "results"
ANYTHING = "anything on a leaderboard"
EFFECTS = (0.05, 0.1, 0.15)
RULES = ("claimed", "users alone", "seeds alone (Welch)", "users and Welch")


@dataclass(frozen=True)
class World:
    """The sources of chance, and their sizes."""

    seeds: int = 3
    users: int = 22_363
    seed_std: float = 0.0015
    """Standard deviation over seeds of the mean NDCG@10 of infinitely many users."""
    taste: float = 0.95
    """Share of the latent variance that belongs to the user, independent of variant and seed."""
    suits: float = 0.015
    """Share that belongs to a user and a variant; the rest belongs to a user and a training."""
    effect: float = 0.0
    """True relative gain of the first variant's NDCG@10 over the baseline; other variants have none."""
    variants: int = 1
    """Number of variants, without the baseline."""


HIT_SHARE = 0.1
PLACES = np.arange(10)
GAINS = {"NDCG@10": 1 / np.log2(PLACES + 2), "Recall@10": np.ones(10)}
# The first place is hit somewhat more often than the last.
_weights = (PLACES + 1.0) ** -0.4
BOUNDS = stats.norm.isf(np.cumsum(HIT_SHARE * _weights / _weights.sum()))
"""[10] lowest latent value with which a target has each rank or a better one."""


def mean_after(shift: float) -> float:
    """Return the expected NDCG@10 when every latent value is shifted."""
    reached = stats.norm.sf(BOUNDS - shift)
    return float((np.diff(reached, prepend=0) * GAINS["NDCG@10"]).sum())


LEVEL = mean_after(0.0)
SLOPE = (mean_after(1e-4) - mean_after(-1e-4)) / 2e-4


def draw(world: World, generator: np.random.Generator) -> list[dict[str, NDArray[np.float64]]]:
    """Return the metrics of the baseline and of each variant, [seeds, users] by name."""
    wanted = LEVEL * (1 + world.effect)
    gain = optimize.brentq(lambda shift: mean_after(shift) - wanted, -1, 1)
    user = np.sqrt(world.taste) * _normal(generator, world.users)
    found = []
    for variant in range(world.variants + 1):
        suited = user + np.sqrt(world.suits) * _normal(generator, world.users)
        luck = world.seed_std / SLOPE * generator.standard_normal(world.seeds) + (gain if variant == 1 else 0.0)
        left = np.sqrt(1 - world.taste - world.suits)
        metrics = {name: np.zeros((world.seeds, world.users)) for name in GAINS}
        for seed in range(world.seeds):
            latent = suited + np.float32(luck[seed]) + left * _normal(generator, world.users)
            hits = np.flatnonzero(latent > BOUNDS[-1])
            place = 10 - np.searchsorted(BOUNDS[::-1], latent[hits], side="left")
            for name, gains in GAINS.items():
                metrics[name][seed, hits] = gains[place]
        found.append(metrics)
    return found


def _normal(generator: np.random.Generator, size: int) -> NDArray[np.float32]:
    return generator.standard_normal(size, dtype=np.float32)


def claims(world: World, generator: np.random.Generator) -> dict[str, bool]:
    """Compare a variant with the baseline on NDCG@10: what is claimed, and what simpler rules would claim."""
    baseline, variant = (metrics["NDCG@10"] for metrics in draw(world, generator))
    (found,) = corrected(differences([PairedSample(variant, baseline)], np.arange(world.users), flips=199, resamples=0))
    welch = float(stats.ttest_ind(variant.mean(axis=1), baseline.mean(axis=1), equal_var=False).pvalue)
    assert found.p_users is not None
    rules = (found.verdict in ("better", "worse"), found.p_users <= ALPHA, welch <= ALPHA)
    return dict(zip(RULES, (*rules, rules[1] and rules[2]), strict=True))


def board_claims(world: World, generator: np.random.Generator) -> list[bool]:
    """Return the claims on a whole leaderboard: both metrics of each variant, NDCG@10 of the first variant first."""
    baseline, *variants = draw(world, generator)
    pairs = [PairedSample(metrics[name], baseline[name]) for metrics in variants for name in GAINS]
    found = corrected(differences(pairs, np.arange(world.users), flips=999, resamples=0))
    return [difference.verdict in ("better", "worse") for difference in found]


def rates(world: World, comparisons: int) -> dict[str, float]:
    """Return, by rule, the share of simulated comparisons in which it claims a difference."""
    generator = np.random.default_rng(1)
    found = [claims(world, generator) for _ in range(comparisons)]
    return {rule: float(np.mean([one[rule] for one in found])) for rule in RULES}


def record(comparisons: int) -> dict[str, Any]:
    """Measure everything for 3 and for 5 seeds, with fewer comparisons for the side results."""
    aside = max(comparisons // 5, 1)
    changes: dict[str, dict[str, Any]] = {
        "seeds less important (standard deviation .001)": {"seed_std": 0.001},
        "seeds more important (standard deviation .002)": {"seed_std": 0.002},
        "users less alike from training to training: as on ml-100k": {"taste": 0.74, "suits": 0.10},
        "users still less alike (correlation .4)": {"taste": 0.55, "suits": 0.10},
        "users a variant suits: many (.2 of the variance)": {"taste": 0.765, "suits": 0.2},
        "users a variant suits: none": {"taste": 0.965, "suits": 0.0},
        "2,000 users": {"users": 2_000},
        "as on Scientific": {"users": 8_442, "seed_std": 0.001, "taste": 0.94, "suits": 0.035},
    }
    rows: list[dict[str, Any]] = []
    for seeds in (3, 5):
        world = World(seeds=seeds)
        rows.append({"seeds": seeds, "what": "as on Beauty", "comparisons": comparisons, **rates(world, comparisons)})
        for what, change in changes.items():
            rows.append({"seeds": seeds, "what": what, "comparisons": aside, **rates(replace(world, **change), aside)})
        for effect in EFFECTS:
            shares = rates(replace(world, effect=effect), aside)
            rows.append({"seeds": seeds, "what": f"{effect:+.0%}", "comparisons": aside, "effect": effect, **shares})
        boards, generator = aside // 2, np.random.default_rng(2)
        found = [board_claims(replace(world, variants=3), generator) for _ in range(boards)]
        share = float(np.mean([any(claimed) for claimed in found]))
        rows.append({"seeds": seeds, "what": ANYTHING, "comparisons": boards, "claimed": share})
        for effect in EFFECTS:
            better, generator = replace(world, variants=3, effect=effect), np.random.default_rng(4)
            share = float(np.mean([board_claims(better, generator)[0] for _ in range(boards // 2)]))
            row = {"seeds": seeds, "what": f"{effect:+.0%}, on a leaderboard", "effect": effect, "claimed": share}
            rows.append({**row, "comparisons": boards // 2})
    example = draw(World(users=200_000), np.random.default_rng(3))
    baseline, variant = (metrics["NDCG@10"] for metrics in example)
    facts = {
        "mean": float(baseline.mean()),
        "zeros": float((baseline == 0).mean()),
        "correlation of two seeds": float(np.corrcoef(baseline[0], baseline[1])[0, 1]),
        "correlation of two variants": float(np.corrcoef(baseline[0], variant[0])[0, 1]),
    }
    return {"date": datetime.date.today().isoformat(), "world": asdict(World()), "simulated": facts, "rows": rows}


def to_markdown(found: dict[str, Any]) -> str:
    """Return the record as a page."""

    def table(title: str, rows: list[dict[str, Any]], rules: tuple[str, ...]) -> list[str]:
        lines = [f"## {title}", "", f"| seeds | what | comparisons | {' | '.join(rules)} |"]
        lines.append("|---" * 3 + "|---:" * len(rules) + "|")
        for row in rows:
            shares = " | ".join(f"{row[rule]:.1%}" if rule in row else "" for rule in rules)
            lines.append(f"| {row['seeds']} | {row['what']} | {row['comparisons']:,} | {shares} |")
        return [*lines, ""]

    facts, rows = found["simulated"], found["rows"]
    boards = [row for row in rows if row["what"] == ANYTHING]
    power = [row for row in rows if "effect" in row]
    null = [row for row in rows if row not in boards and row not in power]
    lines = ["# False claims, and power", ""]
    lines += [
        "Simulated by `benchmarks/false_claims.py`, which says what is simulated and why. "
        f"{found['world']['users']:,} users, NDCG@10 {facts['mean']:.4f}, {facts['zeros']:.0%} zeros, correlation of a "
        f"user's metric {facts['correlation of two seeds']:.2f} between two seeds and "
        f"{facts['correlation of two variants']:.2f} between two variants, standard deviation over seeds .0015.",
        "",
        "*claimed* is what the leaderboard says. The other columns are simpler rules. A test over users alone mistakes "
        "the luck of seeds for skill. A test over seeds alone (Welch) ignores that users are a sample. Requiring both "
        "still claims too much if both sources of chance have the same size, because each test allows only for one.",
        "",
    ]
    lines += table("Claimed where there is no difference (better or worse, at .05)", null, RULES)
    lines += table("Anything claimed on a leaderboard of three equal variants and two metrics", boards, RULES[:1])
    lines += table("Power: claimed where the variant is truly better", power, RULES)
    lines += ["*On a leaderboard*: among three variants and two metrics, of which this variant alone is better.", ""]
    return "\n".join([*lines, f"{found['date']}; NumPy {np.__version__}."]) + "\n"


def main() -> None:
    """Simulate, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=5_000)
    found = record(parser.parse_args().comparisons)
    (RESULTS / "false_claims.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "false_claims.md").write_text(to_markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
