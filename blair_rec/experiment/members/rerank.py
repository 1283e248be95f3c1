"""Fit a second stage over finished runs of the same seed. Its trees see nothing of the test split."""

from __future__ import annotations

import time
from collections.abc import Collection
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.names import CANDIDATES
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import TrainingError
from blair_rec.evaluate.metrics import metric_values
from blair_rec.evaluate.runs.results import load_run
from blair_rec.experiment.elsewhere.run import fixed_scores, listed_scores
from blair_rec.experiment.fit import Fitted, measured
from blair_rec.experiment.loading import Loaded, load_model, text_tables
from blair_rec.experiment.members.average import selects_on
from blair_rec.experiment.members.files import files_of_member
from blair_rec.experiment.planning.plan import Run, member_folders
from blair_rec.experiment.splits.reading import TrainingData
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.rerank.features import ItemTable, feature_names
from blair_rec.ranking.rerank.fitting import FittedStage, check_split, fit_stage
from blair_rec.ranking.rerank.second_stage import Reranker
from blair_rec.ranking.rerank.trees import need_trees, sha256_of_text

LISTS_ALONE = (
    "{} gave top lists, so it has no part in the average of the members that orders all items behind the candidates"
)


def check_second_stages(config: CompareConfig, names: Collection[str], data: TrainingData) -> None:
    """Check before anything is trained that second stages can be fitted on the validation split.

    Raises:
        TrainingError: it has too few users for their folds, or `candidates` is too large.
    """
    for name in names:
        if (variant := config.variants[name]).rerank:
            try:
                masked, top = selects_on(config, variant) == "masked", variant.candidates or CANDIDATES
                check_split(data.valid, masked, top, len(data.item_tokens))
            except TrainingError as error:
                raise TrainingError(f"variants.{name}: {error}") from None


def second_stage(config: CompareConfig, run: Run, data: TrainingData, test: TextSequentialDataset) -> Fitted:
    """Fit a second stage on the validation split; its costs include those of its members.

    `test` is read only for members of other systems, whose scores belong to its cases.

    Raises:
        SourceError: the files of another system have changed or can't be used.
        MissingExtra: LightGBM is not installed.
        BadRun, CheckpointError: the run of a member is damaged.
        TrainingError: too few validation cases have their target among the candidates.
    """
    need_trees()
    variant, begin = config.variants[run.variant], time.perf_counter()
    folders = member_folders(run.folder, run.setup)
    results = [load_run(folder) for folder in folders]
    first, protocol = config.evaluate.metrics[0], selects_on(config, variant)
    members, lists, notes = [], [], []
    for name, folder in zip(variant.rerank, folders, strict=True):
        read, whole = files_of_member(config, name, folder, run.seed, data, test), True
        if read is None:
            members.append(load_model(folder, dataset=data.train, device=config.computed_on))
        elif config.variants[name].has_lists:
            model, whole, more = listed_scores(config, read, data, test, protocol == "masked")
            members.append(Loaded(model, data.item_tokens, 0))
            notes += [*more, *([] if whole else [LISTS_ALONE.format(name)])]
        else:
            members.append(Loaded(fixed_scores(config, read, data, test), data.item_tokens, 0))
        lists.append(not whole)
    texts = text_tables(variant.rerank, folders, members)
    stage = Reranker(
        Ensemble([one.model for one in members]), _items(data, texts), run.setup["candidates"], lists=lists
    )
    fitted = fit_stage(
        stage,
        data.valid,
        protocol == "masked",
        lambda *ranks: metric_values([first], *ranks)[first],
        config.evaluate.batch_size,
    )
    trees = fitted.stage.trees
    assert trees is not None
    parameters = {part: sum(getattr(result.parameters, part) for result in results) for part in ("trained", "frozen")}
    return Fitted(
        fitted.stage,
        time.perf_counter() - begin + sum(result.train_seconds for result in results),
        {**parameters, "trained": parameters["trained"] + trees.leaves},
        sum(result.trials for result in results),
        best_value=measured(config, fitted.ranks, protocol)[first],
        weights={
            name: weight
            for name, weight, partial in zip(variant.rerank, fitted.stage.weights.tolist(), lists, strict=True)
            if not partial
        },
        valid=fitted.ranks,
        second_stage=_report(fitted, variant.rerank),
        notes=notes,
    )


def _report(fitted: FittedStage, members: tuple[str, ...]) -> dict[str, Any]:
    """The facts about a second stage in result.json, under the key `rerank`."""
    stage, trees = fitted.stage, fitted.stage.trees
    assert trees is not None
    gains = trees.gains
    names = feature_names(members, stage.items)
    return {
        "candidates": stage.top,
        "pool_size": fitted.pool_size,
        "pool_recall": fitted.pool_recall,
        "trees": trees.count,
        "leaves": trees.leaves,
        "trees_sha256": sha256_of_text(trees.text),
        "features": [list(name) for name in names],
        "gains": (gains / max(gains.sum(), np.finfo(np.float64).tiny)).tolist(),
        "lightgbm": metadata.version("lightgbm"),
    }


def _items(data: TrainingData, texts: dict[str, Tensor]) -> ItemTable:
    popularity = torch.from_numpy(np.log1p(data.item_counts)).float()
    return ItemTable(popularity, _recency(data), texts)


def _recency(data: TrainingData) -> Tensor | None:
    """[N] float32, the share of training events up to each item's last one; None for files without times.

    An item without a training event has 0.
    """
    train = data.train
    if train.log is None or train.event_times is None:
        return None
    kept = train.events_up_to_last_row().cpu().numpy()
    time_of, item = train.event_times[kept], train.log.item.cpu().numpy()[kept]
    last = np.full(len(data.item_tokens), -np.inf)
    np.maximum.at(last, item, time_of)
    share = np.searchsorted(np.sort(time_of), last, side="right") / len(time_of)
    return torch.from_numpy(share).float()
