"""Build one ordered table from finished runs: variants, both protocols, slices, differences to the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blair_rec.config.names import ProtocolName
from blair_rec.errors import ConfigError
from blair_rec.evaluate.metrics import TopLists, check_k, parse_metric, top_lists
from blair_rec.evaluate.notes import (
    Scalar,
    accepted_notes,
    by_importance,
    merged_provenance,
    pending_notes,
    run_notes,
    seed_notes,
    training_free_notes,
)
from blair_rec.evaluate.runs.encoder_used import EncoderUsed
from blair_rec.evaluate.runs.new_items import NewItemsTable, new_items_table, scores
from blair_rec.evaluate.runs.recorded import Parameters
from blair_rec.evaluate.runs.results import RunResult, check_depth, check_paired, check_same_setup
from blair_rec.evaluate.runs.run_files import PROTOCOLS
from blair_rec.evaluate.significance import Difference, Floats, PairedSample, corrected, differences
from blair_rec.evaluate.slices import Slice, slices

SCHEMA = 1


class Score(NamedTuple):
    """One measured number with its context: a line of results.jsonl."""

    variant: str
    dataset: str
    seed: int
    protocol: ProtocolName
    slice: str
    """The test cases: "all", or the name of a slice."""
    metric: str
    """The metric on the test split, such as "NDCG@10"."""
    value: float


@dataclass(frozen=True)
class Summary:
    """One metric of one variant under one protocol."""

    mean: float
    """Mean over seeds of the mean over test cases."""
    std: float | None
    """Standard deviation over seeds, with divisor n - 1; None for a single seed."""
    per_seed: tuple[float, ...]
    """In the order of the row's seeds."""
    versus_baseline: Difference | None
    """None for the baseline itself."""


Summaries = Mapping[ProtocolName, Mapping[str, Summary]]
"""By protocol, then by metric."""


@dataclass(frozen=True)
class SliceSummary:
    """One variant on one slice of the test cases."""

    label: str
    """For a reader: "tail items (1 to 5 training events)"."""
    by: str
    """The property that defines the slice: "popularity", "history" or "repetition"."""
    users: int
    cases: int
    metrics: Summaries


@dataclass(frozen=True)
class Row:
    """One variant."""

    variant: str
    model: str
    items: str
    """The item side: "id", "text_init", ..."""
    control: str | None
    """ "shuffle" (item texts randomly reassigned) or "random" (random vectors); None if it is no control."""
    transforms: tuple[str, ...]
    encoder: EncoderUsed | None
    """None for a variant without text."""
    store_sha256: str | None
    seeds: tuple[int, ...]
    trials: int
    """Number of configurations that tuning tried for this variant."""
    test_evaluations: int
    """Maximum over seeds; more than 1 if the variant was run again after its test metrics were seen."""
    parameters: Parameters
    train_seconds: float
    """Mean over seeds."""
    wall_seconds: float
    """Time for training, scoring and writing; mean over seeds."""
    peak_memory_mb: int | None
    """Maximum over seeds, of the whole process, so earlier runs count too. None if the system doesn't report it."""
    epochs: float
    """Mean over seeds."""
    config_sha256: tuple[str | None, ...]
    """Hash of the settings that each run depends on, in the order of the seeds."""
    metrics: Summaries
    slices: Mapping[str, SliceSummary]
    """By name, without empty slices."""
    top_lists: Mapping[ProtocolName, TopLists]
    """Statistics of what it recommends; mean over seeds."""
    elsewhere: bool = False
    """Whether another system made its scores, or a member's. Then parameters and costs are unknown."""

    @property
    def training_free(self) -> bool:
        """Whether it has no trained parameter: popularity, rules, neighbours, and averages of these alone."""
        return self.parameters.trained == 0 and not self.elsewhere


