"""TextSequentialDataset: RecBole's rows, in the exact order of time."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from worlds import SMALL, STOCK, Event, built, cases, read_log, with_small_times, write_log

from blair_rec.border.settings import recbole_config
from blair_rec.config.comparison import read_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.log import LOG_POSITION, gather_windows
from blair_rec.data.sequences import training_sequences
from blair_rec.errors import DatasetError
from blair_rec.experiment.splits.reading import training_data
from blair_rec.models.text_models import model_class

import recbole
from recbole.data.dataset import SequentialDataset
from recbole.data.utils import data_preparation
from recbole.model.sequential_recommender import FEARec, SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

REPOSITORY = Path(__file__).resolve().parents[2]

SPLITS: dict[str, dict[str, Any]] = {
    "leave one out": {"split": {"LS": "valid_and_test"}},
    "leave one out, no test": {"split": {"LS": "valid_only"}},
    "leave one out, no validation": {"split": {"LS": "test_only"}},
    "by ratio in each user": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user"},
    "by ratio in time": {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none"},
}
if Version(recbole.__version__) >= Version("1.2.1"):
    SPLITS["by time"] = {"split": {"TS": [0.8, 0.1, 0.1]}}


@pytest.fixture(scope="module")
def small_times(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """datasets/tiny with times that float32 holds exactly, so RecBole keeps their order, too."""
    folder = shutil.copytree(REPOSITORY / "datasets" / "tiny", tmp_path_factory.mktemp("small") / "tiny")
    return with_small_times(Path(folder))


def sequences(events: list[Event]) -> dict[str, list[str]]:
    """Return user -> items by time; tied times keep the given order."""
    found = defaultdict(list)
    for user, item, _ in sorted(events, key=lambda event: event[2]):
        found[user].append(item)
    return dict(found)


def expected_cases(events: list[Event], width: int) -> set[tuple[str, tuple[str, ...], str]]:
    """Return what all splits together contain: every event with the window before it."""
    return {
        (user, tuple(items[max(0, at - width) : at]), items[at])
        for user, items in sequences(events).items()
        for at in range(1, len(items))
    }


MILLISECONDS = [
    ("ann", "third", 1628643415042),
    ("ann", "second", 1628643414042),
    ("bob", "first", 1628643400000),
    ("bob", "second", 1628643460000),
    ("ann", "first", 1628643413042),
    ("bob", "third", 1628643430000),
]


def test_milliseconds_a_second_apart_keep_their_order(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "ms", MILLISECONDS)
    _, splits = built(TextSequentialDataset, folder)
    assert sorted(cases(splits)) == [
        ("ann", ("first",), "second"),
        ("ann", ("first", "second"), "third"),
        ("bob", ("first",), "third"),
        ("bob", ("first", "third"), "second"),
    ]


def test_recbole_itself_loses_that_order(tmp_path: Path) -> None:
    _, splits = built(SequentialDataset, write_log(tmp_path / "ms", MILLISECONDS))
    assert set(cases(splits)) != expected_cases(MILLISECONDS, 6)


def test_seconds_in_a_file_the_newest_first_keep_their_order_and_recbole_loses_it(tiny: Path) -> None:
    expected = expected_cases(read_log(tiny), 6)
    write_log(tiny, reversed(read_log(tiny)))
    assert set(cases(built(TextSequentialDataset, tiny)[1])) == expected
    assert set(cases(built(SequentialDataset, tiny)[1])) != expected


def test_tied_times_keep_file_order(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    events = [
        (f"u{user}", f"i{item}", 1628643414 + day * 86400)
        for user, item, day in zip(
            random.integers(0, 9, 400), random.permutation(400), random.integers(0, 3, 400), strict=True
        )
    ]
    _, splits = built(TextSequentialDataset, write_log(tmp_path / "ties", events))
    assert set(cases(splits)) == expected_cases(events, 6)


def test_ties_are_counted_and_shuffled_by_the_seed_if_requested(tmp_path: Path) -> None:
    events = [("u", f"i{n}", n // 4) for n in range(12)]  # three times, with four events each
    folder = write_log(tmp_path / "ties", events)
    orders = []
    for seed in (1, 1, 2):
        _, splits = built(TextSequentialDataset, folder, blair_ties="shuffled", seed=seed)
        assert (splits[0].neighbours, splits[0].tied_neighbours) == (11, 9)
        log, tokens = splits[0].log, splits[0].field2id_token["item_id"]
        assert log is not None
        orders.append([str(tokens[item]) for item in log.item])
    stored = [item for _, item, _ in events]
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert order != stored
        assert [sorted(order[n : n + 4]) for n in (0, 4, 8)] == [sorted(stored[n : n + 4]) for n in (0, 4, 8)]


@pytest.mark.parametrize("keep", ["first", "last"])
def test_tied_times_keep_file_order_when_duplicates_are_removed(tmp_path: Path, keep: str) -> None:
    random = np.random.default_rng(0)
    events = [(f"u{user}", f"i{at}", 5) for at, user in enumerate(random.integers(0, 3, 300))]
    events += [(user, item, 3) for user, item, _ in events[::7]]
    _, splits = built(TextSequentialDataset, write_log(tmp_path / "twice", events), rm_dup_inter=keep)
    kept: dict[tuple[str, str], Event] = {}
    for user, item, time in sorted(events, key=lambda event: event[2], reverse=keep == "first"):
        kept[user, item] = (user, item, time)
    assert set(cases(splits)) == expected_cases([event for event in events if event in set(kept.values())], 6)


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("width", [3, 50])
def test_every_row_equals_recboles(small_times: Path, name: str, width: int) -> None:
    said = {"eval_args": {"order": "TO", "mode": "full", **SPLITS[name]}, "MAX_ITEM_LIST_LENGTH": width}
    _, theirs = built(SequentialDataset, small_times, **said)
    _, ours = built(TextSequentialDataset, small_times, **said)
    assert [len(split) for split in ours] == [len(split) for split in theirs]
    assert len(theirs[0]) > 300
    for our_split, their_split in zip(ours, theirs, strict=True):
        if len(their_split) == 0:
            continue
        rows = np.arange(len(their_split))
        our_rows, their_rows = our_split[rows], their_split[rows]
        assert {"user_id", "item_id", "item_id_list", "item_length", "timestamp_list"} <= set(their_rows.columns)
        for field in their_rows.columns:
            assert our_rows[field].dtype == their_rows[field].dtype, field
            assert torch.equal(our_rows[field], their_rows[field]), field


few_events = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("uvwxyz")), min_size=2, max_size=40)


@settings(max_examples=40)
@given(few_events, st.sampled_from(list(SPLITS)))
def test_splits_of_any_log_are_recboles_row_by_row(log: list[tuple[str, str]], name: str) -> None:
    if len({user for user, _ in log}) == len(log):
        return  # no user has a history
    eval_args = {"order": "TO", "mode": "full", **SPLITS[name]}
    with tempfile.TemporaryDirectory() as place:
        folder = write_log(Path(place) / "any", [(user, item, at // 2) for at, (user, item) in enumerate(log)])
        theirs, ours = (
            built(cls, folder, eval_args=eval_args)[1] for cls in (SequentialDataset, TextSequentialDataset)
        )
    assert [cases([split]) for split in ours] == [cases([split]) for split in theirs]


@pytest.mark.parametrize(
    "broken", [{"split": {"LS": "all"}}, {"split": {"RS": 0.5}}, {"split": {"XY": [1]}}, {"order": "RO"}]
)
def test_a_split_that_recbole_does_not_know_is_recboles_error(small_times: Path, broken: dict[str, Any]) -> None:
    eval_args = {"order": "TO", "mode": "full", "split": {"LS": "valid_and_test"}, **broken}
    errors = []
    for cls in (SequentialDataset, TextSequentialDataset):
        with pytest.raises((ValueError, NotImplementedError)) as raised:
            built(cls, small_times, eval_args=eval_args)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("name", ["leave one out", "by ratio in time"])
def test_a_stock_model_trains_and_evaluates_as_with_recboles_data_set(small_times: Path, name: str) -> None:
    found = []
    for cls in (SequentialDataset, TextSequentialDataset):
        eval_args = {"order": "TO", "mode": "full", **SPLITS[name]}
        config = recbole_config("SASRec", str(small_times), {**SMALL, **STOCK, "eval_args": eval_args, "epochs": 2})
        init_seed(5, True)
        train, valid, test = data_preparation(config, cls(config))
        model = SASRec(config, train._dataset)
        trainer = Trainer(config, model)
        best = trainer.fit(train, valid, saved=False, show_progress=False, verbose=False)
        found.append((trainer.train_loss_dict, best, trainer.evaluate(test, load_best_model=False)))
    assert len(found[0][0]) == 2 and found[0] == found[1]


def test_fearec_which_reads_lists_by_row_trains_as_with_recboles_data_set(small_times: Path) -> None:
    losses = []
    for cls in (SequentialDataset, TextSequentialDataset):
        said = {**SMALL, **STOCK, "n_layers": 2, "contrast": "us_x", "tau": 1, "sim": "dot", "train_batch_size": 64}
        config = recbole_config("FEARec", str(small_times), said)
        train = cls(config).build()[0]
        init_seed(5, True)
        model = FEARec(config, train)
        optimizer = torch.optim.Adam(model.parameters())
        for rows in (slice(0, 16), slice(16, 32)):
            loss = model.calculate_loss(train[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:2] == losses[2:] and losses[0] != losses[1]


CUT: dict[str, Any] = {"blair_split": {"valid_from": 100.5, "test_from": 200}}


def test_cut_off_times_split_all_events_and_lose_none(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    events = [(f"u{user}", f"i{item}", int(at)) for user, item, at in random.integers(0, [60, 25, 300], (400, 3))]
    events += [("edge", "i1", 100), ("edge", "i2", 101), ("edge", "i3", 199), ("edge", "i4", 200), ("edge", "i5", 201)]
    events += [("new", "i1", 150), ("late", "i2", 250), ("late", "i3", 260), ("once", "i4", 10)]
    _, splits = built(TextSequentialDataset, write_log(tmp_path / "cut", events), **CUT)
    expected: list[list[tuple[str, tuple[str, ...], str]]] = [[], [], []]
    first = [0, 0, 0]
    by_user = defaultdict(list)
    for event in sorted(events, key=lambda event: event[2]):
        by_user[event[0]].append(event)
    for user, of_user in by_user.items():
        for at, (_, item, time) in enumerate(of_user):
            part = int(time >= 100.5) + int(time >= 200)
            if at:
                expected[part].append((user, tuple(known for _, known, _ in of_user[max(0, at - 6) : at]), item))
            else:
                first[part] += 1
    assert [sorted(cases([split])) for split in splits] == [sorted(rows) for rows in expected]
    assert [split.without_history for split in splits] == first and min(first) > 0
    assert sum(len(split) + split.without_history for split in splits) == len(events)


def test_no_event_from_the_cut_off_on_reaches_training(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    events = [(f"u{user}", f"i{at}", int(at)) for at, user in enumerate(random.integers(0, 9, 300))]
    train = built(TextSequentialDataset, write_log(tmp_path / "cut", events), **CUT)[1][0]
    rows, sequences = train[:], training_sequences(train)
    assert max(rows["timestamp"].max(), rows["timestamp_list"].max()) == 100
    tokens = train.field2id_token["item_id"]
    assert {str(token) for token in tokens[sequences.items]} == {f"i{at}" for at in range(101)}
    users, items = train.inter_matrix().nonzero()
    assert {str(token) for token in tokens[items]} == {f"i{at}" for at in range(101)} and len(users) == 101


def test_cut_off_times_are_compared_with_times_that_float32_can_not_hold(tmp_path: Path) -> None:
    split = {"valid_from": 1628643415042, "test_from": 1628643460000}
    _, splits = built(TextSequentialDataset, write_log(tmp_path / "ms", MILLISECONDS), blair_split=split)
    assert [sorted(cases([split])) for split in splits] == [
        [("ann", ("first",), "second")],
        [("ann", ("first", "second"), "third"), ("bob", ("first",), "third")],
        [("bob", ("first", "third"), "second")],
    ]


def test_events_without_a_history_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_log(tmp_path / "cut", [("a", "x", 1), ("a", "y", 2), ("b", "x", 150), ("c", "x", 250)])
    with caplog.at_level("INFO", logger="blair_rec"):
        built(TextSequentialDataset, folder, **CUT)
    assert "have no history: 1 of training, 1 of validation, 1 of test" in caplog.text


def test_a_comparison_and_a_plugin_config_hand_their_cut_off_times_on(tiny: Path) -> None:
    cut = {"valid_from": 1723390827, "test_from": 1728143976}
    variants = {"variants": {"id": {}}, "recbole": {"MAX_ITEM_LIST_LENGTH": 5}}
    compared = training_data(read_config({"dataset": str(tiny), "split": cut, **variants}), tiny).train
    plugin = built(TextSequentialDataset, tiny, model_class("SASRec"), blair_split=cut)[1][0]
    assert cases([compared]) and cases([plugin])
    for train in (compared, plugin):
        assert train.event_times[train.inter_feat[LOG_POSITION].numpy()].max() < cut["valid_from"]
        assert len(train) + train.without_history == (train.event_times < cut["valid_from"]).sum()


def test_benchmark_files_are_already_split(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "bench")
    with pytest.raises(DatasetError, match="benchmark files, which are already split; remove the cut-off times"):
        built(TextSequentialDataset, tmp_path / "bench", alias_of_item_id=["item_id_list"], **BENCHMARK, **CUT)


def test_a_batch_is_the_same_by_slice_by_array_and_by_tensor(small_times: Path) -> None:
    train = built(TextSequentialDataset, small_times)[1][0]
    by_slice, by_array, by_tensor = train[4:9], train[np.arange(4, 9)], train[torch.arange(4, 9)]
    for field in by_slice.columns:
        assert torch.equal(by_slice[field], by_array[field]) and torch.equal(by_slice[field], by_tensor[field])


def test_the_interaction_matrix_of_training_is_recboles(small_times: Path) -> None:
    theirs, ours = (built(cls, small_times)[1][0] for cls in (SequentialDataset, TextSequentialDataset))
    for form in ("coo", "csr"):
        assert ours.inter_matrix(form=form).format == form
        np.testing.assert_array_equal(ours.inter_matrix(form=form).toarray(), theirs.inter_matrix(form=form).toarray())


@pytest.mark.parametrize("name", SPLITS)
def test_histories_are_all_events_before_the_target(tiny: Path, name: str) -> None:
    _, splits = built(TextSequentialDataset, tiny, eval_args={"order": "TO", "mode": "full", **SPLITS[name]})
    by_user = sequences(read_log(tiny))
    for split in splits:
        row, item = split.histories()
        found = [[] for _ in range(len(split))]
        for number, token in zip(row.tolist(), split.field2id_token["item_id"][item], strict=True):
            found[number].append(str(token))
        if len(split) == 0:
            assert len(row) == 0
            continue
        assert (row[1:] >= row[:-1]).all()
        for history, (user, window, _) in zip(found, cases([split]), strict=True):
            assert history == by_user[user][: len(history)]
            assert history[-6:] == list(window)
        row, item = split.histories(slice(2, 4))
        assert row.unique().tolist() == list(range(len(found[2:4])))
        assert [str(token) for token in split.field2id_token["item_id"][item]] == sum(found[2:4], [])
    assert max(map(len, by_user.values())) > 6 + 2  # so that a window is not the whole history


def test_times_that_were_not_loaded_are_an_error(tiny: Path) -> None:
    with pytest.raises(DatasetError, match="'tiny': no column 'timestamp' .*\\(columns: user_id, item_id\\)"):
        built(TextSequentialDataset, tiny, load_col={"inter": ["user_id", "item_id"]})


def test_a_user_with_one_event_has_no_row(tmp_path: Path) -> None:
    events = [("lone", "a", 1), ("ann", "a", 1), ("ann", "b", 2), ("ann", "c", 3), ("last", "c", 3)]
    _, splits = built(TextSequentialDataset, write_log(tmp_path / "lone", events))
    assert cases(splits) == [("ann", ("a",), "b"), ("ann", ("a", "b"), "c")]


def test_no_user_with_two_events_is_an_error(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "single", [("ann", "a", 1), ("bob", "b", 2)])
    with pytest.raises(DatasetError, match="'single': no user has two events"):
        built(TextSequentialDataset, folder)


BENCHMARK: dict[str, Any] = {
    "benchmark_filename": ["train", "valid", "test"],
    "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
}


def write_benchmark(folder: Path) -> list[tuple[str, tuple[str, ...], str]]:
    """Write three files in RecBole's benchmark format; return the rows, in order."""
    folder.mkdir()
    rows = {
        "train": [("ann", "a b", "c"), ("ann", "a", "b"), ("bob", "d c b", "a")],
        "valid": [("ann", "a b c", "d")],
        "test": [("ann", "a b c d", "e"), ("bob", "d c b a", "f")],
    }
    for part, of_part in rows.items():
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token", *("\t".join(row) for row in of_part)]
        (folder / f"{folder.name}.{part}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [(user, tuple(history.split()), item) for of_part in rows.values() for user, history, item in of_part]


def test_benchmark_files_hold_what_they_say(tmp_path: Path) -> None:
    written = write_benchmark(tmp_path / "bench")
    _, splits = built(TextSequentialDataset, tmp_path / "bench", alias_of_item_id=["item_id_list"], **BENCHMARK)
    assert [len(split) for split in splits] == [3, 1, 2]
    assert cases(splits) == written
    theirs = built(SequentialDataset, tmp_path / "bench", alias_of_item_id=["item_id_list"], **{**STOCK, **BENCHMARK})[
        1
    ]
    for split, their_split in zip(splits, theirs, strict=True):
        assert set(split[:].columns) == set(their_split[:].columns)
        for field, values in their_split[:].interaction.items():
            assert split[:][field].dtype == values.dtype and torch.equal(split[:][field], values), field
    row, item = splits[2].histories()
    assert row.tolist() == [0] * 4 + [1] * 4
    assert [str(token) for token in splits[2].field2id_token["item_id"][item]] == list("abcddcba")


def test_benchmark_files_without_the_alias_are_an_error(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "bench")
    with pytest.raises(DatasetError, match=r"give its items other ids .*add `alias_of_item_id: \[item_id_list\]`"):
        built(TextSequentialDataset, tmp_path / "bench", **BENCHMARK)


def test_without_the_alias_recbole_numbers_items_twice(tmp_path: Path) -> None:
    written = write_benchmark(tmp_path / "bench")
    _, splits = built(SequentialDataset, tmp_path / "bench", **{**STOCK, **BENCHMARK})
    assert cases(splits) != written


def test_benchmark_histories_longer_than_the_model_reads_are_an_error(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "bench")
    with pytest.raises(DatasetError, match="have up to 4 items.*MAX_ITEM_LIST_LENGTH is 3"):
        built(
            TextSequentialDataset,
            tmp_path / "bench",
            alias_of_item_id=["item_id_list"],
            MAX_ITEM_LIST_LENGTH=3,
            **BENCHMARK,
        )


@given(st.data())
def test_windows_are_slices_padded_with_zeros(data: st.DataObject) -> None:
    values = torch.arange(1, 1 + data.draw(st.integers(1, 20)))
    first = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=5))
    length = [data.draw(st.integers(0, len(values) - at)) for at in first]
    width = data.draw(st.integers(max(length), 25))
    windows = gather_windows(values, torch.tensor(first), torch.tensor(length), width)
    for window, at, size in zip(windows.tolist(), first, length, strict=True):
        assert window == values[at : at + size].tolist() + [0] * (width - size)


def test_windows_of_values_with_several_columns_keep_the_columns() -> None:
    values = torch.arange(1.0, 13).view(6, 2)
    windows = gather_windows(values, torch.tensor([1, 4]), torch.tensor([3, 2]), 3)
    assert torch.equal(windows[0], values[1:4])
    assert torch.equal(windows[1], torch.cat([values[4:6], torch.zeros(1, 2)]))
