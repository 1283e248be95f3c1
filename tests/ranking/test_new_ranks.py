"""Ranks of new items against brute force in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from worlds import SMALL, STOCK

from blair_rec.border.settings import recbole_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.hidden import NewItemCases, new_item_cases
from blair_rec.ranking.ensemble import Ensemble
from blair_rec.ranking.new_items import rank_new_items
from blair_rec.ranking.scorers import LastItem, Markov, Popularity, RecentHistory
from blair_rec.ranking.scoring import rank

FIELDS = "item_id_list", "item_length"


def read(tiny: Path) -> tuple[TextSequentialDataset, NewItemCases]:
    """The test split without half of the items, and the test cases of that half."""
    settings = {**SMALL, **STOCK}
    known, whole = (
        TextSequentialDataset(recbole_config("SASRec", str(tiny), settings), share).build()[2] for share in (0.5, None)
    )
    return known, new_item_cases(known, whole)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, behind one of zeros for the padding."""
    return np.vstack([np.zeros(vectors.shape[1]), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)])


def test_an_average_is_standardised_over_known_and_new_items(tiny: Path) -> None:
    """An ensemble doesn't reuse statistics of its known items alone."""
    known, cases = read(tiny)
    dice, n_known = np.random.default_rng(0), cases.known - 1
    first, second = dice.standard_normal((2, n_known + len(cases.tokens), 12)).astype(np.float32)
    first[n_known:, 0] += 6  # new items that lie apart: the spread of all items is another one than of the known
    members = [LastItem(first[:n_known], [], *FIELDS), RecentHistory(second[:n_known], [], *FIELDS)]
    ensemble = Ensemble(members, [0.5, 0.5])
    rank(ensemble, known, 64)
    found = rank_new_items(ensemble, [first[n_known:], second[n_known:]], cases, 7)

    row, item = (part.numpy() for part in cases.split.histories())
    targets = cases.split.inter_feat["item_id"].numpy()
    counts: dict[str, list[int]] = {"higher_unmasked": [], "higher_masked": [], "higher_new": []}
    for case, target in enumerate(targets):
        history = item[row == case]
        window = history[-SMALL["MAX_ITEM_LIST_LENGTH"] :]
        weights = 1 / np.arange(len(window), 0, -1)
        scores = np.zeros(n_known + len(cases.tokens))
        for query, vectors in (
            (unit(first)[window[-1]], unit(first)),
            (weights @ unit(second)[window] / weights.sum(), unit(second)),
        ):
            of_member = (vectors @ query)[1:]
            scores += (of_member - of_member.mean()) / of_member.std() / 2
        above = np.flatnonzero(scores > scores[target - 1]) + 1
        counts["higher_unmasked"].append(len(above))
        counts["higher_masked"].append(len(np.setdiff1d(above, history)))
        counts["higher_new"].append(int((above >= cases.known).sum()))
    assert len(targets) > 40
    for name, expected in counts.items():
        np.testing.assert_allclose(getattr(found, name), expected, atol=0, err_msg=name)
    assert found.reason == "" and found.history_length.tolist() == np.bincount(row).tolist()


@pytest.mark.parametrize("members", [(Markov,), (LastItem, Markov), (LastItem, Popularity)])
def test_who_knows_items_by_more_than_their_text_says_why(tiny: Path, members: tuple[type, ...]) -> None:
    _, cases = read(tiny)
    vectors = np.random.default_rng(0).standard_normal((cases.known - 1 + len(cases.tokens), 12)).astype(np.float32)
    made = [
        LastItem(vectors[: cases.known - 1], [], *FIELDS) if kind is LastItem else kind(cases.known, *FIELDS)
        for kind in members
    ]
    new = [vectors[cases.known - 1 :] if kind is LastItem else None for kind in members]
    found = rank_new_items(made[0] if len(made) == 1 else Ensemble(made), new, cases, 64)
    assert f"{members[-1].__name__} can only score the items that it was built with" in found.reason
    assert len(found.higher_new) == 0 and len(found.user) == len(cases.split)
