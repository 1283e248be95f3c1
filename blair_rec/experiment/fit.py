"""Train a variant with a seed, or fit a training-free scorer; validation selects the weights.

This module never uses the test split, so neither does tuning.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blair_rec.border.settings import CHANGE_SETTINGS, recbole_config, recbole_errors
from blair_rec.config.comparison import CompareConfig
from blair_rec.config.plugin import PLUGIN_KEYS
from blair_rec.config.steps import FEWEST_PER_DIRECTION, whitened_width
from blair_rec.config.variant import VariantConfig
from blair_rec.data.dataset import ItemVectors
from blair_rec.errors import ConfigError
from blair_rec.evaluate.metrics import metric_values
from blair_rec.evaluate.runs.run_files import EpochRecord
from blair_rec.experiment.item_vectors import item_vectors
from blair_rec.experiment.planning.plan import run_setup
from blair_rec.experiment.splits.reading import TrainingData
from blair_rec.models.counting import count_events
from blair_rec.models.items import item_kind
from blair_rec.models.scorer import Scorer
from blair_rec.models.text_models import count_parameters, model_class
from blair_rec.models.transforms import check_steps
from blair_rec.models.whitening import items_that_differ
from blair_rec.ranking.rerank.trees import need_trees
from blair_rec.ranking.scorers import Baseline, build_baseline, scorer_kind
from blair_rec.ranking.scoring import Ranks, rank
from blair_rec.ranking.teacher import refuse_counted
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.training import parallel
from blair_rec.training.distillation import Distilled, Teaching
from blair_rec.training.epochs import EpochSteps, EveryPosition, build_training
from blair_rec.training.loop import OnStep, fit
from blair_rec.training.losses import sampled_loss

logger = logging.getLogger("blair_rec")


@dataclass(frozen=True)
class Fitted:
    """The fitted scorer of a variant, with the costs of making it."""

    model: Scorer
    """A model, a training-free scorer or an ensemble, ready for ranking."""
    seconds: float
    parameters: Mapping[str, int]
    """Number of parameters: trained and frozen."""
    trials: int
    """Number of configurations that were tried before this one was chosen."""
    history: tuple[EpochRecord, ...] = ()
    best_epoch: int = 0
    """The epoch whose weights validation selected; 0 if nothing was trained."""
    best_value: float | None = None
    """Its validation metric; None if validation selected nothing."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """The weights of an ensemble, by member."""
    mean_context: float | None = None
    """Mean number of history items from which a training target is predicted; needed to compare training speeds."""
    valid: Ranks | None = None
    """The validation cases of a second stage, ranked by trees fitted on other users; None for other runs."""
    second_stage: Mapping[str, Any] = field(default_factory=dict)
    """The facts about a second stage in result.json; empty for other runs."""
    teacher: Mapping[str, Any] = field(default_factory=dict)
    """The facts about a student's teacher in result.json; empty for other runs."""
    notes: Sequence[str] = ()
    """Notes for readers on the members of a second stage, or on a student's teacher."""


def fit_variant(
    config: CompareConfig,
    name: str,
    seed: int,
    data: TrainingData,
    store: EmbeddingStore | None,
    on_epoch: Callable[[EpochRecord], None] = lambda epoch: None,
    checkpoint: Path | None = None,
    on_step: OnStep = lambda done, total, loss: None,
    until: int | None = None,
    taught: Teaching | None = None,
) -> Fitted:
    """Train a variant with a seed, or fit its training-free scorer. Averages are made from finished runs (run.py).

    Args:
        store: the text vectors of a variant that uses text.
        checkpoint: written after every epoch; training resumes from it if it exists.
        until: stop after this epoch for now; a later call resumes from the checkpoint.
        taught: what a student learns from its teacher.

    Raises:
        MissingEmbeddings, TextlessItems, StoreError: the store doesn't cover the items.
        TrainingError, ScoringError: the loss or scores are not finite.
        CheckpointError: a checkpoint of other settings, or not a whole one.
    """
    variant, setup, vectors = config.variants[name], run_setup(config, name, seed), None
    if store is not None:
        vectors = item_vectors(store, data.item_tokens, config.text_of(variant).missing_text)
    if variant.is_trained:
        return _train(config, variant, setup, data, vectors, on_epoch, on_step, checkpoint, until, taught)
    begin = time.perf_counter()
    baseline = counted_baseline(config, setup, data, vectors)
    return Fitted(baseline, time.perf_counter() - begin, count_parameters(baseline), variant.trials)


def check_outside(config: CompareConfig, names: Collection[str]) -> None:
    """Check that the code from other packages which these variants use can be imported and accepts its options.

    Raises:
        ConfigError: code can't be imported, is of the wrong kind, doesn't accept its options, or can't teach.
        MissingExtra: a second stage needs LightGBM.
    """
    if any(config.variants[name].rerank for name in names):
        need_trees()
    for name in names:
        variant, setup = config.variants[name], run_setup(config, name, config.seeds[0])
        try:
            for group, _ in config.outside(name):
                if group == "items":
                    item_kind(variant)
                elif group == "scorers":
                    scorer_kind(setup)
                elif group == "losses":
                    sampled_loss(config.train_of(variant), 1)
                elif group == "transforms":
                    check_steps(variant.transforms)
            for part in () if variant.distill is None else (variant.distill, *config.behind(variant.distill)):
                if config.variants[part].scorer is not None:
                    refuse_counted(scorer_kind(run_setup(config, part, config.seeds[0])))
        except ConfigError as error:
            raise ConfigError(f"variants.{name}: {error}") from None


