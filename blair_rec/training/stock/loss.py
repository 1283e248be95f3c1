"""RecBole's own loss of a batch, without most of the padding: the list of models for which the result is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blair_rec.models.similarity import SCORE_BY_PRODUCT
from blair_rec.training.stock.caser import caser_forward
from blair_rec.training.stock.groups import forward_in_groups, groups_of
from blair_rec.training.stock.modules import cheaper_modules
from blair_rec.training.stock.sine import sine_forward
from blair_rec.training.stock.softmax import CatalogueSoftmax

from recbole.model import sequential_recommender as models

Least = Callable[[Any], int | None]
"""A model -> the fewest slots of a history that its forward can take; None if these settings don't allow a cut."""


def _one(model: Any) -> int:
    return 1


def _hrm(model: Any) -> int | None:
    """The mean over a history counts its padding; the maximum reads the last items alone."""
    return int(model.high_order) if model.pooling_type_layer_1 == "max" else None


CUT: dict[type[Any], Least] = {
    models.BERT4Rec: _one,
    models.CORE: _one,
    models.FDSA: _one,
    models.GCSAN: _one,
    models.GRU4RecF: _one,
    models.HRM: _hrm,
    models.NARM: _one,
    models.SASRecF: _one,
    models.SHAN: lambda model: int(model.short_item_length),
    models.SRGNN: _one,
}
"""Models whose states stay the same if a history loses its padding. Others read the padding as well, so they get all of
it: STAMP and FOSSIL sum over it, LightSANs weights it, NextItNet runs convolutions over it, FEARec a Fourier transform;
SASRecCPR reads the last slot. TransRec reads one item, so it would gain nothing."""
PADDING_COUNTED: dict[type[Any], Callable[[Any], Callable[..., Tensor] | None]] = {
    models.Caser: caser_forward,
    models.SINE: sine_forward,
}
"""Models that read the padding, and for each a forward of ours: it takes cut histories and gives what the model's gives
for whole ones. None if the user has changed parts of the model."""
PADDED_LEFT = (models.SHAN,)
"""Models that get histories with the padding first."""
PRODUCT_WITH_ALL = (*(cls for cls in SCORE_BY_PRODUCT if cls not in (models.SASRec, models.GRU4Rec)), models.CORE)
"""Models whose loss is the cross entropy of states times the vectors of all items, and that can't be packed."""
ONLY_LAST = (models.FDSA, models.GCSAN, models.SASRecF)
"""Models with RecBole's transformer that read each history's last state alone."""
PER_GROUP = 512
"""Fixed cost of a group, in slots of histories. Measured: 256 and 1,024 are about as fast, 64 and 3,000 are slower."""
PER_PART = 64
"""Fixed cost of a part of a batch, in predictions over all items."""


def stock_loss(model: Any, batch: Any) -> Tensor:
    """Return the loss [] of a batch as RecBole's own `calculate_loss` gives it, up to rounding; dropout is as random.

    On a CPU, models of the lists above run in groups of similar length and score the items in chunks. Other models and
    classes with code in place of theirs run as they are. So do all models on a GPU, where groups were not measured.
    """
    base = getattr(model, "recbole_base", type(model))
    methods = ("forward", "calculate_loss")
    own_code = any(name in vars(model) or getattr(type(model), name) is not getattr(base, name) for name in methods)
    if own_code or model.device.type != "cpu":
        return _summed(model.calculate_loss(batch))
    scores_all = base in PRODUCT_WITH_ALL and model.loss_type == "CE"
    with ExitStack() as stack:
        stack.enter_context(cheaper_modules(model, base in ONLY_LAST, scores_all))
        if base in PRODUCT_WITH_ALL:
            stack.enter_context(CatalogueSoftmax(model.n_items))
        if base in CUT and (least := CUT[base](model)) is not None:
            stack.enter_context(forward_in_groups(model, model.forward, least, base in PADDED_LEFT, PER_GROUP))
        if base in PADDING_COUNTED and (ours := PADDING_COUNTED[base](model)) is not None:
            stack.enter_context(forward_in_groups(model, ours, 1, False, PER_GROUP))
        if base is models.BERT4Rec:
            return torch.stack([weight * model.calculate_loss(part) for part, weight in _by_masks(model, batch)]).sum()
        return _summed(model.calculate_loss(batch))


def _summed(loss: Tensor | tuple[Tensor, ...]) -> Tensor:
    return torch.stack(loss).sum() if isinstance(loss, tuple) else loss


def _by_masks(model: Any, batch: Any) -> Iterator[tuple[Any, float]]:
    """Yield parts of a batch of BERT4Rec with the share of its targets in each: rows with similar numbers of targets.

    RecBole scores all items for every mask that a row could have, and gives a weight of 0 to those that it doesn't have
    (and to a mask in the first slot). The masks of a row are at the end of its fields.
    """
    counts = (batch[model.MASK_INDEX] > 0).sum(1).cpu().numpy()
    total = counts.sum()
    if total == 0:
        yield batch, 1.0
        return
    with_targets = np.flatnonzero(counts)
    for some, width in groups_of(counts[with_targets], PER_PART):
        rows = with_targets[some]
        part = batch[rows]
        for field in (model.MASK_INDEX, model.POS_ITEMS, model.NEG_ITEMS):
            part[field] = part[field][:, -width:].contiguous()
        yield part, float(counts[rows].sum() / total)
