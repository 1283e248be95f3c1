"""The steps of an epoch: every position of packed windows with our loss, or RecBole's own batches and loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from blair_rec.config.section import default_of
from blair_rec.config.sections import TrainConfig
from blair_rec.data.packing import Packed, growth_on
from blair_rec.data.sequences import TrainingSequences
from blair_rec.device import moved, seed_device
from blair_rec.errors import ConfigError
from blair_rec.models.dropout import BitDropout
from blair_rec.models.packed import can_pack, can_record, hidden_states
from blair_rec.models.similarity import as_key, as_query
from blair_rec.models.text_models import item_side
from blair_rec.training import parallel
from blair_rec.training.cuda_graph import RecordedStep, Room, recorded_or_none
from blair_rec.training.losses import full_softmax, sampled_loss, sampled_scores
from blair_rec.training.negatives import Negatives
from blair_rec.training.stock.loss import stock_loss

from recbole.data.dataloader import TrainDataLoader
from recbole.data.utils import create_samplers
from recbole.utils import init_seed

StepLosses = Iterator[tuple[Tensor, int]]
"""For each step its mean loss and its number of targets; the optimiser updates the weights before the next step.

With several processes, each gets its share of every batch. An empty share has a loss of 0 and 0 targets.
"""


class EpochSteps(Protocol):
    """The training steps of every epoch."""

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        """The random generators that steps use in addition to the global ones; checkpoints hold their states."""

    def __len__(self) -> int:
        """Return the number of steps of an epoch; with packed windows it is an estimate."""

    def __call__(self, epoch: int) -> StepLosses:
        """Return the steps of an epoch; epochs count from 1."""


class EveryPosition:
    """Steps that train all positions of a window in one pass, with our loss.

    All random numbers (for windows, dropout and negatives) depend on seed and epoch alone, so training can resume from
    any epoch. Windows and negatives are drawn on the CPU, so they are the same for every device. Dropout is drawn on
    the model's device.
    """

    def __init__(self, model: Any, sequences: TrainingSequences, width: int, train: TrainConfig, seed: int) -> None:
        self.model, self.sequences, self.width, self.train, self.seed = model, sequences, width, train, seed
        self.stride = width if train.stride is None else train.stride
        if self.stride > width:
            raise ConfigError(f"stride is {self.stride}; it can't be more than MAX_ITEM_LIST_LENGTH, {width}")
        self.generators: Mapping[str, torch.Generator] = {}
        self._can_record = model.device.type == "cuda" and can_record(model) and train.loss == "full_softmax"
        self._recorded: RecordedStep | None = None
        self._room: Room | None = None
        self.target_counts = np.bincount(sequences.items[sequences.is_target], minlength=model.n_items)
        self._sampled_loss = sampled_loss(train, len(self.target_counts) - 1) if train.draws_items else None

    def __len__(self) -> int:
        return math.ceil(self.sequences.n_targets / self.train.batch_size)

    def __call__(self, epoch: int) -> StepLosses:
        seed, own_seed = self._seeds(epoch)
        model, dropout, recorded, negatives = self.model, BitDropout(own_seed), None, None
        if self.train.draws_items:  # the negatives are the same in all processes
            negatives = Negatives(self.target_counts, self.train.negatives, self.train.sampling, seed)
        for packed in self._batches(self.sequences, seed):
            # Sizes that depend on values are found on the CPU, so nothing has to wait for a GPU.
            learnt = torch.nonzero(packed.targets).squeeze(1)
            if self._can_record and len(learnt):
                recorded = recorded or self._recorded_step(packed, learnt, dropout, own_seed)
                numbers = recorded.shaped(packed, learnt) if recorded is not None else None
                if recorded is not None and numbers is not None:
                    yield recorded(numbers), len(learnt)
                    continue
            drawn = negatives.draw() if negatives is not None else None
            read = torch.cat([packed.items, packed.targets, drawn[0]]) if drawn is not None else None
            packed, learnt = packed.to(model.device), moved(learnt, model.device)
            if drawn is not None:
                drawn = moved(drawn[0], model.device), moved(drawn[1], model.device)
            with model.shared_items(read):
                some = learnt if len(learnt) < len(packed.targets) else None
                hidden = hidden_states(model, packed, dropout, some)
                yield self._loss(hidden, packed.targets[learnt], drawn), len(learnt)

    def _seeds(self, epoch: int) -> tuple[int, int]:
        """Return the seed of an epoch, and the seed of this process in it, with which its GPU is seeded, too."""
        seed, rank = hash_seed(self.seed, epoch), parallel.rank()
        own_seed = hash_seed(seed, rank) if rank else seed
        seed_device(self.model.device, own_seed)
        return seed, own_seed

    def _batches(self, sequences: TrainingSequences, seed: int) -> Iterator[Packed]:
        """Return this process's share of each batch of an epoch."""
        growth = growth_on(self.model.device)
        return sequences.batches(self.width, self.stride, self.train.batch_size, seed, parallel.share(), growth)

    def _recorded_step(self, packed: Packed, learnt: Tensor, dropout: BitDropout, seed: int) -> RecordedStep | None:
        """Return the step as a graph, recorded on first use; None if that fails, or if the first batch doesn't fit."""
        if self._recorded is None:
            batches = self.width, self.stride, self.train.batch_size, hash_seed(self.seed, 0), parallel.share()

            def loss(packed: Packed, learnt: Tensor, counts: Tensor) -> Tensor:
                hidden = hidden_states(self.model, packed, dropout, learnt)
                return self._loss(hidden, packed.targets[learnt], None, counts)

            self._room = self._room or Room.for_batches(self.sequences, *batches)
            step = RecordedStep(self.model, loss, self._room)
            numbers = step.shaped(packed, learnt)
            if numbers is None:
                return None
            self._recorded = recorded_or_none(step, numbers, seed)
            self._can_record = self._recorded is not None
        return self._recorded

    def _loss(
        self, hidden: Tensor, targets: Tensor, drawn: tuple[Tensor, ...] | None, counts: Tensor | None = None
    ) -> Tensor:
        train, items = self.train, item_side(self.model)
        hidden = as_query(hidden, train.temperature)
        if len(targets) == 0:
            return hidden.sum()
        if drawn is None or self._sampled_loss is None:
            weight = as_key(items.weight, train.temperature)
            return full_softmax(hidden, targets, weight, None, getattr(torch, train.precision), counts)
        ids, log_counts = drawn
        own, others = sampled_scores(hidden, targets, ids, lambda ids: as_key(items(ids), train.temperature))
        return self._sampled_loss(own, others, log_counts)


