"""The test cases on which variants disagree most: history, target, and the top items of each variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from blair_rec.config.names import ProtocolName
from blair_rec.evaluate.page.cards import ItemCards
from blair_rec.evaluate.runs.results import RunResult

EXAMPLES = 12
SHOWN_ITEMS = 8
"""Number of last items shown of each history."""
TOP = 5


@dataclass(frozen=True)
class Item:
    """An item as the page shows it."""

    token: str
    title: str | None
    hit: bool = False
    """Whether it is the target."""
    seen: bool = False
    """Whether it is among the last items of the history that the run kept."""


@dataclass(frozen=True)
class Ranking:
    """The ranking of one variant for a test case."""

    variant: str
    higher: int
    """Number of candidates that score above the target."""
    equal: int
    """Number of other candidates tied with the target."""
    miss: bool
    """Whether the target was not a candidate, because it is in the history, which was masked."""
    top: tuple[Item, ...]
    """Best first."""

    def depth(self) -> float:
        """Mean number of candidates above the target, over all orders of ties."""
        return self.higher + self.equal / 2

    @property
    def place(self) -> str:
        """The rank of the target: "1", or "3 to 7" if it is tied."""
        if self.miss:
            return "not a candidate"
        first, last = self.higher + 1, self.higher + self.equal + 1
        return f"{first:,}" if first == last else f"{first:,} to {last:,}"


@dataclass(frozen=True)
class Example:
    """One test case."""

    user: int
    """RecBole's user id."""
    target: Item
    target_count: int
    """Number of training events of the target."""
    history: tuple[Item, ...]
    """The last items, oldest first."""
    earlier: int
    """Number of events before those."""
    rankings: tuple[Ranking, ...]
    """In the order of `variants`."""

    @property
    def best(self) -> Ranking:
        """The ranking with the target highest."""
        return min(self.rankings, key=Ranking.depth)

    @property
    def worst(self) -> Ranking:
        """The ranking with the target lowest."""
        return max(self.rankings, key=Ranking.depth)


@dataclass(frozen=True)
class Examples:
    """The chosen cases, with the seed, metric and protocol that chose them."""

    seed: int
    metric: str
    protocol: ProtocolName
    cases: tuple[Example, ...]


def pick_examples(
    runs: Sequence[RunResult], variants: Sequence[str], metric: str, protocol: ProtocolName, cards: ItemCards
) -> Examples:
    """Pick the twelve test cases on which `variants` disagree most, with the seed that most of them have.

    Disagreement is the gap between the best and the worst variant's metric of the case. Among equal gaps, cases whose
    top lists share fewer items come first. Raises BadRun.
    """
    of_seed: dict[int, dict[str, RunResult]] = {}
    for run in runs:
        of_seed.setdefault(run.seed, {})[run.variant] = run
    seed = min(of_seed, key=lambda seed: (-len(of_seed[seed]), seed))
    chosen = [of_seed[seed][variant] for variant in variants if variant in of_seed[seed]]
    values = np.array([run.per_user(metric, protocol) for run in chosen])
    gap = values.max(axis=0) - values.min(axis=0)
    shared = _shared([run.topk(protocol)[:, :TOP] for run in chosen])
    order = np.lexsort([shared, -gap.round(12)])[:EXAMPLES]
    cases = tuple(_example(chosen, int(case), protocol, cards) for case in order)
    return Examples(seed, metric, protocol, cases)


def _shared(tops: Sequence[NDArray[np.int32]]) -> NDArray[np.float64]:
    """[cases] number of items that the top lists of two variants share, summed over all pairs, without padding."""
    total = np.zeros(len(tops[0]))
    for ours, theirs in combinations(tops, 2):
        total += ((ours[:, :, None] == theirs[:, None, :]) & (ours[:, :, None] > 0)).sum(axis=(1, 2))
    return total


def _example(runs: Sequence[RunResult], case: int, protocol: ProtocolName, cards: ItemCards) -> Example:
    first = runs[0]
    tokens, ranks = first.item_tokens, first.ranks
    target, history = int(ranks.item[case]), first.histories.of(case).tolist()

    def item(item_id: int) -> Item:
        token = tokens[item_id]
        return Item(token, cards.titles.get(token), hit=item_id == target, seen=item_id in history)

    rankings = []
    for run in runs:
        higher, equal, miss = run.ranks.counts(protocol)
        top = tuple(item(item_id) for item_id in run.topk(protocol)[case, :TOP].tolist() if item_id > 0)
        rankings.append(Ranking(run.variant, int(higher[case]), int(equal[case]), bool(miss[case]), top))
    shown = history[-SHOWN_ITEMS:]
    return Example(
        user=int(ranks.user[case]),
        target=item(target),
        target_count=int(ranks.target_count[case]),
        history=tuple(item(item_id) for item_id in shown),
        earlier=int(ranks.history_length[case]) - len(shown),
        rankings=tuple(rankings),
    )
