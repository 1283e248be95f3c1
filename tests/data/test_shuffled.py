"""Shuffled histories hold the same items in another order, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from worlds import built, cases

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.shuffled import shuffled_histories


@pytest.mark.parametrize("split", [None, {"valid_from": 1_725_000_000, "test_from": 1_729_000_000}])
def test_only_the_order_of_items_changes(tiny: Path, split: dict[str, int] | None) -> None:
    settings = {"MAX_ITEM_LIST_LENGTH": 50, **({"blair_split": split} if split else {})}
    _, (_, _, test) = built(TextSequentialDataset, tiny, **settings)
    shuffled = shuffled_histories(test, seed=1)
    before, after = cases([test]), cases([shuffled])
    assert [(user, target) for user, _, target in before] == [(user, target) for user, _, target in after]
    assert [sorted(history) for _, history, _ in before] == [sorted(history) for _, history, _ in after]
    moved = [a[1] != b[1] for a, b in zip(before, after, strict=True) if len(a[1]) > 3]
    assert sum(moved) > 0.9 * len(moved) > 50
    rows = torch.arange(len(test))
    assert torch.equal(test[rows]["timestamp_list"], shuffled[rows]["timestamp_list"])
    assert cases([shuffled_histories(test, seed=1)]) == after
    for one, other in zip(test.histories(), shuffled.histories(), strict=True):
        assert one.shape == other.shape


def test_a_window_of_a_shuffled_history_holds_items_of_the_whole_history(tiny: Path) -> None:
    _, (_, _, test) = built(TextSequentialDataset, tiny, MAX_ITEM_LIST_LENGTH=3)
    seen = [set(history) for _, history, _ in cases([shuffled_histories(test)])]
    _, (_, _, whole) = built(TextSequentialDataset, tiny, MAX_ITEM_LIST_LENGTH=50)
    assert all(few <= set(history) for few, (_, history, _) in zip(seen, cases([whole]), strict=True))
