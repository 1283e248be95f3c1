"""A variant and a seed -> what scores its items: trained or counted on the training split, selected on validation.

The test split has no part in this module, and tuning sees nothing else of a data set.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blair_rec.border.settings import CHANGE_SETTINGS, recbole_config, recbole_errors
from blair_rec.config.comparison import CompareConfig
from blair_rec.config.plugin import PLUGIN_KEYS
from blair_rec.config.sections import VariantConfig
from blair_rec.config.steps import FEWEST_PER_DIRECTION, whitened_width
from blair_rec.data.dataset import ItemVectors
from blair_rec.errors import ConfigError
from blair_rec.evaluate.metrics import metric_values
from blair_rec.experiment.item_vectors import item_vectors
from blair_rec.experiment.planning.plan import run_setup
from blair_rec.experiment.splits.reading import TrainingData
from blair_rec.models.scorer import Scorer
from blair_rec.models.text_models import count_parameters
from blair_rec.models.whitening import items_that_differ
from blair_rec.ranking.baselines import Counted, build_baseline
from blair_rec.ranking.scoring import Ranks, rank
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.training.epochs import EpochSteps, EveryPosition, RecboleWay, build_training
from blair_rec.training.loop import Epoch, OnStep, fit

logger = logging.getLogger("blair_rec")


@dataclass(frozen=True)
class Fitted:
    """What scores the items of a variant, and what it took to make it."""

    model: Scorer
    """A model, a baseline or an ensemble, ready to be ranked."""
    seconds: float
    parameters: Mapping[str, int]
    """trained and frozen."""
    trials: int
    """Configurations that were tried before this one was chosen."""
    history: tuple[Epoch, ...] = ()
    best_epoch: int = 0
    """The epoch whose weights validation chose; 0 where nothing was trained."""
    best_value: float | None = None
    """What it reached on validation; None where validation chose nothing."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of an ensemble: by member."""
    mean_context: float | None = None
    """Items that a training target was predicted from, in the mean: what a speed has to be read beside."""


def fit_variant(
    config: CompareConfig,
    name: str,
    seed: int,
    data: TrainingData,
    store: EmbeddingStore | None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoint: Path | None = None,
    on_step: OnStep = lambda done, total, loss: None,
    until: int | None = None,
) -> Fitted:
    """Train a variant with a seed, or count it; an average is made of finished runs instead (run.py).

    Args:
        store: the text vectors of a variant that uses text.
        checkpoint: written after every epoch, and trained on from where it is there already.
        until: an epoch to stop after for now; the checkpoint goes on from there.

    Raises:
        MissingEmbeddings, TextlessItems, StoreError: the store doesn't cover the items.
        TrainingError, ScoringError: a loss or scores that are not finite.
    """
    variant, setup, vectors = config.variants[name], run_setup(config, name, seed), None
    if store is not None:
        vectors = item_vectors(store, data.item_tokens, config.text_of(variant).missing_text)
    if variant.is_trained:
        return _train(config, variant, setup, data, vectors, on_epoch, on_step, checkpoint, until)
    begin = time.perf_counter()
    recbole = _baseline_config(config, setup, data)
    baseline = build_baseline(setup, recbole, len(data.item_tokens), vectors)
    if isinstance(baseline, Counted):
        baseline.count(data.sequences)
    return Fitted(baseline, time.perf_counter() - begin, count_parameters(baseline), variant.trials)


