"""Build a training-free scorer from the set-up of a run.

Shapes: N item ids with the padding row 0, E text_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blair_rec import registry
from blair_rec.config.steps import Step
from blair_rec.data.dataset import ItemVectors
from blair_rec.errors import ConfigError
from blair_rec.models.items import controlled
from blair_rec.ranking.scorers.base import Baseline, Counted
from blair_rec.ranking.scorers.rules import Rules


def build_baseline(setup: Mapping[str, Any], recbole: Any, n_items: int, vectors: ItemVectors | None) -> Baseline:
    """Build the baseline of a run's set-up (plan.run_setup) on the config's device, with nothing counted yet.

    Args:
        recbole: a RecBole config, which names the device and the fields of an interaction.
        vectors: the items' text vectors, for nearest neighbours.

    Raises:
        ConfigError: whitening over too few items; a scorer of another package that can't be imported; the errors of
            `scorer_kind`; UntrustedCode: as registry.load.
    """
    kind, options = scorer_kind(setup), setup.get("options") or {}
    fields = recbole["ITEM_ID_FIELD"] + recbole["LIST_SUFFIX"], recbole["ITEM_LIST_LENGTH_FIELD"]
    if not kind.uses_text:
        return make_baseline(kind, options, n_items, fields).to(recbole["device"])
    assert vectors is not None  # the config asks for text fields
    rows = controlled(vectors.table[1:], setup["control"], setup["seed"])
    made = make_baseline(kind, options, n_items, fields, rows, setup["transforms"], vectors.fitted)
    return made.to(recbole["device"])


def make_baseline(
    kind: Any,
    options: Mapping[str, Any],
    n_items: int,
    fields: tuple[str, str],
    vectors: np.ndarray | None = None,
    transforms: Sequence[Step] = (),
    fitted: Mapping[str, np.ndarray] | None = None,
) -> Baseline:
    """Build a baseline of any class, with the arguments of `LastItem` if it uses text, else with those of `Counted`."""
    given = (vectors, transforms, *fields, fitted) if kind.uses_text else (n_items, *fields)
    baseline: Baseline = kind(*given, **options)
    return baseline


def scorer_kind(setup: Mapping[str, Any]) -> Any:
    """Return the class of a run's scorer; `make_baseline` calls it.

    Raises:
        ConfigError: a scorer of another package is not a Baseline, lacks a method, doesn't take its options, or needs
            text that the variant doesn't name; UntrustedCode: as registry.load.
    """
    name = setup["scorer"]
    kind = registry.load_class("scorers", name, Baseline)
    if registry.is_outside("scorers", name):
        registry.check_methods("scorers", name, kind, _needed(kind))
        if kind.uses_text != bool(setup.get("text")):
            raise ConfigError(
                f"the scorer {name} uses item text, but its variant has neither text nor transforms; add text, or "
                "transforms such as [center]"
                if kind.uses_text
                else f"the scorer {name} uses no text, so transforms, control and text have no effect; leave them out"
            )
        registry.check_call("scorers", name, kind, 5 if kind.uses_text else 3, setup.get("options") or {})
    return kind


def _needed(kind: type[Baseline]) -> dict[str, type]:
    """Return the methods that a scorer must define, each with the class whose method only raises an error."""
    needed: dict[str, type] = {"count": Counted}
    if kind.count is Rules.count:
        needed["table"] = Rules
    if kind.scores_by_product or kind.full_sort_predict is Baseline.full_sort_predict:
        needed |= {"user_vectors": Baseline, "item_matrix": Baseline}
    return needed
