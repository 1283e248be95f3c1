"""A variant's config and a store's vectors -> its item side: the only place that knows both."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from blair_rec.config.sections import VariantConfig
from blair_rec.config.steps import followed_by
from blair_rec.models.items.base import ItemSide
from blair_rec.models.items.id_text import IdTextItems
from blair_rec.models.items.sasrec_text import SASRecTextItems
from blair_rec.models.items.text import TextItems
from blair_rec.models.items.text_delta import TextDeltaItems
from blair_rec.models.items.text_init import TextInitItems
from blair_rec.models.items.unisrec import UniSRecItems
from blair_rec.models.whitening import fit_checked

KINDS: dict[str, type[ItemSide]] = {
    "text": TextItems,
    "text_init": TextInitItems,
    "text_delta": TextDeltaItems,
    "id_text": IdTextItems,
    "unisrec": UniSRecItems,
    "sasrec_text": SASRecTextItems,
}
"""By the name in the config; `id` is the model's own embedding."""


def build_items(
    variant: VariantConfig,
    vectors: np.ndarray,
    replaced: nn.Embedding,
    *,
    seed: int,
    fitted: Mapping[str, np.ndarray] | None = None,
) -> ItemSide:
    """The item side of a variant that uses text, in the place of `replaced`.

    Args:
        vectors: [C, E] text vectors by item id, row 0 is padding.
        replaced: [N, H] as the model initialised it.
        seed: of the control.
        fitted: what the transforms found when they were fitted for this item side before; None: they are fitted now.

    Raises:
        ConfigError: whitening over too few items.
    """
    kind = KINDS[variant.items]
    options = {name: getattr(variant, name) for name in ("fusion", "max_delta")}
    rows = controlled(vectors[1:], variant.control, seed)
    steps = followed_by(variant.transforms, kind.steps(replaced.embedding_dim))
    transforms, rows = fit_checked(rows, steps, fitted)
    given = {name: value for name, value in options.items() if value is not None}
    items = kind(torch.from_numpy(rows).float(), replaced, **given)
    items.transforms = transforms
    return items


def controlled(rows: np.ndarray, control: str | None, seed: int) -> np.ndarray:
    """[n, E] float64 text vectors, as they are, or without any meaning where a control asks for that.

    `shuffle` permutes the rows, `random` draws Gaussian rows of the same size.
    """
    rows = np.asarray(rows, dtype=np.float64)
    generator = np.random.default_rng(seed)
    if control == "shuffle":
        return rows[generator.permutation(len(rows))]
    if control == "random":
        drawn: np.ndarray = generator.standard_normal(rows.shape) * np.sqrt(np.mean(rows**2))
        return drawn
    return rows