@dataclass(frozen=True)
class Leaderboard:
    """Everything that a rendering shows. `rows` are ordered, best first."""

    dataset: str
    baseline: str
    protocol: ProtocolName
    """The protocol that orders the rows."""
    selected_on: tuple[str, ...]
    """The metric of validation, such as "NDCG@10 unmasked"; several if runs differ, empty if nothing was trained."""
    metrics: tuple[str, ...]
    """The first one orders the rows."""
    users: int
    cases: int
    """Test cases: one per user with leave-one-out, possibly more with other splits."""
    candidates: int
    """Number of ranked items, without padding."""
    target_in_history: int
    """Number of test cases with an in-history target: misses under the masked protocol."""
    provenance: Mapping[str, Scalar | list[Scalar]]
    """Versions, commit, machine; a list if runs differ."""
    notes: tuple[str, ...]
    """Facts that may change a conclusion from the table; the most important ones come first."""
    rows: tuple[Row, ...]
    new_items: NewItemsTable | None = None
    """None where no items were hidden (evaluate.new_items)."""

    def to_json(self) -> dict[str, Any]:
        """The content of leaderboard.json, ready for `json.dumps`."""
        content = {"schema": SCHEMA, **asdict(self)}
        if self.new_items is None:
            del content["new_items"]
        return content

    def scores(self) -> list[Score]:
        """One record for every number that was averaged."""
        return [
            Score(row.variant, self.dataset, seed, protocol, name, metric, value)
            for row in self.rows
            for name, of_part in {"all": row.metrics, **{key: part.metrics for key, part in row.slices.items()}}.items()
            for protocol, summaries in of_part.items()
            for metric, summary in summaries.items()
            for seed, value in zip(row.seeds, summary.per_seed, strict=True)
        ] + self._scores_of_new_items()

    def _scores_of_new_items(self) -> list[Score]:
        if self.new_items is None:
            return []
        return [
            Score(row.variant, self.dataset, seed, protocol, name, metric, value)
            for row in self.rows
            for protocol, name, metric, values in scores(self.new_items, row.variant)
            for seed, value in zip(row.seeds, values.per_seed, strict=True)
        ]


