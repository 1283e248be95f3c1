"""A teacher's lists: rules counted without the user against counting again, and the best candidates of an average."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError, ScoringError
from blair_rec.ranking import teacher
from blair_rec.ranking.ensemble import Ensemble, standardised
from blair_rec.ranking.scorers import Popularity
from blair_rec.ranking.scorers.rules import Markov, SequentialRules
from blair_rec.ranking.scorers.without_user import RulesWithoutUser, positions_of
from blair_rec.ranking.teacher import taught_lists
from blair_rec.training.distillation import TaughtLists

ITEMS = 8
"""Ids of the made-up sequences: 0, the padding, to 7."""
SIZES = (ITEMS, "history", "length")
FEW = [[1, 2, 3, 4], [2, 3, 5], [1, 2, 6, 3], [3, 4, 7]]


def sequences_of(lists: list[list[int]]) -> TrainingSequences:
    offsets = np.cumsum([0, *map(len, lists)])
    is_target = np.ones(offsets[-1], dtype=bool)
    is_target[offsets[:-1]] = False
    return TrainingSequences(np.array([item for one in lists for item in one], dtype=np.int64), offsets, is_target)


def counted_by_hand(others: list[list[int]], history: list[int], source_power: float) -> list[float]:
    """Return the scores of all items after a history, from the sequences of other users alone."""
    pairs: dict[tuple[int, int], float] = defaultdict(float)
    events = [sum(one.count(item) for one in others) for item in range(ITEMS)]
    for one in others:
        for at, item in enumerate(one):
            for distance in range(1, min(at, 10) + 1):
                pairs[one[at - distance], item] += 1 / distance
    degree = [sum(value for (source, _), value in pairs.items() if source == item) for item in range(ITEMS)]
    found = [1e-4 * number / (1 + max(events)) for number in events]
    for age, source in enumerate(reversed(history), start=1):
        for item in range(ITEMS):
            if (source, item) in pairs:
                found[item] += pairs[source, item] / degree[source] ** source_power / age
    return found


LISTS = st.lists(st.lists(st.integers(1, ITEMS - 1), min_size=1, max_size=14), min_size=2, max_size=6)


@settings(max_examples=40)
@given(LISTS, st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 20))
def test_rules_without_the_user_are_those_counted_again_without_the_user(
    lists: list[list[int]], source_power: float, together: int
) -> None:
    sequences, width = sequences_of(lists), 5
    without = RulesWithoutUser(SequentialRules(*SIZES, source_power=source_power), sequences)
    found = [without.scores(batch, width) for batch in positions_of(sequences, together)]
    expected = [
        counted_by_hand(lists[:user] + lists[user + 1 :], one[max(0, at - width) : at], source_power)
        for user, one in enumerate(lists)
        for at in range(1, len(one))
    ]
    assert sum(map(len, found)) == len(expected) == sequences.n_targets
    if expected:
        np.testing.assert_allclose(torch.cat(found)[:, 1:], np.array(expected)[:, 1:], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("cells", [1, 20, 1 << 18])
def test_a_list_holds_the_best_candidates_outside_the_history(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "CELLS", cells)  # rows averaged together: the lists don't depend on it
    sequences, rules = sequences_of(FEW), SequentialRules(*SIZES)
    rules.count(sequences)
    found = taught_lists(Ensemble([rules]), sequences, 5, True, 7)
    cases = [(user, at) for user, one in enumerate(FEW) for at in range(1, len(one))]
    gain = 0.0
    for (user, at), items, scores in zip(cases, found.items, found.scores, strict=True):
        history = FEW[user][:at]
        by_hand = counted_by_hand(FEW[:user] + FEW[user + 1 :], history, 0)
        left = [item for item in range(1, ITEMS) if item not in history]
        listed = items[np.isfinite(scores)].tolist()
        assert sorted(listed) == left
        ordered = [by_hand[item] for item in listed]
        assert ordered == pytest.approx(sorted(ordered, reverse=True), abs=1e-6)
        gain += 1 / math.log2(2 + listed.index(FEW[user][at])) if FEW[user][at] in listed else 0
    assert found.ndcg == pytest.approx(gain / len(cases))
    found.save(Path("lists.safetensors"))
    read = TaughtLists.load(Path("lists.safetensors"), (sequences.n_targets, 7), ITEMS)
    assert read is not None
    np.testing.assert_array_equal(read.items, found.items)
    np.testing.assert_array_equal(read.scores, found.scores)
    assert read.ndcg == found.ndcg


class Table(torch.nn.Module):
    """A model whose scores are a row of a table, for the last item of the history."""

    ITEM_SEQ, ITEM_SEQ_LEN, device = "history", "length", torch.device("cpu")

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def shared_items(self) -> Any:
        return nullcontext()

    def full_sort_predict(self, case: Any) -> torch.Tensor:
        last = case["history"].gather(1, case["length"][:, None] - 1).squeeze(1)
        return self.scores[last]


def test_a_list_has_the_scores_of_the_average_with_its_weights() -> None:
    torch.manual_seed(0)
    sequences = sequences_of(FEW)
    tables = [torch.randn(ITEMS, ITEMS), 100 * torch.rand(ITEMS, ITEMS), torch.ones(ITEMS, ITEMS)]
    found = taught_lists(Ensemble([Table(one) for one in tables], [0.7, 0.3, 0.0]), sequences, 5, False, 3)  # type: ignore[list-item]
    last = sequences.items[np.flatnonzero(sequences.is_target) - 1]
    mixed = 0.7 * standardised(tables[0][last]) + 0.3 * standardised(tables[1][last])
    best = mixed[:, 1:].topk(3)
    np.testing.assert_array_equal(found.items, best.indices.numpy() + 1)
    np.testing.assert_allclose(found.scores, best.values.numpy(), rtol=1e-5)


def test_a_member_that_cannot_be_counted_without_the_user_is_refused() -> None:
    sequences = sequences_of(FEW)
    for member in (Markov(*SIZES), Popularity(*SIZES)):
        with pytest.raises(ConfigError, match=f"{type(member).__name__} counts the training split"):
            taught_lists(Ensemble([SequentialRules(*SIZES), member]), sequences, 5, True, 3)
    with pytest.raises(ConfigError, match="target_power"):
        RulesWithoutUser(SequentialRules(*SIZES, target_power=0.5), sequences)


def test_scores_that_are_not_finite_and_other_fields_of_a_case_are_refused() -> None:
    bad = torch.ones(ITEMS, ITEMS)
    bad[:, 3] = torch.nan
    with pytest.raises(ScoringError, match="training positions have scores that are not finite"):
        taught_lists(Ensemble([Table(bad)]), sequences_of(FEW), 5, True, 3)  # type: ignore[list-item]

    class ReadsUsers(Table):
        def full_sort_predict(self, case: Any) -> torch.Tensor:
            found: torch.Tensor = case["user_id"]
            return found

    with pytest.raises(ConfigError, match="reads the field user_id of a case"):
        taught_lists(Ensemble([ReadsUsers(bad)]), sequences_of(FEW), 5, True, 3)  # type: ignore[list-item]
