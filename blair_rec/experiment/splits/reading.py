"""Read a data set and check its splits: training and validation split, and the test split for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.border.recbole_keys import model_keys, unread
from blair_rec.border.settings import CHANGE_SETTINGS, recbole_config, recbole_errors
from blair_rec.config.comparison import CompareConfig
from blair_rec.config.section import to_dict
from blair_rec.config.variant import VariantConfig
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.hidden import NewItemCases, new_item_cases
from blair_rec.data.log import LOG_POSITION
from blair_rec.data.sequences import TrainingSequences, training_sequences
from blair_rec.errors import BlairRecError, ConfigError, DatasetError, agreed, counted
from blair_rec.evaluate.metrics import check_k
from blair_rec.experiment.planning.data_files import features_read
from blair_rec.lines.rejected import Rejected
from blair_rec.models.eligibility import Eligible, eligibility
from blair_rec.models.packed import can_pack
from blair_rec.models.text_models import model_class
from blair_rec.training.epochs import check_loss

logger = logging.getLogger("blair_rec")


@dataclass(eq=False)
class TrainingData:
    """The training and validation split of a data set: everything that training and selection may use."""

    folder: str
    train: TextSequentialDataset
    valid: TextSequentialDataset
    item_tokens: list[str]
    """By item id; the first one is the padding token."""
    sequences: TrainingSequences
    item_counts: np.ndarray
    """[items and padding] int64: number of training events of each item."""
    rejected: Rejected
    """Rejected lines of the files."""
    reading_notes: Sequence[str]
    """Notes for readers of the results on problems in the files."""
    unread: Sequence[str]
    """A note on settings that are not used, if there are any."""


def training_data(config: CompareConfig, folder: Path) -> TrainingData:
    """Read only the data for training and selection: test targets are removed from the log.

    Raises:
        The errors of `read_splits`.
    """
    data, test = read_splits(config, folder)
    if data.train.log is not None:  # all splits share it
        data.train.log.item[test.inter_feat[LOG_POSITION]] = 0
    return data


def with_all_items(config: CompareConfig) -> CompareConfig:
    """The comparison without hidden items (evaluate.new_items)."""
    if config.evaluate.new_items is None:
        return config
    return config.changed(evaluate=config.evaluate.changed(new_items=None))


def read_splits(config: CompareConfig, folder: Path) -> tuple[TrainingData, TextSequentialDataset]:
    """Read all splits: the data for training and selection, and the test split. They share a log with all targets.

    Raises:
        DatasetError: the data set can't be read, or a split is empty.
        RecBoleError: RecBole refuses a setting or a file.
        ConfigError: unknown model or setting, a loss that the model can't be trained with, or a metric whose cutoff is
            larger than the number of items.
    """
    classes = _check_models(config, folder)
    recbole = _config_of_data(config, folder)
    _refuse_other_data(config)
    ignored = _unread_settings(config, classes)
    dataset, train, valid, test = _read(config, recbole, config.evaluate.new_items)
    _check_cases(config, {"training": train, "validation": valid, "test": test})
    _log_ties(config, train)
    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    check_k(config.evaluate.metrics, len(tokens) - 1)
    sequences = training_sequences(train)
    data = TrainingData(
        folder=str(folder),
        train=train,
        valid=valid,
        item_tokens=tokens,
        sequences=sequences,
        item_counts=np.bincount(sequences.items, minlength=len(tokens)),
        rejected=dataset.rejected,
        reading_notes=tuple(dataset.reading_notes),
        unread=ignored,
    )
    return data, test


def read_new_items(config: CompareConfig, folder: Path, test: TextSequentialDataset) -> NewItemCases | None:
    """The test cases that have a hidden item as target; None where the comparison hides none.

    Args:
        test: the test split of `read_splits`, which has no hidden item.

    Raises:
        The errors of `read_splits`.
    """
    if config.evaluate.new_items is None:
        return None
    *_, whole = _read(config, _config_of_data(config, folder))
    return new_item_cases(test, whole)


def _config_of_data(config: CompareConfig, folder: Path) -> Any:
    ours = {"blair_ties": config.ties, "blair_split": to_dict(config.split)}
    return recbole_config(model_class(config.model), str(folder), {**config.recbole, **ours})


def _check_models(config: CompareConfig, folder: Path) -> list[type[Any]]:
    """The classes of the models. Raises ConfigError if one doesn't fit the data or its variant's loss."""
    shared, classes = features_read(config.model, config.recbole, folder.name), [model_class(config.model)]
    for name, variant in config.variants.items():
        if not variant.is_trained:
            continue
        try:
            cls = model_class(config.model_of(variant))
            check_loss(cls, config.train_of(variant))
            if variant.distill is not None and not can_pack(cls):
                raise ConfigError(
                    f"distill isn't supported for {cls.__name__}, which uses RecBole's loss; use SASRec, eSASRec or "
                    "GRU4Rec"
                )
            _check_teacher(config, variant)
        except ConfigError as error:
            raise ConfigError(f"variants.{name}: {error}") from None
        needed = features_read(config.model_of(variant), config.recbole, folder.name)
        if shared is not None and needed is not None and (more := sorted(needed - shared)):
            raise ConfigError(
                f"variants.{name}.model: {variant.model} needs the .{more[0]} file, but all variants share the data of "
                f"{config.model}, which doesn't read it; name the columns to read in recbole.load_col"
            )
        classes.append(cls)
    return classes


def _check_teacher(config: CompareConfig, student: VariantConfig) -> None:
    """
    Raises:
        ConfigError: a model in the student's teacher reads more than histories, which training positions don't have.
    """
    for part in () if student.distill is None else (student.distill, *config.behind(student.distill)):
        model = config.model_of(config.variants[part])
        if not config.variants[part].is_trained or can_pack(model_class(model)):
            continue
        found = eligibility(model_class(model))
        if isinstance(found, Eligible) and found.more:
            through = f"{student.distill!r}" + f" with its member {part!r}" * (part != student.distill)
            raise ConfigError(
                f"distill names {through}, whose model {model} reads {', '.join(found.more)} of a case, and training "
                "positions have histories alone; name another teacher, or one without this model"
            )


def _read(
    config: CompareConfig, recbole: Any, new_items: float | str | None = None
) -> tuple[TextSequentialDataset, ...]:
    """Read the data set without its new items, and build its training, validation and test split."""
    try:
        with recbole_errors(f"read data set {config.dataset!r}", f"look at its files, or {CHANGE_SETTINGS}"):
            dataset = TextSequentialDataset(recbole, new_items)
            return dataset, *dataset.build()
    except BlairRecError:
        raise
    except ValueError as error:  # from pandas, or text that is not UTF-8
        raise DatasetError(f"data set {config.dataset!r} can't be read: {error}") from error


def _check_cases(config: CompareConfig, splits: dict[str, TextSequentialDataset]) -> None:
    if empty := [name for name, split in splits.items() if len(split) == 0]:
        # RecBole keeps a user's last event for the test, then the one before for validation, if two others are left.
        why = f"leave-one-out needs users with at least {'four' if 'validation' in empty else 'three'} events"
        if config.split is not None:
            why = "all its events are the first of their user, which can't be predicted; change the cut-off times"
        raise DatasetError(f"data set {config.dataset!r}: the split leaves no {' and no '.join(empty)} case; {why}")


def _log_ties(config: CompareConfig, train: TextSequentialDataset) -> None:
    if train.tied_neighbours:
        pairs = f"{train.tied_neighbours:,} of {counted(train.neighbours, 'pair')} of successive events"
        order = "that of the file" if config.ties == "stored" else "random"
        have = agreed(train.tied_neighbours, "have")
        logger.info("%s %s tied timestamps; their order is %s (key `ties`, docs/configuration.md)", pairs, have, order)


def _unread_settings(config: CompareConfig, classes: Sequence[type[Any]]) -> tuple[str, ...]:
    """A note on RecBole settings that are not used; logged, and for readers of the results."""
    trained = [config.train_of(variant) for variant in config.variants.values() if variant.is_trained]
    recboles_way = not all(map(can_pack, classes)) or any(train.loss == "recbole" for train in trained)
    keys = unread(config.recbole, config.models, recboles_way)
    if not keys:
        return ()
    note = f"settings under `recbole` that nothing in this comparison uses: {', '.join(keys)}"
    logger.warning("%s", note)
    return (note,)


def _refuse_other_data(config: CompareConfig) -> None:
    """Variants share one data set, so their `recbole` sections may only have settings of the model."""
    for name, variant in config.variants.items():
        if variant.is_elsewhere:
            continue
        model = config.model_of(variant)
        known = model_keys(model)
        if others := [key for key in variant.recbole if key not in known]:
            raise ConfigError(
                f"variants.{name}.recbole: {', '.join(others)} {'is' if len(others) == 1 else 'are'} not among the "
                f"settings of {model}; set other keys under `recbole`, for all variants; known: {', '.join(known)}"
            )
