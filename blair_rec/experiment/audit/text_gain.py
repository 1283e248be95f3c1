"""How much text could add: text neighbours next to co-occurrence, and the targets that only one of them reaches.

Shapes: N item ids with the padding row 0, E the width of text vectors, Q items whose neighbours are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from blair_rec.config.names import ProtocolName
from blair_rec.data.sequences import TrainingSequences
from blair_rec.evaluate.slices import TAIL
from blair_rec.experiment.audit.facts import NEAR
from blair_rec.experiment.audit.scoring import case_values, choose
from blair_rec.ranking.scoring import Ranks
from blair_rec.text.unit import unit_rows

NEIGHBOURS, REACH = 10, 100
"""Neighbours of an item that are compared, and the rank up to which a scorer reaches a target."""
CELLS, BLOCK = 60_000_000, 512
"""Similarities that are computed for the comparison of neighbours, and items of one block."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest items by text next to those that share the most users."""

    items: int
    """Items that were compared: those with text and with an item that shares a user."""
    k: int
    overlap: float
    """Mean share of an item's nearest items by co-occurrence that are also among its k nearest by text."""
    by_chance: float
    """The same share for random neighbours."""
    alone: int
    """Items that share no training user with any other item, so that co-occurrence never reaches them."""
    alone_with_text: int
    """Items among these that have text."""
    near: float
    """Share of items with another item whose text has a cosine of at least NEAR."""


def compare_neighbours(sequences: TrainingSequences, vectors: NDArray[np.float32]) -> Neighbours:
    """Compare both kinds of neighbours of a sample of items; vectors: [N, E] by item id, zeros without text.

    Two items share a user if both are in one training sequence. Their similarity is the number of shared sequences
    divided by the geometric mean of the items' numbers of sequences.
    """
    n_items = len(vectors)
    unit = unit_rows(vectors)
    has_text = unit.any(axis=1)
    row = np.repeat(np.arange(len(sequences.offsets) - 1), np.diff(sequences.offsets))
    taken = csr_array((np.ones(len(row)), (row, sequences.items)), (len(sequences.offsets) - 1, n_items))
    taken.data[:] = 1  # an item counts once in a sequence
    often = np.asarray(taken.sum(axis=0)).ravel()
    scaled = (taken * (1 / np.sqrt(np.maximum(often, 1)))[None, :]).tocsr()
    several = np.asarray(taken.sum(axis=1)).ravel() > 1
    with_others = np.asarray(taken[several].sum(axis=0)).ravel() > 0
    with_others[0] = True
    known = np.flatnonzero(has_text & with_others)
    known = known[known > 0]
    queries = known[choose(len(known), CELLS // n_items)] if len(known) else known
    k = min(NEIGHBOURS, n_items - 2)
    shares: list[float] = []
    near = 0
    for begin in range(0, len(queries), BLOCK):
        some = queries[begin : begin + BLOCK]
        cosine = unit[some] @ unit.T
        cosine[np.arange(len(some)), some] = -2
        cosine[:, ~has_text] = -2
        near += int((cosine.max(axis=1) >= NEAR).sum())
        by_text = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        together = (scaled[:, some].T @ scaled).toarray()
        together[np.arange(len(some)), some] = 0
        by_users = np.argsort(-together, axis=1, kind="stable")[:, :k]
        for place in range(len(some)):
            real = by_users[place][together[place, by_users[place]] > 0]
            shares.append(float(np.isin(real, by_text[place]).mean()))
    return Neighbours(
        items=len(queries),
        k=k,
        overlap=float(np.mean(shares)) if shares else 0.0,
        by_chance=k / max(n_items - 2, 1),
        alone=int((~with_others).sum()),
        alone_with_text=int((~with_others & has_text).sum()),
        near=near / len(queries) if len(queries) else 0.0,
    )


@dataclass(frozen=True)
class Reach:
    """The test targets that the best scorer of text alone and the best one without text reach."""

    text: str
    counts: str
    """The names of the two scorers."""
    k: int
    """A scorer reaches a target if it ranks it among the first k."""
    cases: int
    both: float
    only_text: float
    only_counts: float
    """Shares of the test cases."""
    items_only_text: int
    items_only_counts: int
    """Different target items that only one of the two reaches."""
    tail: float
    """Share of targets with at most TAIL training events, over all cases."""
    tail_only_text: float | None
    """The same among the cases that only text reaches; None if there are none."""
    hits: Mapping[str, float]
    """Recall@10 (or of fewer, with few items) of `text`, of `counts`, and of whichever of the two is right (`either`).
    """


def reach(
    names: tuple[str, str], ranks: tuple[Ranks, Ranks], protocol: ProtocolName, item_counts: NDArray[np.int64]
) -> Reach:
    """Compare two scorers, with text and without, on the same cases; item_counts: [N] training events."""
    n_items = len(item_counts) - 1
    k, first = min(REACH, max(1, n_items // 10)), min(10, n_items)
    # Tied scores reach a target with the probability that a random order of ties gives; above one half counts.
    text, counts = (case_values(one, f"Recall@{k}", protocol) > 0.5 for one in ranks)
    target = ranks[0].item
    in_tail = item_counts[target] <= TAIL
    of_text, of_counts = (case_values(one, f"Recall@{first}", protocol) for one in ranks)
    reached_text, reached_counts = set(target[text].tolist()), set(target[counts].tolist())
    only_text = text & ~counts
    return Reach(
        *names,
        k=k,
        cases=len(target),
        both=float((text & counts).mean()),
        only_text=float(only_text.mean()),
        only_counts=float((counts & ~text).mean()),
        items_only_text=len(reached_text - reached_counts),
        items_only_counts=len(reached_counts - reached_text),
        tail=float(in_tail.mean()),
        tail_only_text=float(in_tail[only_text].mean()) if only_text.any() else None,
        hits={
            "text": float(of_text.mean()),
            "counts": float(of_counts.mean()),
            "either": float((1 - (1 - of_text) * (1 - of_counts)).mean()),
        },
    )