def check_transforms(config: CompareConfig, name: str, data: TrainingData, store: EmbeddingStore) -> None:
    """Check before training that there are enough items for a variant's whitening.

    Raises:
        ConfigError: too few items for the directions of the whitening, or the variant's model can't be built.
        MissingEmbeddings, TextlessItems, StoreError: the store doesn't cover the items.
    """
    variant = config.variants[name]
    width = whitened_width(variant.transforms, store.text_dim)
    if width is None:
        return
    vectors = item_vectors(store, data.item_tokens, config.text_of(variant).missing_text)
    enough = FEWEST_PER_DIRECTION * width
    if items_that_differ(vectors.table[1:], enough) == enough:
        return
    # A small catalogue is transformed quickly, so do the same as the run will do, including the steps of its item side.
    setup = run_setup(config, name, config.seeds[0])
    try:
        if variant.is_trained:
            build_model(config, variant, setup, data, vectors)
        else:
            build_baseline(setup, _baseline_config(config, setup, data), 0, vectors)
    except ConfigError as error:
        raise ConfigError(f"variants.{name}: {error}") from None


SAYS_WHAT = ("blair_text_fields", "blair_text_template", "blair_store")
"""A model that uses text needs one of these keys."""


def model_settings(setup: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model from a run's setup (plan.run_setup), the same for training and for loading."""
    settings = {
        **setup["recbole"],
        **{key: setup.get(name) for key, (cls, name) in PLUGIN_KEYS.items() if cls is VariantConfig},
        **{key: (setup["text"] or {}).get(PLUGIN_KEYS[key][1]) for key in SAYS_WHAT},
        "seed": setup["seed"],
    }
    said = {key: value for key, value in settings.items() if value is not None}
    return {**said, "blair_temperature": setup["train"]["temperature"]}  # here None has a meaning: no cosine similarity


def measured(config: CompareConfig, ranks: Ranks, protocol: str) -> dict[str, float]:
    """The metrics of the comparison under a protocol, by name."""
    return metric_values(config.evaluate.metrics, *ranks.counts(protocol))


def _train(
    config: CompareConfig,
    variant: VariantConfig,
    setup: Mapping[str, Any],
    data: TrainingData,
    vectors: ItemVectors | None,
    on_epoch: Callable[[EpochRecord], None],
    on_step: OnStep,
    checkpoint: Path | None,
    until: int | None,
    taught: Teaching | None,
) -> Fitted:
    train = config.train_of(variant)
    recbole, model, steps = parallel.in_all(build_model, config, variant, setup, data, vectors)
    if taught is not None:
        steps = Distilled(model, data.sequences, recbole["MAX_ITEM_LIST_LENGTH"], train, setup["seed"], taught)
    stride = steps.stride if isinstance(steps, EveryPosition) else 1
    context = data.sequences.mean_context(recbole["MAX_ITEM_LIST_LENGTH"], stride)
    logger.debug("a training target is predicted from %.1f items on average", context)

    def validate() -> dict[str, float]:
        return measured(config, rank(model, data.valid, config.evaluate.batch_size), config.evaluate.protocol)

    with recbole_errors(f"train {setup['model']}", CHANGE_SETTINGS):
        trained = fit(
            model,
            steps,
            validate,
            config.evaluate.metrics[0],
            train,
            on_epoch=on_epoch,
            on_step=on_step,
            checkpoint=checkpoint,
            settings=setup,
            until=until,
        )
    history, epoch, value = trained.history, trained.best_epoch, trained.best_value
    seconds = sum(
        line.train_seconds + line.valid_seconds for line in history
    )  # of all sessions, if training was resumed
    parameters = count_parameters(model)
    return Fitted(model, seconds, parameters, variant.trials, history, epoch, value, mean_context=context)


def counted_baseline(
    config: CompareConfig, setup: Mapping[str, Any], data: TrainingData, vectors: ItemVectors | None
) -> Baseline:
    """Build the training-free scorer of a run's setup, and let it count the training split."""
    baseline = build_baseline(setup, _baseline_config(config, setup, data), len(data.item_tokens), vectors)
    count_events(baseline, data.sequences)
    return baseline


def _baseline_config(config: CompareConfig, setup: Mapping[str, Any], data: TrainingData) -> Any:
    """The RecBole config of a training-free scorer, which needs the names of fields and the device."""
    return recbole_config(model_class(setup["model"]), data.folder, {**setup["recbole"], "device": config.computed_on})


def build_model(
    config: CompareConfig,
    variant: VariantConfig,
    setup: Mapping[str, Any],
    data: TrainingData,
    vectors: ItemVectors | None,
) -> tuple[Any, Any, EpochSteps]:
    """Return RecBole's config, the model of a run's setup as initialised with the seed, and its training steps."""
    train, split = config.train_of(variant), copy.copy(data.train)
    split.item_vectors = vectors
    settings = {**model_settings(setup), "train_batch_size": train.batch_size, "device": config.computed_on}
    cls = model_class(setup["model"])
    recbole = recbole_config(cls, data.folder, settings)
    with recbole_errors(f"build {setup['model']}", CHANGE_SETTINGS):
        model, steps = build_training(cls, recbole, split, data.sequences, train, setup["seed"])
    return recbole, model, steps