class RecboleWay:
    """Steps with RecBole's own batches and the model's own loss."""

    def __init__(self, model: Any, loader: Any) -> None:
        self.model, self.loader = model, loader

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        """The generator of the loader."""
        return {"loader": self.loader.generator}

    def __len__(self) -> int:
        return len(self.loader)

    def __call__(self, epoch: int) -> StepLosses:
        for batch in self.loader:
            mine = batch[parallel.share()]
            cases = len(mine)
            with self.model.shared_items():
                loss = stock_loss(self.model, (mine if cases else batch[:1]).to(self.model.device))
                yield loss if cases else loss * 0, cases


def check_loss(model_class: type, train: TrainConfig) -> None:
    """Check that a model supports what its train section asks for.

    Raises:
        ConfigError: a model that can't be packed is given a temperature, precision, stride or sampled loss.
    """
    asked = [
        name for name in ("temperature", "precision", "stride") if getattr(train, name) != default_of(TrainConfig, name)
    ]
    asked += [f"loss: {train.loss}"] * (train.draws_items)
    if asked and not can_pack(model_class):
        raise ConfigError(
            f"`{asked[0]}` isn't supported for {model_class.__name__}, which uses RecBole's loss; leave it out, or use "
            "SASRec, eSASRec or GRU4Rec"
        )


def build_training(
    model_class: Any, config: Any, split: Any, sequences: TrainingSequences, train: TrainConfig, seed: int
) -> tuple[Any, EpochSteps]:
    """Build a model, initialised from the seed, and the steps of its training: every position, or RecBole's way.

    Args:
        config: RecBole's config for this model; it names the device.
        split: the training split; `sequences` are its sequences.

    Raises:
        ConfigError: this model can't be trained with the loss.
    """
    check_loss(model_class, train)
    seed_everything(seed)
    every_position = train.loss != "recbole" and can_pack(model_class)
    # Before the model, which reads what the loader puts into the config.
    batches = None if every_position else recbole_batches(config, split)
    model = model_class(config, split).to(config["device"])
    model.count(sequences)
    if every_position:
        return model, EveryPosition(model, sequences, config["MAX_ITEM_LIST_LENGTH"], train, seed)
    if parallel.rank():  # each process draws its own dropout; the generator of the batches stays the same in all
        torch.manual_seed(hash_seed(seed, parallel.rank()))
    return model, RecboleWay(model, batches)


def recbole_batches(config: Any, train: Any) -> TrainDataLoader:
    """Return RecBole's own loader over a training split, with the sampler that the config asks for."""
    sampler, _, _ = create_samplers(config, train, [train, train, train])
    return TrainDataLoader(config, train, sampler, shuffle=True)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, as RecBole does."""
    init_seed(seed, True)


def hash_seed(seed: int, number: int) -> int:
    """Derive a seed from a seed and a number, for each epoch of a run or for each process."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