def check_transforms(config: CompareConfig, name: str, data: TrainingData, store: EmbeddingStore) -> None:
    """Whether a variant's transforms leave something of the text: asked before anything is trained.

    Raises:
        ConfigError: whitening over too few items for its directions; and as building the variant's model does.
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
    # So small a catalogue is transformed in no time: as the run itself will do it, with what its kind adds.
    setup = run_setup(config, name, config.seeds[0])
    try:
        if variant.is_trained:
            _built(config, variant, setup, data, vectors)
        else:
            build_baseline(setup, _baseline_config(config, setup, data), 0, vectors)
    except ConfigError as error:
        raise ConfigError(f"variants.{name}: {error}") from None


SAYS_WHAT = ("blair_text_fields", "blair_text_template", "blair_store")
"""Keys of which a model over text needs one."""


def model_settings(setup: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is built from, out of a run's set-up (plan.run_setup): alike to train it and to load it."""
    settings = {
        **setup["recbole"],
        **{key: setup[name] for key, (cls, name) in PLUGIN_KEYS.items() if cls is VariantConfig},
        **{key: (setup["text"] or {}).get(PLUGIN_KEYS[key][1]) for key in SAYS_WHAT},
        "seed": setup["seed"],
    }
    said = {key: value for key, value in settings.items() if value is not None}
    return {**said, "blair_temperature": setup["train"]["temperature"]}  # None is said, too: no cosines


def measured(config: CompareConfig, ranks: Ranks, protocol: str) -> dict[str, float]:
    """The metrics of the comparison under a protocol, by name."""
    miss = ranks.target_in_history if protocol == "masked" else None
    higher, equal = getattr(ranks, f"higher_{protocol}"), getattr(ranks, f"equal_{protocol}")
    return metric_values(config.evaluate.metrics, higher, equal, miss)


def _train(
    config: CompareConfig,
    variant: VariantConfig,
    setup: Mapping[str, Any],
    data: TrainingData,
    vectors: ItemVectors | None,
    on_epoch: Callable[[Epoch], None],
    on_step: OnStep,
    checkpoint: Path | None,
    until: int | None,
) -> Fitted:
    train = config.train_of(variant)
    recbole, model, steps = _built(config, variant, setup, data, vectors)
    stride = steps.stride if isinstance(steps, EveryPosition) else 1
    context = data.sequences.mean_context(recbole["MAX_ITEM_LIST_LENGTH"], stride)
    logger.debug("a training target is predicted from %.1f items in the mean", context)

    def validate() -> dict[str, float]:
        return measured(config, rank(model, data.valid, config.evaluate.batch_size), config.evaluate.protocol)

    with recbole_errors(f"train {config.model}", CHANGE_SETTINGS):
        trained = fit(
            model,
            steps,
            validate,
            config.evaluate.metrics[0],
            train,
            on_epoch=on_epoch,
            on_step=on_step,
            checkpoint=checkpoint,
            generators={"loader": steps.loader.generator} if isinstance(steps, RecboleWay) else None,
            until=until,
        )
    history, epoch, value = trained.history, trained.best_epoch, trained.best_value
    seconds = sum(line.train_seconds + line.valid_seconds for line in history)  # in however many sittings
    parameters = count_parameters(model)
    return Fitted(model, seconds, parameters, variant.trials, history, epoch, value, mean_context=context)


def _baseline_config(config: CompareConfig, setup: Mapping[str, Any], data: TrainingData) -> Any:
    """What a baseline reads: the names of fields, and the device."""
    return recbole_config(data.model_class, data.folder, {**setup["recbole"], "device": config.computed_on})


def _built(
    config: CompareConfig,
    variant: VariantConfig,
    setup: Mapping[str, Any],
    data: TrainingData,
    vectors: ItemVectors | None,
) -> tuple[Any, Any, EpochSteps]:
    """RecBole's config, the model as its seed initialises it, and the steps of its training."""
    train, split = config.train_of(variant), copy.copy(data.train)
    split.item_vectors = vectors
    settings = {**model_settings(setup), "train_batch_size": train.batch_size, "device": config.computed_on}
    recbole = recbole_config(data.model_class, data.folder, settings)
    with recbole_errors(f"build {config.model}", CHANGE_SETTINGS):
        model, steps = build_training(data.model_class, recbole, split, data.sequences, train, setup["seed"])
    return recbole, model, steps
