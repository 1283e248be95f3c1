"""One run: train a variant with a seed, evaluate it on the test split, and write its folder."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.section import to_dict
from blair_rec.config.steps import step_name
from blair_rec.config.variant import VariantConfig
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.hidden import NewItemCases
from blair_rec.device import device_name
from blair_rec.errors import BlairRecError, ConfigError, TrainingError, counted
from blair_rec.evaluate.runs.new_ranks import write_new_ranks
from blair_rec.evaluate.runs.recorded import result_of
from blair_rec.evaluate.runs.results import last_items, write_lists, write_result
from blair_rec.evaluate.runs.run_files import RESULT_FILE, WEIGHTS_FILE, EpochRecord, read_json
from blair_rec.experiment.elsewhere.run import Elsewhere, rank_elsewhere
from blair_rec.experiment.fit import Fitted, fit_variant, measured
from blair_rec.experiment.members.average import average, selects_on
from blair_rec.experiment.members.rerank import second_stage
from blair_rec.experiment.members.teacher import LISTS, as_student, teaching
from blair_rec.experiment.planning.plan import Run, made_of, run_setup
from blair_rec.experiment.provenance import code_files, peak_memory_mb, provenance
from blair_rec.experiment.splits.new_items import new_vectors
from blair_rec.experiment.splits.reading import TrainingData, read_new_items, read_splits, training_data
from blair_rec.files.writing import partial_of, put_in_place, room_for
from blair_rec.models.scorer import transform_report
from blair_rec.ranking.new_items import rank_new_items
from blair_rec.ranking.rerank.second_stage import Reranker
from blair_rec.ranking.rerank.trees import TREES_FILE
from blair_rec.ranking.scoring import Ranks, rank
from blair_rec.registry import trusting
from blair_rec.text.store.embeddings import EmbeddingStore, open_store
from blair_rec.training import parallel
from blair_rec.training.checkpoint import save_weights
from blair_rec.training.distillation import Teaching
from blair_rec.training.loop import OnStep

TOP_K = 20
"""Number of top items kept per test case, for coverage, popularity and examples in reports."""
RANK_ARRAYS = (
    "user",
    "item",
    "higher_unmasked",
    "equal_unmasked",
    "higher_masked",
    "equal_masked",
    "target_in_history",
    "history_length",
)


@dataclass(eq=False)
class Data(TrainingData):
    """The three splits of a data set, read once for all runs of a comparison."""

    test: TextSequentialDataset
    histories: dict[str, np.ndarray]
    """The last items of each test case's history, and the training events of each item: see results.write_lists."""
    notes: Sequence[str] = ()
    """Notes for readers of the results: what checks of data and texts found."""
    new_items: NewItemCases | None = None
    """Test cases whose target is a hidden item; None where none is hidden."""

    @property
    def all_items(self) -> list[str]:
        """Tokens of the known and the hidden items, without the padding."""
        return [*self.item_tokens[1:], *(self.new_items.tokens if self.new_items else ())]


def whole_data(config: CompareConfig, folder: Path) -> Data:
    """Read all three splits of a data set.

    Raises:
        The errors of `read_splits`.
    """
    data, test = read_splits(config, folder)
    row, item = (part.numpy() for part in test.histories())
    offsets, items = last_items(row, item, len(test))
    kept = {"offsets": offsets, "items": items, "item_counts": data.item_counts}
    return Data(**vars(data), test=test, histories=kept, new_items=read_new_items(config, folder, test))


