"""Everything that the page shows, as plain values, so that tests can recompute it from the files of the runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blair_rec.config.names import ProtocolName
from blair_rec.evaluate.answer import answer
from blair_rec.evaluate.leaderboard import Leaderboard
from blair_rec.evaluate.page.cards import ItemCards, ItemMap
from blair_rec.evaluate.page.curves import Curve, LearningPace, learning_curves, pace
from blair_rec.evaluate.page.examples import Examples, pick_examples
from blair_rec.evaluate.page.gains import Gain, relative_gains, slice_gains
from blair_rec.evaluate.page.second_stages import SecondStage, second_stages
from blair_rec.evaluate.runs.results import RunResult
from blair_rec.evaluate.runs.run_files import PROTOCOLS

MAP_CATEGORIES = 6
"""The most frequent categories that get a colour on the map."""
OTHER = "all others"


@dataclass(frozen=True)
class MapData:
    """One map with the labels of its points."""

    map: ItemMap
    variants: tuple[str, ...]
    """The variants that use these vectors."""
    labels: tuple[str, ...]
    """[points] one of `legend`."""
    legend: tuple[tuple[str, int], ...]
    """Each label with its number of points, the most frequent first, all others last; one label without categories."""


@dataclass(frozen=True)
class PageData:
    """Everything that the page shows besides the table."""

    board: Leaderboard
    headline: str
    """The answer in one sentence."""
    gains: Mapping[str, Mapping[ProtocolName, tuple[Gain, ...]]]
    """By metric and protocol."""
    slices: Mapping[str, tuple[Gain, ...]]
    """By variant, on each slice: absolute differences of the first metric under the board's protocol."""
    curves: Mapping[str, tuple[Curve, ...]]
    """By variant, in the board's order, without untrained variants."""
    paces: tuple[LearningPace, ...]
    """One for each trained variant."""
    curve_metric: str
    """The metric and protocol of the curves, which validation selected on."""
    maps: tuple[MapData, ...]
    examples: Examples
    second_stages: tuple[SecondStage, ...] = ()
    """For each second stage, the importance of its features."""


def page_data(board: Leaderboard, runs: Sequence[RunResult], cards: ItemCards) -> PageData:
    """Compute all numbers of the page. Raises BadRun if files of a run are missing or damaged."""
    variants = [row.variant for row in board.rows]
    curves = learning_curves(runs)
    by_variant = {variant: tuple(curve for curve in curves if curve.variant == variant) for variant in variants}
    by_variant = {variant: of_variant for variant, of_variant in by_variant.items() if of_variant}
    baseline = by_variant.get(board.baseline)
    level = None if baseline is None else pace(baseline, None).best
    return PageData(
        board=board,
        headline=_headline(board),
        gains={
            metric: {protocol: relative_gains(board, metric, protocol) for protocol in PROTOCOLS}
            for metric in board.metrics
        },
        slices={
            variant: slice_gains(board, variant, board.metrics[0], board.protocol)
            for variant in variants
            if variant != board.baseline
        },
        curves=by_variant,
        paces=tuple(pace(of_variant, level) for of_variant in by_variant.values()),
        curve_metric=" or ".join(board.selected_on),
        maps=tuple(_map_data(one, board, cards) for one in cards.maps),
        examples=pick_examples(runs, variants, board.metrics[0], board.protocol, cards),
        second_stages=second_stages(runs),
    )


def _headline(board: Leaderboard) -> str:
    """The answer as a full sentence; a variant's name at the beginning keeps its case."""
    sentence = re.sub(r"\[.*?\]", lambda interval: interval.group().replace(" ", "\u00a0"), answer(board))
    named = sentence.split()[0] in {row.variant for row in board.rows}
    return f"{sentence if named else sentence[0].upper() + sentence[1:]}."


def _map_data(item_map: ItemMap, board: Leaderboard, cards: ItemCards) -> MapData:
    found = [cards.categories.get(token, OTHER) for token in item_map.item_tokens]
    frequent = [label for label, _ in Counter(found).most_common() if label != OTHER][:MAP_CATEGORIES]
    labels = tuple(label if label in frequent else OTHER for label in found)
    counts = Counter(labels)
    return MapData(
        map=item_map,
        variants=tuple(row.variant for row in board.rows if row.store_sha256 == item_map.store_sha256),
        labels=labels,
        legend=tuple((label, counts[label]) for label in (*frequent, OTHER) if counts[label]),
    )
