"""`blair_rec.export_vectors(run_dir, out)`: write the item vectors of a run, for a nearest-neighbour index."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np

from blair_rec.device import AUTO
from blair_rec.errors import ConfigError
from blair_rec.experiment.loading import Loaded, load_model
from blair_rec.files.locks import whole_folder
from blair_rec.files.places import real_place, refuse_foreign
from blair_rec.registry import trusting
from blair_rec.serve.export.approximation import approximated
from blair_rec.serve.export.factor_files import ITEMS, RECORD, SOURCES, write_factors
from blair_rec.serve.export.factored import scorers_in, tables_in
from blair_rec.serve.export.folder import refuse_second_stage
from blair_rec.serve.recommender import Recommender

TOKENS = "items.json"
EXPORTED = (ITEMS, TOKENS)
"""The files that every export has. A single items.json may belong to something else."""


def export_vectors(
    run_dir: str | Path,
    out: str | Path,
    store: str | Path | None = None,
    device: str = AUTO,
    trusted: Collection[str] = (),
    rules_rank: int | None = None,
) -> Path:
    """Write the item vectors of a finished run into a folder, for a nearest-neighbour index by inner product.

    OUT/items.npy is [items, D] float32, OUT/items.json the item token of each row. An earlier export is replaced when
    the new one is complete; a folder with anything else in it is not changed. `load(run_dir).user_vectors(histories)`
    gives the queries.

        folder = blair_rec.export_vectors("runs/mine/runs/text-1", "vectors")
        numpy.load(folder / "items.npy")

    Rules between items (markov, sequential_rules, text_rules) are not inner products. With `rules_rank`, vectors of
    this rank approximate each table of rules, and `load(run_dir, vectors=OUT).user_vectors(histories)` gives the
    queries. OUT/rules.json says how exact the scores are; OUT/rules_sources.npy has the vectors that make the queries.

    Args:
        run_dir: a finished run, or a refit.
        store, device, trusted: as for `load`.
        rules_rank: the rank of the vectors that approximate rules; None for a run without rules.

    Returns:
        The path of OUT.

    Raises:
        ConfigError: the scores are not inner products; or `rules_rank` is not between 1 and the number of items, or the
            run has no rules. CheckpointError and others: see `load`.
        OutputError: `out` is not an earlier export, or can't be written.
    """
    run_dir, out = Path(run_dir), Path(out)
    for file in EXPORTED:
        refuse_foreign(real_place(out), {file}, (*EXPORTED, RECORD, SOURCES))
    with trusting(trusted):
        loaded = load_model(run_dir, store, device=device)
    if rules_rank is not None:
        refuse_second_stage(run_dir)
        _refuse_others(loaded)
        loaded, approximation = approximated(run_dir, loaded, rules_rank)
    recommender = Recommender(loaded.model, loaded.item_tokens, loaded.width)
    with whole_folder(out, "export", f"the vectors {out}") as partial:
        np.save(partial / ITEMS, recommender.item_vectors(), allow_pickle=False)
        (partial / TOKENS).write_text(json.dumps(recommender.item_tokens), encoding="utf-8")
        if rules_rank is not None:
            write_factors(partial, run_dir, loaded, approximation)
    return out


def _refuse_others(loaded: Loaded) -> None:
    """Check, before the slow approximation, that all scores except those of rules are inner products.

    Raises:
        ConfigError: other scores are not inner products.
    """
    tables = tables_in(loaded.model)
    others = {type(one).__name__ for one in scorers_in(loaded.model) if not one.scores_by_product and one not in tables}
    if others:
        raise ConfigError(
            f"the scores of {' and '.join(sorted(others))} are not inner products of a user's vector and an item's, "
            "and rules_rank only approximates rules between items; average other members"
        )