def build_leaderboard(
    runs: Sequence[RunResult],
    baseline: str,
    metrics: Sequence[str],
    protocol: ProtocolName,
    pending: Sequence[str] = (),
) -> Leaderboard:
    """Build the table of all variants of one comparison, ordered by the first metric under `protocol`, ties by name.

    `pending` are the names of runs that are planned but not finished; they get a note. Variants that lack seeds get a
    note, too.

    Raises:
        ConfigError: the baseline has no runs, a metric or the protocol is unknown, or k is larger than the number of
            items.
        UnpairedRuns: runs have different test cases, or the seeds of one variant used different settings.
    """
    metrics = tuple(dict.fromkeys(metrics))
    variants: dict[str, list[RunResult]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        variants.setdefault(run.variant, []).append(run)
    if baseline not in variants:
        raise ConfigError(
            f"the baseline {baseline!r} has no finished run; finished: {', '.join(sorted(variants)) or 'none'}"
        )
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol is {protocol!r}; known: {', '.join(PROTOCOLS)}")
    if not metrics:
        raise ConfigError("a leaderboard needs at least one metric, such as NDCG@10")
    check_paired(runs)
    for variant_runs in variants.values():
        check_same_setup(variant_runs)
    ranks = runs[0].ranks
    check_k(metrics, ranks.candidates)
    check_depth(runs, metrics)
    everyone = Slice("all", "", "all test cases", np.ones(len(ranks.user), dtype=bool))
    parts = [part for part in slices(ranks) if part.cases.any()]
    whole = _summaries(variants, baseline, metrics, [everyone])["all"]
    of_slices = _summaries(variants, baseline, metrics, parts)
    rows = [
        _row(
            variant_runs,
            whole[variant],
            {part.name: _slice_summary(part, ranks.user, of_slices[part.name][variant]) for part in parts},
            min(parse_metric(metrics[0]).k, *(run.topk("unmasked").shape[1] for run in runs)),
        )
        for variant, variant_runs in variants.items()
    ]
    provenance, differing = merged_provenance(runs)
    selected = [run for run in runs if run.selection is not None]
    trained = [run for run in selected if run.items not in ("average", "rerank")] or selected  # those have notes
    selected_on = {f"{run.selection.metric} {run.selection.protocol}" for run in trained if run.selection is not None}
    return Leaderboard(
        dataset=runs[0].dataset,
        baseline=baseline,
        protocol=protocol,
        selected_on=tuple(sorted(selected_on)),
        metrics=metrics,
        users=len(np.unique(ranks.user)),
        cases=len(ranks.user),
        candidates=ranks.candidates,
        target_in_history=int(ranks.target_in_history.sum()),
        provenance=provenance,
        notes=by_importance(
            [
                *run_notes(runs),
                *pending_notes(pending, runs),
                *seed_notes(variants),
                *training_free_notes(rows, protocol, metrics[0]),
                *differing,
                *accepted_notes(runs),
            ]
        ),
        rows=tuple(sorted(rows, key=lambda row: (-row.metrics[protocol][metrics[0]].mean, row.variant))),
        new_items=new_items_table(variants),
    )


def _summaries(
    variants: Mapping[str, Sequence[RunResult]], baseline: str, metrics: Sequence[str], parts: Sequence[Slice]
) -> dict[str, dict[str, dict[ProtocolName, dict[str, Summary]]]]:
    """By slice, variant, protocol and metric. P-values are corrected over all these slices together."""
    found: dict[str, dict[str, dict[ProtocolName, dict[str, Summary]]]] = {
        part.name: {variant: {protocol: {} for protocol in PROTOCOLS} for variant in variants} for part in parts
    }
    user = next(iter(variants.values()))[0].ranks.user
    others = [variant for variant in variants if variant != baseline]
    drawn = {name: (not runs[0].seedless, not variants[baseline][0].seedless) for name, runs in variants.items()}
    for protocol in PROTOCOLS:
        values = {
            (variant, metric): np.stack([run.per_user(metric, protocol) for run in runs])
            for variant, runs in variants.items()
            for metric in metrics
        }
        raw: list[Difference] = []
        for part in parts:
            pairs = [
                PairedSample(
                    values[variant, metric][:, part.cases], values[baseline, metric][:, part.cases], drawn[variant]
                )
                for variant in others
                for metric in metrics
            ]
            raw += differences(pairs, user[part.cases])
        versus = iter(corrected(raw))
        for part in parts:
            for variant in (*others, baseline):
                for metric in metrics:
                    per_seed = values[variant, metric][:, part.cases].mean(axis=1)
                    difference = None if variant == baseline else next(versus)
                    found[part.name][variant][protocol][metric] = _summary(per_seed, difference)
    return found


def _slice_summary(part: Slice, user: NDArray[np.int64], metrics: Summaries) -> SliceSummary:
    return SliceSummary(part.label, part.by, len(np.unique(user[part.cases])), int(part.cases.sum()), metrics)


def _row(runs: Sequence[RunResult], metrics: Summaries, of_slices: Mapping[str, SliceSummary], k: int) -> Row:
    """The row of one variant, from its runs and what was measured."""
    run = runs[0]
    memory = [run.peak_memory_mb for run in runs if run.peak_memory_mb is not None]
    return Row(
        variant=run.variant,
        model=run.model,
        items=run.items,
        control=run.control,
        transforms=tuple(run.transforms),
        encoder=run.encoder,
        store_sha256=run.store_sha256,
        seeds=tuple(run.seed for run in runs),
        trials=run.trials,
        test_evaluations=max(run.test_evaluations for run in runs),
        parameters=run.parameters,
        train_seconds=float(np.mean([run.train_seconds for run in runs])),
        wall_seconds=float(np.mean([run.wall_seconds for run in runs])),
        peak_memory_mb=max(memory, default=None),
        epochs=float(np.mean([run.epochs for run in runs])),
        config_sha256=tuple(run.hashes.get("config") for run in runs),
        metrics=metrics,
        slices=of_slices,
        top_lists={protocol: _mean_top_lists(runs, protocol, k) for protocol in PROTOCOLS},
        elsewhere=run.elsewhere,
    )


def _mean_top_lists(runs: Sequence[RunResult], protocol: ProtocolName, k: int) -> TopLists:
    found = [top_lists(run.topk(protocol), run.item_counts, k) for run in runs]
    coverage, popularity, gini = np.mean([(one.coverage, one.popularity, one.gini) for one in found], axis=0)
    return TopLists(k, float(coverage), float(popularity), float(gini))


def _summary(per_seed: Floats, versus: Difference | None) -> Summary:
    return Summary(
        mean=float(per_seed.mean()),
        std=float(per_seed.std(ddof=1)) if len(per_seed) > 1 else None,
        per_seed=tuple(per_seed.tolist()),
        versus_baseline=versus,
    )
