"""Which items are hidden, and the test cases that have one of them as target, against plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import SMALL, STOCK, cases, read_log, write_log

from blair_rec.border.settings import recbole_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.hidden import NewItemCases, drawn_items, new_item_cases
from blair_rec.errors import DatasetError


def splits(folder: Path, new_items: float | str | None = None, **changes: Any) -> tuple[Any, list[Any]]:
    """The data set without its new items, and its three splits."""
    dataset = TextSequentialDataset(recbole_config("SASRec", str(folder), {**SMALL, **STOCK, **changes}), new_items)
    return dataset, dataset.build()


def found_cases(folder: Path, new_items: float | str, **changes: Any) -> tuple[Any, list[Any], NewItemCases]:
    """The same with its test cases of new items."""
    dataset, known = splits(folder, new_items, **changes)
    return dataset, known, new_item_cases(known[2], splits(folder, **changes)[1][2])


def in_order(log: Sequence[tuple[str, str, int]]) -> dict[str, list[tuple[str, int]]]:
    """(item, time) of each user, by time, ties in the order of the file."""
    users: dict[str, list[tuple[str, int]]] = {}
    for user, item, time in sorted(log, key=lambda event: event[2]):
        users.setdefault(user, []).append((item, time))
    return users


@given(st.sets(st.text(st.characters(codec="ascii"), min_size=1), min_size=1), st.floats(0.01, 0.5), st.randoms())
@settings(max_examples=30)
def test_the_draw_depends_on_the_ids_alone(items: set[str], share: float, shuffled: Any) -> None:
    ordered = sorted(items)
    shuffled.shuffle(ordered)
    drawn = drawn_items(ordered, share)
    assert drawn == drawn_items(sorted(items), share)
    assert len(drawn) == len(set(drawn)) == max(1, round(share * len(items))) and set(drawn) <= items


def test_what_is_left_is_what_a_file_without_these_lines_gives(tiny: Path, tmp_path: Path) -> None:
    dataset, known, found = found_cases(tiny, 0.2)
    log, hidden = read_log(tiny), set(found.tokens)
    assert len(hidden) == 16 and hidden == set(drawn_items(sorted({item for _, item, _ in log}), 0.2))
    other, expected = splits(write_log(tmp_path / "other" / "tiny", [one for one in log if one[1] not in hidden]))
    assert cases(known) == cases(expected)
    for field in ("user_id", "item_id"):
        assert list(dataset.field2id_token[field]) == list(other.field2id_token[field])
        assert torch.equal(known[0].log.fields[field], expected[0].log.fields[field])


def test_cases_of_leave_one_out_are_last_events_of_new_items_with_known_histories(tiny: Path) -> None:
    _, known, found = found_cases(tiny, 0.2)
    expected = {}
    for user, events in in_order(read_log(tiny)).items():
        *before, last = [item for item, _ in events]
        history = tuple(item for item in before if item not in found.tokens)
        if last in found.tokens and history:
            expected[user] = (history, last)
    assert len(expected) > 10 and any(len(history) > 6 for history, _ in expected.values())
    window = {(user, history[-6:], last) for user, (history, last) in expected.items()}
    assert set(cases([found.split])) == window and len(found.split) == len(window)
    row, item = found.split.histories()
    users = [str(found.split.field2id_token["user_id"][user]) for user in found.split.inter_feat["user_id"]]
    for number, user in enumerate(users):
        whole = [str(found.split.field2id_token["item_id"][one]) for one in item[row == number]]
        assert tuple(whole) == expected[user][0]
    assert found.split.item_num == found.known + len(found.tokens) == 81 and known[2].item_num == found.known


def test_cases_after_a_cut_off_are_events_of_items_first_seen_after_it(tmp_path: Path) -> None:
    log = [
        ("a", "x", 1), ("a", "y", 2), ("b", "y", 1), ("b", "x", 3), ("c", "x", 4), ("c", "y", 12),
        ("a", "x", 12), ("a", "v", 13), ("a", "new", 21), ("a", "y", 22), ("a", "newer", 23), ("a", "new", 24),
        ("b", "y", 21), ("b", "v", 22), ("d", "new", 25), ("d", "newer", 26), ("d", "x", 27), ("d", "new", 28),
    ]  # fmt: skip
    folder = write_log(tmp_path / "small", log)
    _, known, found = found_cases(folder, "after_cutoff", blair_split={"valid_from": 10, "test_from": 20})
    assert found.tokens == ["v", "new", "newer"], "v comes first in the validation period: no training event"
    assert cases([found.split]) == [
        ("a", ("x", "y", "x"), "new"),
        ("a", ("x", "y", "x", "y"), "newer"),
        ("a", ("x", "y", "x", "y"), "new"),
        ("b", ("y", "x", "y"), "v"),
        ("d", ("x",), "new"),
    ]
    assert found.left_out == 1, "d's newer, before which d has nothing but a new item; d's first event is no case"
    assert {item for _, _, item in cases(known)} <= {"x", "y"}


def test_nothing_to_hide_or_nothing_left_is_said(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "small", [("a", "x", 1), ("a", "x", 12), ("a", "x", 23), ("b", "x", 2)])
    split = {"blair_split": {"valid_from": 10, "test_from": 20}}
    with pytest.raises(DatasetError, match="new_items is after_cutoff, and no item is new; choose another share"):
        splits(folder, "after_cutoff", **split)
    with pytest.raises(DatasetError, match=r"new_items is 0\.5, and no event is left without them"):
        splits(folder, 0.5)


def test_columns_of_tokens_beside_the_items_are_numbered_as_in_the_known_data(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    rows = ["user_id:token\titem_id:token\ttimestamp:float\tshop:token"]
    hidden = drawn_items(["x", "y", "z"], 0.34)[0]
    others = [item for item in "xyz" if item != hidden]
    for user in ("a", "b"):
        items = [hidden, *others, *others, hidden]
        rows += [f"{user}\t{item}\t{time}\tshop-{item}" for time, item in enumerate(items)]
    (folder / "small.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp", "shop"]}}
    _, _, found = found_cases(folder, 0.34, **columns)
    row = found.split[torch.arange(1)]
    shops = found.split.field2id_token["shop"]
    assert [str(shops[one]) for one in row["shop_list"][0][:4]] == [f"shop-{item}" for item in [*others, *others]]
    assert row["shop"].tolist() == [0], "the hidden item's own shop is not known"
