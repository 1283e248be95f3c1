"""Two computations of a trained model as ONNX files: item vectors -> a user's vector, text vectors -> item vectors.

Shapes: B histories, L items of a history at most, H hidden_size, E text_dim, M items.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from blair_rec.errors import ConfigError
from blair_rec.models.items import ItemSide
from blair_rec.models.packed import can_pack
from blair_rec.models.similarity import as_query, product_scorer, state_fields
from blair_rec.models.text_models import TextScorer, item_side
from blair_rec.models.transforms import L2, FittedTransforms, Rescale, Transform
from blair_rec.ranking.scorers import LastItem, MeanHistory, RecentHistory

MASKED = "BERT4Rec"
"""The one model that reads a mask in the place of the next item, and adds a number of each item to its score."""


class UserEncoder(nn.Module):
    """item_vectors [B, L, H] float32, oldest item first, and lengths [B] int64 -> users' vectors [B, H] float32.

    The product with an item's vector is the item's score. Vectors after a history's length are ignored.
    """

    model: Any
    padding: Tensor
    mask: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().cpu()
        self.model.device = torch.device("cpu")  # where some models make what they need
        weight = item_side(self.model).weight.detach()
        self.masked = model.recbole_base.__name__ == MASKED
        self.fields = [] if self.masked else state_fields(product_scorer(type(model)))
        self.register_buffer("padding", weight[0].clone())  # RecBole's own is not zero, and some models read it
        self.register_buffer("mask", weight[-1].clone())
        self.held = _Held()
        parent, _, last = model.item_side_name.rpartition(".")
        setattr(self.model.get_submodule(parent), last, self.held)

    def forward(self, item_vectors: Tensor, lengths: Tensor) -> Tensor:
        place = torch.arange(item_vectors.shape[1], device=lengths.device)
        known = place < lengths[:, None]
        vectors = torch.where(known[..., None], item_vectors, self.padding)
        if self.masked:  # as RecBole does: the first item gives way, and the mask comes last
            vectors = torch.cat([vectors[:, 1:], self.padding.expand(vectors.shape[0], 1, -1)], dim=1)
            vectors = torch.where((place == lengths[:, None] - 1)[..., None], self.mask, vectors)
        self.held.vectors = vectors
        if self.masked:
            state = self.model.gather_indexes(self.model(known.long()), lengths - 1)
        else:
            given = {"ITEM_SEQ": known.long(), "ITEM_SEQ_LEN": lengths}
            state = self.model(*(given[field] for field in self.fields))
        self.held.vectors = None
        return as_query(state, self.model.blair_temperature)


class _Held(nn.Module):
    """A replacement of a model's item embedding. It returns the given vectors of histories, whatever the ids are."""

    vectors: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor | None:
        return self.vectors


class NeighbourEncoder(nn.Module):
    """The user encoder of a scorer by neighbours: a mean of the history's item vectors, weighted as the scorer does.

    Shapes are those of `UserEncoder`.
    """

    def __init__(self, scorer: LastItem) -> None:
        super().__init__()
        self.kind = type(scorer)

    def forward(self, item_vectors: Tensor, lengths: Tensor) -> Tensor:
        age = lengths[:, None] - torch.arange(item_vectors.shape[1])
        if issubclass(self.kind, RecentHistory):
            weights = torch.where(age > 0, 1 / age.clamp(min=1), 0.0)
        elif issubclass(self.kind, MeanHistory):
            weights = (age > 0).float()
        else:
            weights = (age == 1).float()
        weights = weights / weights.sum(dim=1, keepdim=True)
        return (weights[:, None, :] @ item_vectors)[:, 0]


class RulesEncoder(nn.Module):
    """The user encoder of rules whose table is a product: sources [B, L, R] of the history's items -> [B, R + 1]."""

    def __init__(self, reach: int) -> None:
        """`reach` is how many of the newest items of a history count."""
        super().__init__()
        self.reach = reach

    def forward(self, item_vectors: Tensor, lengths: Tensor) -> Tensor:
        """Return the sum of the sources, each divided by its age, and a 1 for the popularity."""
        age = lengths[:, None] - torch.arange(item_vectors.shape[1])
        weights = torch.where((age > 0) & (age <= self.reach), 1 / age.clamp(min=1), 0.0)
        total = (weights[:, None, :] @ item_vectors)[:, 0]
        return torch.cat([total, torch.ones_like(total[:, :1])], dim=1)


