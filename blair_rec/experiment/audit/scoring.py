"""Training-free scorers on a data set: fit them, rank a sample of test cases, average the best ones.

Shapes: C cases, N item ids with the padding row 0.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blair_rec import registry
from blair_rec.config.names import ProtocolName
from blair_rec.config.steps import FEWEST_PER_DIRECTION
from blair_rec.data.dataset import ItemVectors, TextSequentialDataset
from blair_rec.data.log import LOG_POSITION
from blair_rec.errors import BlairRecError, counted
from blair_rec.evaluate.metrics import metric_values, per_user
from blair_rec.evaluate.runs.run_files import RunRanks
from blair_rec.evaluate.significance import MIN_USERS, Interval, relative_intervals
from blair_rec.experiment.splits.reading import TrainingData
from blair_rec.models.whitening import items_that_differ
from blair_rec.ranking.ensemble import Ensemble, choose_weights
from blair_rec.ranking.scorers import Baseline, build_baseline
from blair_rec.ranking.scoring import Ranks, rank

BATCH = 2048
MAIN_CELLS, CHECK_CELLS, VALID_CELLS = 100_000_000, 30_000_000, 10_000_000
"""Scores (cases times items) of one scorer that are computed for the main figures, for each check, and to choose
weights. More cases are sampled, so that a large data set takes as long as a small one."""
PER_EVENT = 60
"""An event of a history costs as much as this many scores."""
PROBE, SLOWEST = 256, 60.0
"""Cases that are ranked to predict the time of all, and the longest prediction in seconds of processor time. Scorers
that need longer are skipped."""
FEW_COUNTED = 2
"""Scorers in the average that count events; the best one that reads text alone joins them."""


@dataclass(eq=False)
class FittedScorers:
    """The training-free scorers of a data set."""

    models: dict[str, Baseline]
    uses_text: dict[str, bool]
    left_out: dict[str, str] = field(default_factory=dict)
    """By scorer: why it was not measured."""

    def reads_text_alone(self, name: str) -> bool:
        """Whether the scorer needs nothing but texts; False if it counts events, too."""
        return name in self.models and self.models[name].takes_new_items


def fit_scorers(
    data: TrainingData, vectors: NDArray[np.float32] | None, transforms: Sequence[Any], names: Sequence[str] = ()
) -> FittedScorers:
    """Fit our training-free scorers, all or those in `names`; those that refuse this data set are named as skipped.

    vectors: [N, E] the text vectors by item id; None skips the scorers that use text.
    """
    config, n_items = data.train.config, len(data.item_tokens)
    recbole = {key: config[key] for key in ("ITEM_ID_FIELD", "LIST_SUFFIX", "ITEM_LIST_LENGTH_FIELD")}
    recbole["device"] = torch.device("cpu")
    fitted = FittedScorers({}, {})
    table = None if vectors is None else ItemVectors(vectors, "")
    for name in names or registry.BUILT_IN["scorers"]:
        uses_text = registry.load_class("scorers", name, Baseline).uses_text
        if uses_text and table is None:
            fitted.left_out[name] = "it uses text, and the items have none"
            continue
        steps = list(transforms) if uses_text else []
        setup: dict[str, Any] = {
            "scorer": name,
            "options": {},
            "control": None,
            "seed": 0,
            "transforms": steps,
            "text": None,
        }
        try:
            model = build_baseline(setup, recbole, n_items, table if uses_text else None)
            model.count(data.sequences)
        except BlairRecError as error:
            fitted.left_out[name] = str(error)
            continue
        fitted.models[name], fitted.uses_text[name] = model, uses_text
    return fitted


def drop_slow(fitted: FittedScorers, split: TextSequentialDataset, cases: int) -> None:
    """Remove the scorers that would need more than SLOWEST seconds for this number of cases."""
    probe = sampled(split, np.arange(min(PROBE, len(split))))
    for name, model in list(fitted.models.items()):
        if len(fitted.models) == 1:
            return
        begin = time.process_time()  # other programs on the machine don't count
        rank(model, probe, BATCH)
        seconds = (time.process_time() - begin) * cases / len(probe)
        if len(probe) == PROBE and seconds > SLOWEST:
            del fitted.models[name]
            fitted.left_out[name] = (
                f"it would take about {counted(round(seconds), 'second')} on {counted(cases, 'test case')}"
            )


def transforms_for(vectors: NDArray[np.float32]) -> list[str]:
    """The transforms for vectors of an encoder, [N, E]: whitening, or centring if there are too few items for it."""
    enough = FEWEST_PER_DIRECTION * vectors.shape[1]
    return ["whiten"] if items_that_differ(vectors[1:], enough) == enough else ["center"]


def sample(split: TextSequentialDataset, cells: int, seed: int = 0) -> NDArray[np.int64]:
    """Rows of random cases of a split, ascending: as many as `cells` allows, all if possible.

    A case costs as many cells as there are items, and PER_EVENT for each event of its history.
    """
    if split.log is not None:
        length = split.log.before(split.inter_feat[LOG_POSITION])
    else:
        length = split.inter_feat[split.item_list_length_field]
    cost = split.item_num + PER_EVENT * float(length.double().mean())
    return choose(len(split), int(cells / cost), seed)


def choose(n: int, size: int, seed: int = 0) -> NDArray[np.int64]:
    """`size` of n numbers at random, ascending; all if there are not more, and at least one."""
    if size >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, max(1, size), replace=False))


def sampled(split: TextSequentialDataset, rows: NDArray[np.int64]) -> TextSequentialDataset:
    """Some of a split's cases, in this order."""
    kept = split.inter_feat.select(rows) if split.log is not None else split.inter_feat[torch.from_numpy(rows)]
    part: TextSequentialDataset = split.copy(kept)
    return part


