"""The steps of a student: the loss also asks for the teacher's best items at every training position.

Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015) for soft targets next to the
target; Tang and Wang, "Ranking distillation" (KDD 2018, arXiv 1809.07428) for a teacher's top list at every training
position. There each item of the list is a binary target; here the list is one soft target of a full softmax.

Shapes: C training positions, P targets of a batch, K items in a list, N item ids with the padding row 0, H hidden_size.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from blair_rec.config.sections import TrainConfig
from blair_rec.data.sequences import TrainingSequences
from blair_rec.device import moved
from blair_rec.errors import ConfigError
from blair_rec.models.dropout import BitDropout
from blair_rec.models.packed import hidden_states
from blair_rec.models.similarity import as_key, as_query
from blair_rec.models.text_models import item_side
from blair_rec.training.checkpoint import SCHEMA, save_tensors
from blair_rec.training.epochs import EveryPosition, StepLosses
from blair_rec.training.losses import full_softmax

BLOCK = 1 << 14
"""Lists that become soft targets together."""
LOWEST = 1e-300
"""The lowest temperature that is used. Scores over a lower one are infinite; over this one the best item has it all."""


@dataclass(frozen=True, eq=False)
class TaughtLists:
    """The teacher's best items at every training position, in the order of the targets in the training sequences."""

    items: np.ndarray
    """[C, K] int32 item ids, best first."""
    scores: np.ndarray
    """[C, K] float32 scores, standardised over all items; -inf for an item that isn't a candidate."""
    ndcg: float
    """The teacher's NDCG@10 at the training positions."""

    def save(self, path: Path) -> None:
        """Write a complete safetensors file or none.

        Raises:
            OutputError: the disk is full.
        """
        arrays = {"items": self.items, "scores": self.scores, "ndcg": np.array([self.ndcg])}
        save_tensors({name: torch.from_numpy(array) for name, array in arrays.items()}, path, {"schema": SCHEMA})

    @classmethod
    def load(cls, path: Path, shape: tuple[int, int], n_items: int) -> TaughtLists | None:
        """Read what `save` has written; None if the file is damaged, or has lists of another shape than [C, K]."""
        try:
            found = {name: tensor.numpy() for name, tensor in load_file(path).items()}
            items, scores, ndcg = found["items"], found["scores"], float(found["ndcg"].item())
        except (SafetensorError, KeyError, OSError, TypeError, ValueError):
            return None
        fits = items.dtype == np.int32 and scores.dtype == np.float32 and items.shape == scores.shape == shape
        if not fits or items.min() < 0 or items.max() >= n_items or np.isnan(scores).any():
            return None
        return cls(items, scores, ndcg)


@dataclass(frozen=True, eq=False)
class Teaching:
    """The lists that a student learns from its teacher, and their weight in the loss."""

    lists: TaughtLists
    weight: float
    """The teacher's part of the loss, from 0 to 1."""
    temperature: float
    """The temperature of the softmax over each list; above 0."""