def make_run(
    config: CompareConfig,
    run: Run,
    data: Data,
    store: tuple[EmbeddingStore, Path] | None,
    on_epoch: Callable[[EpochRecord], None] = lambda epoch: None,
    on_step: OnStep = lambda done, total, loss: None,
    checkpoint: Path | None = None,
) -> float:
    """Train, evaluate and write one run; its folder appears when it is complete.

    Training resumes from `checkpoint` if it exists; it is deleted after the run is written. Several processes that
    train together write no checkpoint, because each has its own random states.

    Returns the validation metric that selects; NaN for another system that gave nothing for validation.

    Raises:
        BadRun, CheckpointError: a member of an average or a second stage is damaged.
        MissingExtra: a second stage needs LightGBM.
        TrainingError, ScoringError: the loss or scores are not finite.
        SourceError: files of another system that are damaged, don't fit the split, or are too short.
    """
    begin = time.perf_counter()
    made = _make(config, run, data, store, on_epoch, on_step, checkpoint)
    protocol, metric = selects_on(config, config.variants[run.variant]), config.evaluate.metrics[0]
    value = made.valid[protocol].get(metric, math.nan)
    selection = {"protocol": protocol, "metric": metric, "value": value, "epoch": made.fitted.best_epoch}

    partial = partial_of(run.folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with room_for(run.folder):
            _write(config, run, data, store, made, selection, begin, partial)
            put_in_place(run.folder)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
            checkpoint.with_suffix(LISTS).unlink(missing_ok=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return value


@dataclass(frozen=True)
class _Outcome:
    """The results of a run, before they are written."""

    fitted: Fitted
    ranks: Ranks
    """Ranks of the test cases."""
    valid: Mapping[str, Mapping[str, float]]
    """Metrics on the validation split, by protocol."""
    elsewhere: Elsewhere | None = None
    """Ranks and notes from another system's files; None for our own runs."""


def _make(
    config: CompareConfig,
    run: Run,
    data: Data,
    store: tuple[EmbeddingStore, Path] | None,
    on_epoch: Callable[[EpochRecord], None],
    on_step: OnStep,
    checkpoint: Path | None,
) -> _Outcome:
    """Train one run, or make it from its members, and evaluate it; arguments and errors are those of make_run."""
    variant, begin = config.variants[run.variant], time.perf_counter()
    if variant.is_elsewhere:
        given = rank_elsewhere(config, run, data, data.test, TOP_K)
        return _Outcome(given.fitted, given.ranks, given.valid, given)
    if variant.members:
        make = average if variant.average else second_stage
        fitted = make(config, run, data, data.test)
    else:
        alone = checkpoint if parallel.count() == 1 else None
        teacher, taught = made_of(run.folder, run.setup)[0] if variant.distill else None, None
        if variant.is_trained:
            call = {"variant": run.variant, "seed": run.seed, "store": str(store[1]) if store else None}
            call["teacher"] = str(teacher) if teacher else None
            parallel.from_first(lambda: call)  # the other processes of torchrun train too: see follow
            taught = parallel.in_all(lambda: teaching(config, run.setup, teacher, data, alone) if teacher else None)
        listed = time.perf_counter()
        opened = store[0] if store else None
        fitted = fit_variant(config, run.variant, run.seed, data, opened, on_epoch, alone, on_step, taught=taught)
        if taught is not None:
            fitted = as_student(config, run, fitted, taught, listed - begin)
    ranks = rank(fitted.model, data.test, config.evaluate.batch_size, k=TOP_K)
    return _Outcome(fitted, ranks, _on_validation(config, variant, fitted, data))


def _write(
    config: CompareConfig,
    run: Run,
    data: Data,
    store: tuple[EmbeddingStore, Path] | None,
    made: _Outcome,
    selection: Mapping[str, Any],
    begin: float,
    partial: Path,
) -> None:
    """Write the files of a run, which began at `begin`, into the folder `partial`."""
    variant, fitted, ranks, elsewhere = config.variants[run.variant], made.fitted, made.ranks, made.elsewhere
    save_weights(fitted.model, partial / WEIGHTS_FILE, run.hashes["store"])
    if isinstance(fitted.model, Reranker) and fitted.model.trees is not None:
        (partial / TREES_FILE).write_text(fitted.model.trees.text, encoding="utf-8", newline="\n")
    result = {
        "variant": run.variant,
        "seed": run.seed,
        "model": config.model_of(variant),
        "items": variant.kind,
        "control": variant.control,
        "transforms": [step_name(step) for step in variant.transforms],
        "transform_report": transform_report(fitted.model),
        "dataset": Path(data.folder).name,
        "selection": None if fitted.best_value is None else selection,
        "epochs": len(fitted.history),
        "train_seconds": fitted.seconds,
        "mean_context": fitted.mean_context,
        "wall_seconds": time.perf_counter() - begin,
        "peak_memory_mb": None if elsewhere else peak_memory_mb(),
        "elsewhere": any(one.is_elsewhere for one in _scoring(config, variant)),
        "depth": elsewhere.depth if elsewhere else {},
        "from": elsewhere.files if elsewhere else {},
        "notes": [*data.notes, *_notes(config, run, fitted), *(elsewhere.notes if elsewhere else ())],
        "test_evaluations": _test_evaluations(run.folder) + 1,
        "encoder": dict(store[0].encoder) if store else None,
        "store_sha256": run.hashes["store"],
        "store": os.path.relpath(store[1], run.folder) if store else None,
        "parameters": dict(fitted.parameters),
        "tied_neighbours": data.train.tied_neighbours,
        "trials": fitted.trials,
        "weights": dict(fitted.weights),
        **({"rerank": dict(fitted.second_stage)} if fitted.second_stage else {}),
        **({"distill": dict(fitted.teacher)} if fitted.teacher else {}),
        "hashes": dict(run.hashes),
        "code_files": {**code_files(variant.uses_text), **run.outside},
        "seedless": run.seedless,
        "setup": run.setup,
        "provenance": provenance(torch.get_num_threads(), device_name(fitted.model.device)),
        "valid": made.valid,
    }
    arrays = {name: getattr(ranks, name) for name in RANK_ARRAYS}
    arrays["target_count"] = data.item_counts[ranks.item]
    arrays["n_candidates"] = np.array(len(data.item_tokens) - 1)
    topk = {"unmasked": ranks.topk_unmasked, "masked": ranks.topk_masked}
    curve = [dataclasses.asdict(epoch) for epoch in fitted.history]
    write_lists(partial, arrays, topk, data.histories, data.item_tokens, curve)
    if (cases := data.new_items) is not None:  # after all other uses of the model, because this adds them to it
        vectors = new_vectors(run.folder, run.setup, store and store[0], data.item_tokens[1:], cases.tokens)
        write_new_ranks(partial, rank_new_items(fitted.model, vectors, cases, config.evaluate.batch_size))
    write_result(partial, result, arrays)  # after all files whose hashes it gets


def _on_validation(
    config: CompareConfig, variant: VariantConfig, fitted: Fitted, data: TrainingData
) -> dict[str, dict[str, float]]:
    """The metrics on the validation split by protocol; none for an average of systems without scores for it."""
    members = [config.variants[name] for name in variant.average]
    if any(member.is_elsewhere and "from_valid" not in member.elsewhere_of(config.seeds[0]) for member in members):
        return {"unmasked": {}, "masked": {}}
    valid = fitted.valid or rank(fitted.model, data.valid, config.evaluate.batch_size)
    return {protocol: measured(config, valid, protocol) for protocol in ("unmasked", "masked")}


def _scoring(config: CompareConfig, variant: VariantConfig) -> list[VariantConfig]:
    """The variants whose scores count: those of an average, or the variant itself."""
    return [config.variants[name] for name in variant.members] or [variant]


def _notes(config: CompareConfig, run: Run, fitted: Fitted) -> list[str]:
    """Notes for readers on this run: settings that differ, its transforms, the weights of an average."""
    variant = config.variants[run.variant]
    shared = {"train": to_dict(config.train), "recbole": config.recbole}
    own = [
        f"{section}.{key} is {value} (shared: {shared[section].get(key, 'as in RecBole')})"
        for section in ("train", "recbole")
        for key, value in getattr(variant, section).items()
        if shared[section].get(key) != value
    ]
    if variant.model not in (None, config.model):
        own.insert(0, f"model is {variant.model} (shared: {config.model})")
    notes = [f"{run.variant} used different settings: {'; '.join(own)}"] if own else []
    if fitted.weights:
        weights = ", ".join(f"{name} {weight:.2g}" for name, weight in fitted.weights.items())
        by = "" if variant.weights == "validation" else f", {variant.weights}"
        how = "equal" if variant.weights == "equal" else f"chosen on validation{by}"
        notes.append(f"weights of {run.variant}: {weights} ({how})")  # the same for all seeds gives one note
    if stage := fitted.second_stage:
        notes.append(
            f"{run.variant} orders the {counted(stage['candidates'], 'best item')} of each member, "
            f"{stage['pool_size']:.0f} per case; they contain the target in {stage['pool_recall']:.1%} "
            "of the validation cases"
        )
        if not any(stage["gains"]):
            notes.append(
                f"the trees of {run.variant} found nothing to learn, so it orders its candidates by the average of its "
                "members"
            )
    notes += [f"{run.variant}: {note}" for note in fitted.notes]
    if variant.control is None and (transforms := fitted.model.fitted_transforms) is not None:
        notes += [f"{run.variant}: {note}" for note in transforms.notes]
    if before := _test_evaluations(run.folder):
        notes.append(f"{run.variant} was evaluated on the test split {before + 1} times in this folder")
    return notes


def _test_evaluations(folder: Path) -> int:
    """How often an earlier run in this folder was evaluated on the test split; 0 without one."""
    if not (folder / RESULT_FILE).exists():
        return 0
    try:
        return result_of(folder, read_json(folder, RESULT_FILE)).test_evaluations
    except BlairRecError:  # damaged, but there was a run
        return 1


def follow(config: CompareConfig, folder: Path) -> None:
    """Train together with the first process of torchrun until it sends None; the other processes call this.

    A TrainingError occurs in all processes; the first one reports it.

    Raises:
        BlairRecError: training failed in this process alone, so it has to report that.
    """
    read = cache(lambda: training_data(config, folder))

    def prepared(call: Mapping[str, Any]) -> tuple[TrainingData, EmbeddingStore | None, Teaching | None]:
        if call["variant"] not in config.variants:
            raise ConfigError(
                f"{call['variant']} has to be made again, but only an earlier config of the folder has it; add it to "
                "this config, or compare with one process"
            )
        data, store = read(), open_store(call["store"]) if call["store"] else None
        setup, teacher = run_setup(config, call["variant"], call["seed"]), call["teacher"]
        return data, store, teaching(config, setup, Path(teacher), data, None) if teacher else None

    while (call := parallel.from_first(lambda: None)) is not None:
        with suppress(TrainingError), trusting(config.code):
            data, store, taught = parallel.in_all(prepared, call)
            fit_variant(config, call["variant"], call["seed"], data, store, taught=taught)
