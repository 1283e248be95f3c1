"""The text vectors of new items, as a run takes them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.evaluate.runs.recorded import read_recorded
from blair_rec.experiment.planning.plan import member_folders
from blair_rec.models.items import controlled
from blair_rec.text.store.embeddings import EmbeddingStore, open_store


def new_vectors(
    run_dir: Path, setup: Mapping[str, Any], store: EmbeddingStore | None, known: Sequence[str], new: Sequence[str]
) -> list[np.ndarray | None]:
    """The vectors of new items for a run's scorer, or for each member of an average; None where no text is used.

    Args:
        run_dir: the run's folder; the folders of its members are next to it.
        setup: the run's set-up (plan.run_setup).
        store: the run's text vectors; stores of members are opened where their runs found them.
        known, new: item tokens, without the padding.

    Raises:
        MissingEmbeddings, TextlessItems, StoreError: a store doesn't cover the items.
    """
    if "average" not in setup:
        return [None if store is None else _vectors(store, setup, known, new)]
    found: list[np.ndarray | None] = []
    for folder in member_folders(run_dir, setup):
        result = read_recorded(folder)
        opened = open_store(folder / result["store"]) if result["store"] else None
        found += new_vectors(folder, result["setup"], opened, known, new)
    return found


def _vectors(store: EmbeddingStore, setup: Mapping[str, Any], known: Sequence[str], new: Sequence[str]) -> np.ndarray:
    """[new items, E]; an item without text gets what `missing_text` says, and a mean is that of the known items.

    A control also replaces the vectors of new items: they are shuffled among themselves, or random.
    """
    missing_text = setup["text"]["missing_text"]
    rows = store.find([*known, *new], missing_text)[len(known) :]
    table = np.zeros((len(new), store.text_dim), dtype=np.float32)
    has_text = rows >= 0
    table[has_text] = store.table([token for token, row in zip(new, rows, strict=True) if row >= 0], "zeros")
    if missing_text == "mean" and not has_text.all():
        table[~has_text] = store.table(known, "mean").mean(axis=0, dtype=np.float64)
    control = setup["control"]
    return table if control is None else controlled(table, control, setup["seed"])