def soft_targets(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return the softmax of each list's scores over `temperature`: [C, K] float32 -> [C, K] float32.

    The scores of a list are standardised first, over its candidates, because a list with one rule has much larger
    scores than one with none. An item with -inf, which isn't a candidate, gets 0. A list without candidates has zeros.
    """
    temperature = max(temperature, LOWEST)
    shares = np.empty(scores.shape, dtype=np.float32)
    for begin in range(0, len(scores), BLOCK):
        block = scores[begin : begin + BLOCK]
        candidate = np.isfinite(block)
        finite = np.where(candidate, block, 0).astype(np.float64)
        number = np.maximum(candidate.sum(1, keepdims=True), 1)
        centred = np.where(candidate, finite - finite.sum(1, keepdims=True) / number, 0)
        deviation = np.sqrt((centred**2).sum(1, keepdims=True) / number)
        scaled = centred / np.where(deviation > 0, deviation, 1) / temperature
        powers = np.where(candidate, np.exp(scaled - scaled.max(1, keepdims=True)), 0)
        shares[begin : begin + BLOCK] = powers / np.maximum(powers.sum(1, keepdims=True), 1e-30)
    return shares


def distillation_loss(
    query: Tensor, targets: Tensor, weight: Tensor, items: Tensor, shares: Tensor, part: float, precision: torch.dtype
) -> Tensor:
    """Return (1 - part) * cross entropy of the targets + part * cross entropy of the teacher's soft targets.

    Both are means over the targets, among all items but the padding. The cross entropy of any distribution over items
    is the log of the softmax's sum minus the mean score under this distribution. So the loss is the plain one, plus
    `part` times the difference between the target's score and the teacher's mean score.

    Shapes: query [P, H], targets [P] int64, weight [N, H], items [P, K] int, shares [P, K] (each row sums to 1) -> [].
    """
    loss = full_softmax(query, targets, weight, None, precision)
    if part == 0:
        return loss
    taught = F.embedding_bag(items.long(), weight, mode="sum", per_sample_weights=shares.to(weight.dtype))
    return loss + part * (query * (weight[targets] - taught)).sum(1).mean()


class Distilled(EveryPosition):
    """Steps of EveryPosition, with the same windows and dropout; the loss is `distillation_loss`.

    The lists are in the order of the targets in the training sequences. On a GPU steps are not recorded as graphs.

    Raises:
        ConfigError: the loss of the train section is not the full softmax.
    """

    def __init__(
        self, model: Any, sequences: TrainingSequences, width: int, train: TrainConfig, seed: int, teaching: Teaching
    ) -> None:
        super().__init__(model, sequences, width, train, seed)
        if train.loss != "full_softmax":
            raise ConfigError(f"distill is written for loss: full_softmax, not for {train.loss}")
        self.part = teaching.weight
        self.lists, self.shares = map(torch.from_numpy, self._targets(sequences, teaching))
        # The same windows over the numbers of the events, from 1 on, say which training position a target is.
        self._numbers = dataclasses.replace(sequences, items=np.arange(1, len(sequences.items) + 1))
        self._items = torch.from_numpy(np.concatenate([[0], sequences.items]))
        self._position = torch.from_numpy(np.concatenate([[0], np.cumsum(sequences.is_target) - 1]))

    @staticmethod
    def _targets(sequences: TrainingSequences, teaching: Teaching) -> tuple[np.ndarray, np.ndarray]:
        """Return the lists and their soft targets, [C, K]; a list without candidates becomes the target.

        There the loss is the plain cross entropy.
        """
        items, shares = teaching.lists.items, soft_targets(teaching.lists.scores, teaching.temperature)
        if (empty := np.flatnonzero(~shares.any(axis=1))).size:
            items = items.copy()  # other students learn from it, too
            items[empty, 0], shares[empty, 0] = sequences.items[sequences.is_target][empty], 1
        return items, shares

    def __call__(self, epoch: int) -> StepLosses:
        seed, own_seed = self._seeds(epoch)
        model, train, dropout = self.model, self.train, BitDropout(own_seed)
        precision = getattr(torch, train.precision)
        for numbers in self._batches(self._numbers, seed):
            learnt = torch.nonzero(numbers.targets).squeeze(1)
            position = self._position[numbers.targets[learnt]]
            items, shares = (moved(part[position], model.device) for part in (self.lists, self.shares))
            packed = dataclasses.replace(
                numbers, items=self._items[numbers.items], targets=self._items[numbers.targets]
            ).to(model.device)
            learnt = moved(learnt, model.device)
            with model.shared_items():
                some = learnt if len(learnt) < len(packed.targets) else None
                query = as_query(hidden_states(model, packed, dropout, some), train.temperature)
                if len(learnt) == 0:
                    yield query.sum(), 0
                    continue
                weight = as_key(item_side(model).weight, train.temperature)
                targets = packed.targets[learnt]
                yield distillation_loss(query, targets, weight, items, shares, self.part, precision), len(learnt)