def ranked(model: Any, split: TextSequentialDataset) -> Ranks:
    """Rank the targets of a split."""
    return rank(model, split, BATCH)


def case_values(ranks: Ranks, metric: str, protocol: ProtocolName) -> NDArray[np.float64]:
    """[C] a metric of every case under a protocol."""
    return per_user(metric, *ranks.counts(protocol))


def run_ranks(ranks: Ranks, item_counts: NDArray[np.int64]) -> RunRanks:
    """The ranks in the form that slices need; item_counts: [N] training events by item id."""
    names = ("user", "item", "higher_unmasked", "equal_unmasked", "higher_masked", "equal_masked", "target_in_history")
    arrays = {name: getattr(ranks, name) for name in (*names, "history_length")}
    candidates = np.array(len(item_counts) - 1, dtype=np.int64)
    return RunRanks(**arrays, target_count=item_counts[ranks.item], n_candidates=candidates)


def intervals(values: Sequence[NDArray[np.float64]], user: NDArray[np.int64]) -> list[Interval | None]:
    """95% bootstrap intervals over users of the mean of each of these values, [C] each; None with too few users."""
    place = np.unique(user, return_inverse=True)[1]
    counts = np.bincount(place).astype(np.float64)
    if len(counts) < MIN_USERS or not values:
        return [None] * len(values)
    sums = np.stack([np.bincount(place, weights=one).astype(np.float64) for one in values], axis=1)
    # A mean over cases is a sum of values relative to a sum of ones.
    found = relative_intervals(sums, np.repeat(counts[:, None], len(values), axis=1))
    return [None if one is None else (one[0] + 1, one[1] + 1) for one in found]


def changes(
    after: Sequence[NDArray[np.float64]], before: Sequence[NDArray[np.float64]], user: NDArray[np.int64]
) -> list[tuple[float | None, Interval | None]]:
    """Relative changes of means, mean(after) / mean(before) - 1, with 95% intervals over users; [C] values each.

    A change is None if the mean before is 0; an interval is None also with too few users.
    """
    place = np.unique(user, return_inverse=True)[1]
    found: list[Interval | None] = [None] * len(after)
    if place.max(initial=-1) + 1 >= MIN_USERS and after:
        above, below = (
            np.stack([np.bincount(place, weights=one).astype(np.float64) for one in side], axis=1)
            for side in (after, before)
        )
        found = relative_intervals(above, below)
    pairs = zip(after, before, found, strict=True)
    return [(float(a.mean() / b.mean() - 1) if b.mean() > 0 else None, interval) for a, b, interval in pairs]


@dataclass(frozen=True, eq=False)
class Average:
    """The average of the best scorers, with weights chosen on validation."""

    model: Ensemble
    weights: Mapping[str, float]


def average(fitted: FittedScorers, valid: TextSequentialDataset, metric: str, protocol: ProtocolName) -> Average | None:
    """Average the best scorer that reads text alone and the two best ones that count events, by a metric on validation.

    The weights are those of `ensemble.choose_weights` on these cases. None if there is only one scorer.
    """

    def value(name: str) -> float:
        return float(case_values(ranked(fitted.models[name], valid), metric, protocol).mean())

    best = sorted(fitted.models, key=value, reverse=True)
    with_text = [name for name in best if fitted.reads_text_alone(name)][:1]
    members = with_text + [name for name in best if not fitted.reads_text_alone(name)][:FEW_COUNTED]
    if len(members) < 2:
        return None
    models: list[Any] = [fitted.models[name] for name in members]

    def measure(*ranks: Any) -> float:
        return metric_values([metric], *ranks)[metric]

    weights, _ = choose_weights(Ensemble(models), valid, protocol == "masked", measure, 256)
    return Average(Ensemble(models, weights), dict(zip(members, weights, strict=True)))
