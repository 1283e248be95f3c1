"""The log and its rows: the same as RecBole's augmentation would store, but built on demand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import built, cases, write_log

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.log import LOG_POSITION, LogRows

from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction

EVENTS = [(f"u{at % 3}", f"i{at * 5 % 7}", at) for at in range(30)]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The training split of RecBole's data set and of ours, for a log whose times float32 holds exactly."""
    folder = write_log(tmp_path_factory.mktemp("log") / "log", EVENTS)
    theirs, ours = (built(cls, folder)[1][0] for cls in (SequentialDataset, TextSequentialDataset))
    return theirs, ours


@pytest.fixture
def rows(splits: tuple[Any, Any]) -> LogRows:
    """The rows of the training split, which a test may change."""
    return splits[1].inter_feat.select(slice(None))


def test_columns_asked_for_by_name_are_recboles(splits: tuple[Any, Any]) -> None:
    theirs, ours = (split.inter_feat for split in splits)
    assert set(ours) == set(ours.columns) == set(theirs) | {LOG_POSITION}
    assert len(ours) == ours.length == len(theirs)
    for name in theirs:
        assert name in ours
        assert torch.equal(ours[name][:], theirs[name]), name
        assert torch.equal(getattr(ours, name)[:], theirs[name]), name
    assert "no_such_column" not in ours
    with pytest.raises(KeyError, match="no_such_column"):
        ours["no_such_column"]
    with pytest.raises(AttributeError, match="no attribute 'no_such_column'"):
        _ = ours.no_such_column


@pytest.mark.parametrize(
    "index",
    [
        slice(2, 9),
        [3, 1, 1],
        [],
        np.array([4, 0]),
        np.arange(24) % 3 == 0,
        torch.tensor([5]),
        range(2, 5),
        3,
        np.int64(3),
    ],
    ids=str,
)
def test_rows_asked_for_are_recboles(splits: tuple[Any, Any], index: Any) -> None:
    theirs, ours = (split.inter_feat for split in splits)
    assert len(theirs) >= 21
    if isinstance(index, np.ndarray) and index.dtype == bool:
        index = index[: len(theirs)]
    expected, found = theirs[list(index) if isinstance(index, range) else index], ours[index]
    assert isinstance(found, Interaction) and not isinstance(found, LogRows)
    for name in expected.columns:
        assert torch.equal(found[name], expected[name]), name
        if name.endswith("_list"):
            assert torch.equal(ours[name][index], expected[name]), name


def test_what_reads_all_columns_reads_recboles(splits: tuple[Any, Any]) -> None:
    theirs, ours = (split.inter_feat for split in splits)
    for name, values in theirs.numpy().items():
        np.testing.assert_array_equal(ours.numpy()[name], values)
        np.testing.assert_array_equal(ours.cpu()[name].numpy(), values)
        np.testing.assert_array_equal(ours.to("cpu").repeat(2)[name][: len(theirs)].numpy(), values)


def test_the_lists_are_not_held(rows: LogRows) -> None:
    held = [value for value in vars(rows).values() if isinstance(value, torch.Tensor)]
    assert [tensor.shape for tensor in held] == [rows.position.shape]


@pytest.mark.parametrize("by", ["timestamp", ["item_id", "user_id"]])
def test_rows_are_sorted_as_recbole_sorts(splits: tuple[Any, Any], rows: LogRows, by: Any) -> None:
    theirs = splits[0].inter_feat[:]
    theirs.sort(by=by)
    rows.sort(by=by)
    assert torch.equal(rows["item_id_list"][:], theirs["item_id_list"])
    assert torch.equal(rows["timestamp"], theirs["timestamp"])


def test_rows_are_sorted_the_other_way_round_where_asked_for(rows: LogRows) -> None:
    rows.sort(by=["user_id", "timestamp"], ascending=[False, True])  # which RecBole's own can't do with today's torch
    order = list(zip((-rows["user_id"]).tolist(), rows["timestamp"].tolist(), strict=True))
    assert order == sorted(order)


def test_rows_are_shuffled_whole(rows: LogRows, splits: tuple[Any, Any]) -> None:
    before = set(cases([splits[1]]))
    order = rows.position.clone()
    rows.shuffle()
    shuffled = splits[1].copy(rows)
    assert not torch.equal(rows.position, order) and set(cases([shuffled])) == before


def test_a_column_that_is_left_out_is_gone_from_rows_and_names(rows: LogRows) -> None:
    rows.drop("timestamp_list")
    rows.drop("timestamp")
    assert "timestamp" not in rows and "timestamp_list" not in rows.select([1, 2])[:].columns
    assert {"item_id", "item_id_list"} <= set(rows[:].columns)
    with pytest.raises(ValueError, match="not in list"):
        rows.drop("timestamp")


def test_columns_that_the_config_does_not_use_are_left_out(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", EVENTS)
    for split in built(TextSequentialDataset, folder, unused_col={"inter": ["timestamp", "timestamp_list"]})[1]:
        assert not {"timestamp", "timestamp_list"} & set(split[:].columns)


def test_nothing_can_be_written_into_rows(rows: LogRows) -> None:
    for write in (
        lambda: rows.update(Interaction({"item_id": torch.zeros(len(rows))})),
        lambda: rows.__setitem__("label", torch.zeros(len(rows))),
        lambda: rows.__delitem__("item_id"),
    ):
        with pytest.raises(TypeError, match="mappingproxy"):
            write()


def test_a_batch_can_be_written_into(splits: tuple[Any, Any]) -> None:
    batch = splits[1][slice(0, 2)]
    batch.update(Interaction({"label": torch.ones(2)}))
    batch["item_id"][0] = 0
    assert "label" in batch and splits[1][slice(0, 2)]["item_id"][0] != 0


def test_how_many_events_come_before(splits: tuple[Any, Any]) -> None:
    log = splits[1].log
    seen: dict[int, int] = {}
    for position, user in enumerate(log.user.tolist()):
        assert int(log.before(torch.tensor(position))) == seen.get(user, 0)
        seen[user] = seen.get(user, 0) + 1
    assert log.offsets.tolist() == [0, *np.cumsum([seen.get(user, 0) for user in range(len(log.offsets) - 1)])]