class ItemProjection(nn.Module):
    """store_vectors [M, E] float32, as a store has them -> item vectors [M, H] float32; transforms run in float64.

    `side` is an item side that takes new items. A LastItem scorer only has vectors of length 1.
    """

    def __init__(self, side: ItemSide | LastItem, transforms: FittedTransforms) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_Step(step) for step in transforms.steps)
        self.rows = _Rows(copy.deepcopy(side)) if isinstance(side, ItemSide) else None

    def forward(self, store_vectors: Tensor) -> Tensor:
        table = store_vectors.double()
        for step in self.steps:
            table = step(table)
        if self.rows is None:
            return _unit(table).float()
        table = table.float()
        own = {name: value for name, value in self.rows.state_dict().items() if name == "side.delta"}
        zero = {name: table.new_zeros(table.shape[0], value.shape[1]) for name, value in own.items()}
        return functional_call(self.rows, {"side.table": table, **zero})


class _Rows(nn.Module):
    """An item side's rows as a module, which functional_call can call."""

    def __init__(self, side: ItemSide) -> None:
        super().__init__()
        self.side = side.eval()

    def forward(self) -> Tensor:
        return self.side.rows()


class _Step(nn.Module):
    """A fitted transform: [M, E] -> [M, E'] float64."""

    first: Tensor
    mean: Tensor
    matrix: Tensor
    least: Tensor
    factor: Tensor

    def __init__(self, step: Transform) -> None:
        super().__init__()
        self.kind = type(step)
        for name, array in step.arrays.items():
            self.register_buffer(name, torch.from_numpy(array).double())
        self._multiplies = "matrix" in dict(self.named_buffers())

    def forward(self, vectors: Tensor) -> Tensor:
        if issubclass(self.kind, L2):
            return _unit(vectors, self.least)
        if issubclass(self.kind, Rescale):
            return vectors * self.factor
        vectors = vectors - self.first - self.mean
        return vectors @ self.matrix if self._multiplies else vectors


def _unit(vectors: Tensor, least: Tensor | float = 0.0) -> Tensor:
    """`unit_rows` as a graph: [M, E] float64 -> the same shape; rows that are not longer than `least` become zero."""
    lengths = vectors.square().sum(dim=1, keepdim=True).sqrt()
    return torch.where(lengths > least, vectors / lengths.clamp(min=1e-300), 0.0)


def encoder_of(model: Any, name: str) -> UserEncoder:
    """Return the part of a trained model that turns a history into a user's vector.

    Raises:
        ConfigError: its scores are not products of a vector of the history and one of each item, or it reads more of a
            history than its items.
    """
    base = model.recbole_base.__name__
    scorer = product_scorer(type(model))
    if scorer is None and base != MASKED:
        raise ConfigError(
            f"{name} can't be exported: the scores of {base} are not products of a user's vector and an item's"
        )
    if scorer is not None and (others := set(state_fields(scorer)) - {"ITEM_SEQ", "ITEM_SEQ_LEN"}):
        raise ConfigError(f"{name} can't be exported: {base} reads more than a history's items ({', '.join(others)})")
    return UserEncoder(model)


def reads_any_length(model: Any) -> bool:
    """Whether histories may be padded to any length; other models of RecBole get their whole window."""
    return not isinstance(model, TextScorer) or can_pack(type(model))


def write_user_encoder(
    encoder: UserEncoder | NeighbourEncoder | RulesEncoder, width: int, window: int | None, path: Path
) -> None:
    """Write an encoder as an ONNX file, for any number of histories, of any length if `window` is None.

    Raises:
        ConfigError: it can't be written in ONNX (and why).
    """
    length = window or 3
    example = torch.rand(2, length, width), torch.tensor([length, max(1, length - 1)])
    batch, some = torch.export.Dim("batch"), torch.export.Dim("length")
    vectors = {0: batch} if window else {0: batch, 1: some}
    names = ["item_vectors", "lengths"], ["user_vectors"]
    _write(encoder, example, ({**vectors}, {0: batch}), names, path)


def write_text_projection(projection: ItemProjection, text_dim: int, path: Path) -> None:
    """Write a projection as an ONNX file, for any number of items.

    Raises:
        ConfigError: it can't be written in ONNX (and why).
    """
    shapes = ({0: torch.export.Dim("items")},)
    _write(projection, (torch.rand(2, text_dim),), shapes, (["store_vectors"], ["item_vectors"]), path)


def _write(module: nn.Module, example: Any, shapes: Any, names: tuple[list[str], list[str]], path: Path) -> None:
    from torch.onnx.errors import OnnxExporterError

    with _quiet(), torch.no_grad():
        try:
            torch.onnx.export(
                module.eval().cpu(),
                example,
                str(path),
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except (OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise ConfigError(f"{path.name} can't be written in ONNX: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: it warns of its own deprecated parts, and logs a line for each of its passes."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
