"""The files of a finished run: valid ones are read back unchanged, and others are refused."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
from hashlib import sha256

import numpy as np
import pytest
from fake_runs import MINILM, fake_lists, fake_ranks, fake_result, fake_run, without_hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from blair_rec.errors import BadRun, BlairRecError, ConfigError, NoRuns, UnpairedRuns
from blair_rec.evaluate.leaderboard import build_leaderboard
from blair_rec.evaluate.metrics import per_user
from blair_rec.evaluate.runs import results
from blair_rec.evaluate.runs.encoder_used import EncoderUsed
from blair_rec.evaluate.runs.results import accept_code, last_items, load_run, load_runs, write_lists, write_result
from blair_rec.evaluate.runs.run_files import RunRanks


def test_a_run_that_was_written_is_read_back_unchanged(tmp_path):
    ranks = fake_ranks(3)
    run = load_run(fake_run(tmp_path, "text", 3, ranks))
    for key, value in fake_result("text", 3).items():
        if key not in ("encoder", "selection", "parameters"):
            assert getattr(run, key) == value, key
    assert run.encoder == EncoderUsed(**MINILM)
    assert (run.selection.protocol, run.selection.metric, run.selection.epoch) == ("unmasked", "NDCG@10", 12)
    assert (run.parameters.trained, run.parameters.frozen) == (1234, 0)
    for name, array in ranks.items():
        np.testing.assert_array_equal(getattr(run.ranks, name), array)
    assert run.ranks.candidates == 30
    assert run.folder == tmp_path / "runs" / "text-3"


def test_result_json_is_sorted_indented_and_carries_its_schema(tmp_path):
    folder = fake_run(tmp_path)
    text = (folder / "result.json").read_text(encoding="utf-8")
    content = json.loads(text)
    hashes = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    del hashes["result.json"]
    assert sorted(hashes) == ["histories.npz", "history.jsonl", "items.json", "ranks.npz", "topk.npz"]
    assert content == {"schema": 1, "files": hashes, **fake_result()}
    assert text == json.dumps(content, indent=2, sort_keys=True) + "\n"


def test_the_lists_of_a_run_are_read_back_unchanged(tmp_path):
    ranks = fake_ranks(3)
    lists = fake_lists(ranks, "text-3")
    run = load_run(fake_run(tmp_path, "text", 3, ranks))
    for name, array in lists["histories"].items():
        np.testing.assert_array_equal(getattr(run.histories, name), array)
    np.testing.assert_array_equal(run.item_counts, lists["histories"]["item_counts"])
    offsets, items = lists["histories"]["offsets"], lists["histories"]["items"]
    for case in range(40):
        np.testing.assert_array_equal(run.histories.of(case), items[offsets[case] : offsets[case + 1]])
    for protocol in ("unmasked", "masked"):
        np.testing.assert_array_equal(run.topk(protocol), lists["topk"][protocol])
    assert run.item_tokens == tuple(lists["item_tokens"])
    assert [dataclasses.asdict(epoch) for epoch in run.curve] == lists["curve"]


@given(st.lists(st.lists(st.integers(1, 99), max_size=45), max_size=6))
def test_of_every_history_the_last_twenty_items_are_kept(histories):
    row = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    item = np.array([item for history in histories for item in history], dtype=np.int64)
    offsets, items = last_items(row, item, len(histories))
    kept = [items[begin:end].tolist() for begin, end in zip(offsets[:-1], offsets[1:], strict=True)]
    assert kept == [history[-20:] for history in histories]


@pytest.mark.parametrize(
    "part, value, problem",
    [
        ("histories", {"offsets": np.arange(3)}, r"histories.npz: lacks 2 of 3 arrays \(items, item_counts\)"),
        ("topk", {"unmasked": np.ones((40, 5))}, r"topk.npz: lacks 1 of 2 arrays \(masked\)"),
        ("topk", dict.fromkeys(("unmasked", "masked"), np.full((40, 5), 31)), "unknown item ids in 40 of 40"),
        (
            "topk",
            dict.fromkeys(("unmasked", "masked"), np.ones((39, 5))),
            r"is int32 \[39, 5\], expected int32 \[40, k",
        ),
        ("item_tokens", ["[PAD]", "a"], "items.json: has 2 item tokens, expected 30 and the padding token"),
        ("item_tokens", [0] * 31, r"items\[0\] is 0 \(int\), expected str"),
        ("curve", [{"epoch": 1}], r"history.jsonl: line 1 lacks 4 of 5 keys \(loss, train_seconds, valid_seconds\)"),
    ],
)
def test_lists_that_could_not_be_read_back_are_not_written(tmp_path, part, value, problem):
    ranks = fake_ranks()
    with pytest.raises(BadRun, match=problem):
        write_lists(tmp_path, ranks, **{**fake_lists(ranks), part: value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, change, problem",
    [
        ("offsets", lambda array: array[1:], "offsets have to begin with 0"),
        ("offsets", lambda array: np.sort(array)[::-1].copy(), "offsets have to begin with 0"),
        ("items", lambda array: array + 30, "item ids are not in 1 to 30"),
        ("items", lambda array: array.astype(np.int64), "items has to be one-dimensional with dtype int32"),
        ("item_counts", lambda array: array + 1, "the padding's count has to be 0"),
        (
            "item_counts",
            lambda array: np.append(array, 0),
            "test cases: 40, items: 31; but .* has 40 and 30",
        ),
        ("item_counts", lambda array: array * 2, "contradicts target_count in"),
    ],
)
def test_invalid_histories_are_not_written(tmp_path, name, change, problem):
    ranks = fake_ranks()
    lists = fake_lists(ranks)
    histories = {**lists["histories"], name: change(lists["histories"][name])}
    with pytest.raises(BadRun, match=problem):
        write_lists(tmp_path, ranks, **{**lists, "histories": histories})


LISTS = {
    "topk.npz": lambda run: run.topk("masked"),
    "histories.npz": lambda run: run.histories,
    "items.json": lambda run: run.item_tokens,
    "history.jsonl": lambda run: run.curve,
}


@pytest.mark.parametrize("file, ask", LISTS.items())
def test_a_missing_or_damaged_list_is_named_when_it_is_read(tmp_path, file, ask):
    folder = fake_run(tmp_path)
    (folder / file).write_bytes(b"{")
    run = load_run(folder)
    with pytest.raises(BadRun, match=rf"id-1/{file}: can't be read"):
        ask(run)
    (folder / file).unlink()
    with pytest.raises(BadRun, match=rf"id-1/{file}: is missing"):
        ask(run)


@given(value=st.floats(allow_nan=False, allow_infinity=False), seconds=st.floats(0, 1e9))
@settings(max_examples=30)
def test_floats_come_back_to_the_last_bit(tmp_path_factory, value, seconds):
    folder = tmp_path_factory.mktemp("run")
    write_result(folder, fake_result(train_seconds=seconds, valid={"unmasked": {"MRR@3": value}}), fake_ranks())
    run = load_run(folder)
    assert run.train_seconds == seconds
    assert run.valid == {"unmasked": {"MRR@3": value}}


def test_the_same_run_is_written_as_the_same_bytes(tmp_path):
    one, two = fake_run(tmp_path / "one"), fake_run(tmp_path / "two")
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


def test_an_in_history_target_is_a_miss_only_if_the_history_is_masked(tmp_path):
    ranks = fake_ranks()
    run = load_run(fake_run(tmp_path, ranks=ranks))
    unmasked, masked = run.per_user("NDCG@30", "unmasked"), run.per_user("NDCG@30", "masked")
    repeated = ranks["target_in_history"]
    assert (unmasked > 0).all()
    assert (masked[repeated] == 0).all()
    plain = per_user("NDCG@30", ranks["higher_masked"], ranks["equal_masked"])
    np.testing.assert_array_equal(masked[~repeated], plain[~repeated])


def test_a_run_without_training_has_no_selection(tmp_path):
    run = load_run(fake_run(tmp_path, "popularity", encoder=None, selection=None, epochs=0, train_seconds=0))
    assert run.selection is None
    assert run.encoder is None
    assert isinstance(run.train_seconds, float)


def test_keys_from_a_later_version_are_ignored(tmp_path):
    assert load_run(fake_run(tmp_path, something_new={"a": [1]})).variant == "id"


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"valid": {"unmasked": {"NDCG@10": math.nan}}}, r"valid\.unmasked\.NDCG@10 is nan"),
        ({"train_seconds": math.inf}, "train_seconds is inf"),
        ({"something_new": math.nan}, "Out of range float"),
        ({"seed": "1"}, r"seed is '1' \(str\), expected int"),
        ({"seed": True}, r"seed is True \(bool\), expected int"),
        ({"epochs": 2.5}, r"epochs is 2\.5 \(float\), expected int"),
        ({"control": "shufle"}, "control is 'shufle'"),
        ({"encoder": {"name": "x"}}, r"encoder lacks 4 of 5 keys \(asked_for, revision, pooling\)"),
        ({"parameters": {"trained": 1, "frozen": np.int64(2)}}, r"parameters\.frozen is .*int64.*expected int"),
        ({"selection": {"protocol": "both", "metric": "NDCG@10", "value": 0.1, "epoch": 1}}, r"selection\.protocol is"),
        ({"valid": {"filtered": {}}}, "a key of valid is 'filtered'"),
        ({"transforms": ["center", 3]}, r"transforms\[1\] is 3"),
        ({"provenance": {"torch": ["2.6"]}}, r"provenance\.torch is \['2\.6'\]"),
        ({"schema": 2}, "has schema 2, but this version of blair_rec reads 1"),
    ],
)
def test_a_result_that_could_not_be_read_back_is_not_written(tmp_path, changes, problem):
    with pytest.raises(BadRun, match=problem):
        write_result(tmp_path, {**fake_result(), **changes}, fake_ranks())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"item": np.arange(1, 40)}, r"item has shape \(39,\), expected \(40,\)"),
        ({"n_candidates": np.array([30])}, r"n_candidates has shape \(1,\), expected \(\)"),
        ({"user": np.arange(40).astype(np.float64)}, "user is float64, expected int64"),
        ({"target_in_history": np.zeros(40, dtype=np.int64)}, "target_in_history is int64, expected bool"),
        ({"item": np.arange(40)}, "item is out of bounds in 10 of 40 cases: not 1 to 30"),
        ({"higher_masked": np.full(40, 30)}, r"higher_masked \+ equal_masked is out of bounds in 40 of 40 cases"),
        ({"equal_unmasked": np.full(40, -1)}, "equal_unmasked is out of bounds in 40 of 40 cases: not at least 0"),
        ({"target_count": np.full(40, -2)}, "target_count is out of bounds"),
    ],
)
def test_invalid_ranks_are_not_written(tmp_path, changes, problem):
    with pytest.raises(BadRun, match=problem):
        write_result(tmp_path, fake_result(), fake_ranks(**changes))
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_lack_arrays_or_test_cases_are_not_written(tmp_path):
    ranks = fake_ranks()
    del ranks["equal_masked"]
    with pytest.raises(BadRun, match=r"lacks 1 of 10 arrays \(equal_masked\)"):
        write_result(tmp_path, fake_result(), ranks)
    nobody = {name: array[:0] if array.ndim else array for name, array in fake_ranks().items()}
    with pytest.raises(BadRun, match="there are no test cases"):
        write_result(tmp_path, fake_result(), nobody)
    with pytest.raises(ValueError, match="user is list, expected int64"):
        RunRanks(**{**fake_ranks(), "user": [1, 2]})


@pytest.mark.parametrize("name", ["result.json", "ranks.npz"])
def test_a_missing_file_is_named_with_what_to_do(tmp_path, name):
    folder = fake_run(tmp_path)
    (folder / name).unlink()
    with pytest.raises(BadRun, match=rf"id-1/{name}: is missing; delete .*id-1, and make it again with the"):
        load_run(folder)


def test_result_json_that_is_no_result_is_refused(tmp_path):
    file = fake_run(tmp_path) / "result.json"
    good = json.loads(file.read_text(encoding="utf-8"))
    for content, problem in [
        ("{", "can't be read"),
        ("[1]", "contains a list, expected an object"),
        (json.dumps({**good, "schema": 7}), "has schema 7"),
        (json.dumps({"variant": "id"}), "has schema None"),
        (json.dumps({"schema": 1, "seed": 1}), "lacks 20 of 21 keys"),
        (json.dumps(good).replace("41.25", "NaN").replace("42.25", "NaN"), "train_seconds is nan"),
    ]:
        file.write_text(content, encoding="utf-8")
        with pytest.raises(BadRun, match=problem):
            load_run(file.parent)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadRun, match=r"result\.json: can't be read: 'utf-8'"):
        load_run(file.parent)


def test_pickled_and_foreign_arrays_are_refused(tmp_path):
    file = fake_run(tmp_path) / "ranks.npz"
    np.savez(file, **{**fake_ranks(), "user": np.array([{}] * 40, dtype=object)})
    with pytest.raises(BadRun, match="allow_pickle=False"):
        load_run(file.parent)
    with file.open("wb") as handle:
        np.save(handle, np.arange(3))
    with pytest.raises(BadRun, match="it is a single array, not an .npz file"):
        load_run(file.parent)
    file.write_bytes(bytes(200))
    with pytest.raises(BadRun, match="can't be read: it is not a NumPy file; delete"):
        load_run(file.parent)


@pytest.mark.parametrize("hashed", [True, False])
def test_a_damaged_file_is_an_error_that_names_it_or_without_hashes_reads_the_same(tmp_path, hashed):
    file = fake_run(tmp_path) / "ranks.npz"
    if not hashed:
        without_hashes(file.parent)
    whole, expected = file.read_bytes(), load_run(file.parent).ranks
    dice = random.Random(0)
    refused = 0
    for trial in range(200):
        damaged = bytearray(whole[: dice.randrange(len(whole))] if trial % 2 else whole)
        if not trial % 2:
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        file.write_bytes(damaged)
        try:
            found = load_run(file.parent).ranks
        except BadRun as error:
            assert "ranks.npz" in str(error)  # noqa: PT017 -- which damage is noticed where is zip's business
            refused += 1
        else:
            for name in fake_ranks():
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert refused == 200 if hashed else 100 <= refused < 200


NOT_ITS_OWN = "is not the file that this run wrote: its SHA-256 is not that in result.json; delete .*"


def board_of(comparison):
    return build_leaderboard(load_runs(comparison), "id", ["NDCG@10"], "unmasked")


@pytest.mark.parametrize("file", ["ranks.npz", "topk.npz"])
def test_files_that_two_runs_of_the_same_data_swapped_are_found(tmp_path, file):
    one, two = fake_run(tmp_path, "id"), fake_run(tmp_path, "text")
    board_of(tmp_path)
    (one / file).rename(tmp_path / "kept")
    (two / file).rename(one / file)
    (tmp_path / "kept").rename(two / file)
    with pytest.raises(BadRun, match=rf"id-1/{file}: {NOT_ITS_OWN}id-1, and make it again with the same command"):
        board_of(tmp_path)
    shutil.rmtree(one)
    fake_run(tmp_path, "id")
    with pytest.raises(BadRun, match=rf"text-1/{file}: {NOT_ITS_OWN}text-1, and make it again"):
        board_of(tmp_path)
    shutil.rmtree(two)
    fake_run(tmp_path, "text")
    board_of(tmp_path)


@pytest.mark.parametrize("file", LISTS)
def test_a_list_that_was_written_again_is_found(tmp_path, file):
    """Only its compression or its spaces differ, so it can be read."""
    folder = fake_run(tmp_path)
    if file.endswith(".npz"):
        np.savez(folder / file, **np.load(folder / file))
    else:
        (folder / file).write_text((folder / file).read_text().replace(", ", ","))
    with pytest.raises(BadRun, match=rf"id-1/{file}: {NOT_ITS_OWN}"):
        LISTS[file](load_run(folder))
    without_hashes(folder)
    LISTS[file](load_run(folder))


def test_no_file_is_hashed_twice_for_one_board(tmp_path, monkeypatch):
    """A run that is valid for all seeds counts once for each of them."""
    for seed in (1, 2, 3):
        fake_run(tmp_path, "id", seed)
    fake_run(tmp_path, "rules", seedless=True)
    hashed = []
    monkeypatch.setattr(results, "sha256_of", lambda path: hashed.append(path) or sha256(path.read_bytes()).hexdigest())
    assert {row.variant: row.seeds for row in board_of(tmp_path).rows} == {"id": (1, 2, 3), "rules": (1, 2, 3)}
    assert len(hashed) == len(set(hashed))
    assert {path.name for path in hashed} == {"ranks.npz", "topk.npz", "histories.npz"}


def test_a_run_of_an_early_version_has_no_hashes_and_the_same_board(tmp_path):
    for variant in ("id", "text"):
        fake_run(tmp_path, variant)
    before = board_of(tmp_path)
    without_hashes(tmp_path / "runs" / "id-1")
    assert load_run(tmp_path / "runs" / "id-1").files == {}
    assert board_of(tmp_path) == before


def test_a_run_keeps_its_hashes_when_other_code_is_accepted(tmp_path):
    folder = fake_run(tmp_path)
    before = load_run(folder).files
    accept_code(folder, "c1", "the code of blair_rec (scoring.py)")
    after = load_run(folder)
    assert after.files == before != {} and after.accepted_code == {"c1": "the code of blair_rec (scoring.py)"}


def test_a_run_for_all_seeds_comes_once_for_each_of_the_configs_or_of_its_default(tmp_path):
    fake_run(tmp_path, "rules", 1, seedless=True)
    assert [run.seed for run in load_runs(tmp_path)] == [1], "without a config"
    for text, seeds in [("seeds: [1, 7]", [1, 7]), ("dataset: toy", [1, 2, 3])]:
        (tmp_path / "config.yaml").write_text(text)
        assert [run.seed for run in load_runs(tmp_path)] == seeds


def test_runs_come_in_the_order_of_the_config_then_by_seed(tmp_path):
    for variant, seed in [("zebra", 2), ("id", 10), ("added", 1), ("id", 2), ("zebra", 1)]:
        fake_run(tmp_path, variant, seed)
    (tmp_path / "runs" / ".id-3.unfinished").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("not a run")

    def order():
        return [(run.variant, run.seed) for run in load_runs(tmp_path)]

    assert order() == [("added", 1), ("id", 2), ("id", 10), ("zebra", 1), ("zebra", 2)]
    (tmp_path / "config.yaml").write_text("variants:\n  zebra: {items: text_init}\n  id: {items: id}\n")
    assert order() == [("zebra", 1), ("zebra", 2), ("id", 2), ("id", 10), ("added", 1)]
    (tmp_path / "config.yaml").write_text("variants: [")
    with pytest.raises(ConfigError, match=r"config\.yaml can't be read"):
        load_runs(tmp_path)


def test_a_folder_without_finished_runs_is_an_error_that_says_where_it_looked(tmp_path):
    with pytest.raises(NoRuns, match=r"no finished run \(looked in .*runs\)"):
        load_runs(tmp_path)
    (tmp_path / "runs" / ".id-1.unfinished").mkdir(parents=True)
    with pytest.raises(NoRuns, match="no finished run"):
        load_runs(tmp_path)


def test_a_copied_run_does_not_count_twice(tmp_path):
    fake_run(tmp_path).rename(tmp_path / "runs" / "id-2")
    with pytest.raises(BadRun, match="id-2/result.json: belongs to the run id-1"):
        load_runs(tmp_path)


@pytest.mark.parametrize(
    "changes, ranks, problem",
    [
        ({"dataset": "other"}, {}, "data sets are toy and other"),
        ({}, {"n_candidates": np.array(31)}, "rank 30 and 31 items"),
        ({}, {"cases": 41}, "have 40 and 41 test cases"),
        ({}, {"user": np.arange(1, 41)[::-1]}, "user or target differ in 40 of 40 test cases"),
        (
            {},
            {"target_in_history": np.arange(40) < 2},
            "histories differ .* the target in 6 test cases",
        ),
    ],
)
def test_runs_over_different_test_cases_cannot_be_compared(tmp_path, changes, ranks, problem):
    fake_run(tmp_path, "id")
    fake_run(tmp_path, "text", ranks=fake_ranks(**ranks), **changes)
    with pytest.raises(UnpairedRuns, match=f"id-1 and text-1 can't be compared: .*{problem}"):
        load_runs(tmp_path)


def test_every_error_of_this_side_is_one_that_the_command_line_shows_as_a_message():
    assert all(issubclass(error, BlairRecError) for error in (BadRun, NoRuns, UnpairedRuns))
