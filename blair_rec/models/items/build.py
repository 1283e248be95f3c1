"""Build an item side from a variant's config and a store's vectors; no other module uses both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from blair_rec import registry
from blair_rec.config.steps import Step, followed_by
from blair_rec.config.variant import VariantConfig
from blair_rec.errors import ConfigError
from blair_rec.models.items.base import ItemSide
from blair_rec.models.whitening import fit_checked


def build_items(
    variant: VariantConfig,
    vectors: np.ndarray,
    replaced: nn.Embedding,
    *,
    seed: int,
    fitted: Mapping[str, np.ndarray] | None = None,
) -> ItemSide:
    """Build the item side of a variant that uses text, as a replacement for `replaced`.

    Args:
        vectors: [C, E] text vectors by item id, row 0 is padding.
        replaced: [N, H] as the model initialised it.
        seed: seed of the control.
        fitted: what the transforms found in an earlier fit for this item side; None: fit them now.

    Raises:
        ConfigError: whitening over too few items; an item side of another package that can't be imported, is not an
            ItemSide, or doesn't take its options; UntrustedCode: as registry.load.
    """
    kind = item_kind(variant)
    options = {**{name: getattr(variant, name) for name in ("fusion", "max_delta")}, **variant.options}
    given = {name: value for name, value in options.items() if value is not None or name in variant.options}
    items = build_side(
        kind,
        given,
        vectors,
        replaced,
        transforms=variant.transforms,
        control=variant.control,
        seed=seed,
        fitted=fitted,
    )
    if registry.is_outside("items", variant.items) and items.weight.shape != replaced.weight.shape:
        raise ConfigError(
            f"the item side {variant.items} has a table of {list(items.weight.shape)}, but the embedding that it "
            f"replaces has {list(replaced.weight.shape)}; `rows` has to return one vector of the model's width for "
            "each item"
        )
    return items


def build_side(
    kind: type[ItemSide],
    options: Mapping[str, Any],
    vectors: np.ndarray,
    replaced: nn.Embedding,
    *,
    transforms: Sequence[Step] = (),
    control: str | None = None,
    seed: int = 0,
    fitted: Mapping[str, np.ndarray] | None = None,
) -> ItemSide:
    """Build an item side of any class on transformed vectors: kind(vectors, replaced, **options).

    Raises:
        ConfigError: whitening over too few items.
    """
    rows = controlled(vectors[1:], control, seed)
    found, rows = fit_checked(rows, followed_by(transforms, kind.steps(replaced.embedding_dim)), fitted)
    items = kind(torch.from_numpy(rows).float(), replaced, **options)
    items.transforms = found
    return items


def item_kind(variant: VariantConfig) -> type[ItemSide]:
    """Return the class of a variant's item side; it is called with the vectors, the embedding and the options.

    Raises:
        ConfigError, UntrustedCode: as in build_items, for the class.
    """
    kind: type[ItemSide] = registry.load_class("items", variant.items, ItemSide, needs=("rows",))
    if registry.is_outside("items", variant.items):
        registry.check_call("items", variant.items, kind, 2, variant.options)
    return kind


def controlled(rows: np.ndarray, control: str | None, seed: int) -> np.ndarray:
    """Return text vectors [n, E] float64, unchanged or, with a control, without any meaning.

    `shuffle` permutes the rows at random, `random` draws Gaussian rows of the same RMS.
    """
    rows = np.asarray(rows, dtype=np.float64)
    generator = np.random.default_rng(seed)
    if control == "shuffle":
        return rows[generator.permutation(len(rows))]
    if control == "random":
        return generator.standard_normal(rows.shape) * np.sqrt(np.mean(rows**2))
    return rows
