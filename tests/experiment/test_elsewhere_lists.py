"""Files of other systems: what is refused, what is counted, and ranks against independent readers and ir_measures."""

from __future__ import annotations

import csv
import dataclasses
import gzip
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from list_files import ITEMS, KINDS, USERS, content_of, try_one, world, write_lists_file, write_matrix_file

from blair_rec.errors import SourceError
from blair_rec.evaluate.metrics import per_user
from blair_rec.experiment.elsewhere.cases import Cases
from blair_rec.experiment.elsewhere.lists import read_lists
from blair_rec.experiment.elsewhere.matrices import read_matrix
from blair_rec.experiment.elsewhere.ranks import list_notes, rank_lists

ROWS = [("u0", "i01", "3.5"), ("u0", "i02", "2"), ("u1", "i03", "1"), ("u1", "i01", "0.5")]


def lists_of(rows: list[Any], header: tuple[str, ...] = ("user_id", "item_id", "score"), name: str = "a.csv") -> Path:
    path = Path(name)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_ranked_as_their_content_says(kind: str, tmp_path: Path) -> None:
    found = []
    for seed in range(60):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found.append(try_one(folder, kind, seed))
    assert min(found.count("refused"), found.count("used")) >= 5


@pytest.mark.parametrize(
    "rows, message",
    [
        ([*ROWS, ("stranger", "i01", "1")], "1 user that the data set doesn't have \\(first: stranger\\)"),
        ([*ROWS, ("u2", "book", "1"), ("u2", "pen", "1")], "2 rows with items that the data set doesn't have"),
        ([*ROWS, ("u0", "i01", "1")], "1 row with an item that its list has already"),
        ([*ROWS, ("u2", "i01", "nan")], "score is not a finite number in 1 of 5 rows \\(line 6: 'nan'\\)"),
        ([*ROWS, ("u2", "i01", "inf")], "score is not a finite number in 1 of 5 rows"),
        ([*ROWS, ("u2", "i01", "")], "score is not a finite number in 1 of 5 rows"),
        ([("early", "i01", "1")], "has no list for any of the 8 users of the test part"),
        ([], "a.csv holds no row"),
    ],
)
def test_what_a_list_may_not_hold_is_refused_with_its_count(rows: list[Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_lists(lists_of(rows), world())


def test_all_problems_of_a_file_come_together() -> None:
    rows = [*ROWS, ("stranger", "i01", "1"), ("u2", "book", "1"), ("u0", "i01", "1")]
    with pytest.raises(SourceError) as error:
        read_lists(lists_of(rows), world())
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    "ranks, message",
    [
        ([1, 3], "the ranks of 1 list are not 1, 2, 3"),
        ([1, 1], "the ranks of 1 list are not 1, 2, 3"),
        ([2, 3], "the ranks of 1 list are not 1, 2, 3"),
        ([2, 1], "rank and score disagree in 1 list \\(first: user_id u0\\)"),
    ],
)
def test_ranks_count_without_gaps_and_agree_with_the_scores(ranks: list[int], message: str) -> None:
    rows = [("u0", "i01", 0.9, ranks[0]), ("u0", "i02", 0.1, ranks[1])]
    with pytest.raises(SourceError, match=message):
        read_lists(lists_of(rows, ("user_id", "item_id", "score", "rank")), world())


def test_all_lists_count_from_the_same_number() -> None:
    header = ("user_id", "item_id", "rank")
    assert len(read_lists(lists_of([("u0", "i01", 0), ("u1", "i02", 0)], header), world()).case) == 2
    with pytest.raises(SourceError, match="the ranks of 1 list are not 0, 1, 2, ... \\(first: user_id u1\\)"):
        read_lists(lists_of([("u0", "i01", 0), ("u1", "i02", 1)], header), world())


@pytest.mark.parametrize(
    "header, message",
    [
        (("user_id", "item_id", "rating"), "1 of 3 columns is unknown \\(rating\\)"),
        (("", "item_id", "score"), "1 of 3 columns is unknown \\(one without a name\\)"),
        (("case_id", "item_id", "score"), "give user_id, item_id, and score or rank"),
    ],
)
def test_wrong_columns_are_named(header: tuple[str, ...], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_lists(lists_of(ROWS, header), world())
    with pytest.raises(SourceError, match="give user_id, item_id, and score or rank"):
        read_lists(lists_of([row[:2] for row in ROWS], ("user_id", "item_id")), world())


def test_users_with_several_cases_need_case_ids() -> None:
    cases = Cases(
        "test",
        "case_id",
        ["1", "2"],
        np.array([1, 2]),
        np.zeros(0, int),
        np.zeros(0, int),
        world().item_tokens,
        frozenset(["u0"]),
    )
    with pytest.raises(SourceError, match="users have several test cases here, so give each row its case_id"):
        read_lists(lists_of(ROWS), cases)
    found = read_lists(lists_of([("2", "i02", 1), ("1", "i07", 1)], ("case_id", "item_id", "score")), cases)
    assert found.case.tolist() == [0, 1] and rank_lists(cases, found, "unmasked", 2).higher.tolist() == [23, 0]
    with pytest.raises(SourceError, match="1 case id that the test part of the split doesn't have"):
        read_lists(lists_of([("3", "i02", 1)], ("case_id", "item_id", "score")), cases)


def test_numbers_as_ids_are_read_as_text(tmp_path: Path) -> None:
    tokens = ["[PAD]", "7", "007"]
    cases = Cases("test", "user_id", ["1"], np.array([2]), np.zeros(0, int), np.zeros(0, int), tokens, frozenset(["1"]))
    pyarrow.parquet.write_table(pyarrow.table({"user_id": [1], "item_id": [7], "score": [1.0]}), tmp_path / "a.parquet")
    assert read_lists(tmp_path / "a.parquet", cases).item.tolist() == [1]


def test_a_target_behind_the_list_is_a_miss_and_the_history_leaves_masked_lists() -> None:
    histories, names = (np.array([0, 0, 1]), np.array([1, 2, 5])), ["u0", "u1"]
    cases = Cases("test", "user_id", names, np.array([3, 5]), *histories, world().item_tokens, frozenset(names))
    rows = [("u0", "i01", 1), ("u0", "i02", 2), ("u0", "i03", 3), ("u1", "i04", 1), ("u1", "i06", 2)]
    lists = read_lists(lists_of(rows, ("user_id", "item_id", "rank")), cases)
    unmasked, masked = (rank_lists(cases, lists, protocol, 4) for protocol in ("unmasked", "masked"))  # type: ignore[arg-type]
    assert unmasked.higher.tolist() == [2, 23]  # behind all 23 others
    assert masked.higher[0] == 0 and masked.topk.tolist() == [[3, 0, 0, 0], [4, 6, 0, 0]]
    assert (unmasked.depth, masked.depth) == (3, 2)
    notes = list_notes(cases, lists, None, 2)
    assert notes == [
        "a.csv: 1 of 2 lists is shorter than 2 items (masked): a target that is not in them counts as a miss"
    ]
    with pytest.raises(
        SourceError, match="need lists of 3 items \\(masked\\), and the longest has 2 after the history"
    ):
        list_notes(cases, lists, None, 3)


def test_history_items_in_masked_lists_are_counted() -> None:
    cases = world()
    first = [("u0", item, n) for n, item in enumerate(ITEMS, start=1)]
    lists = read_lists(lists_of(first, ("user_id", "item_id", "rank")), cases)
    history = int((cases.history_case == 0).sum())
    assert f"a.csv lists {history} item" in "\n".join(list_notes(cases, None, lists, 5))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_metrics_are_those_of_ir_measures_on_files_without_ties(seed: int, tmp_path_factory: Any) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    random, cases = Random(seed), world()
    path = tmp_path_factory.mktemp("trec") / "a.trec"
    rows = []
    for user in USERS:
        items = random.sample(ITEMS, random.randint(1, 20))
        scores = random.sample(range(1000), len(items))
        rows += [(user, item, score / 8) for item, score in zip(items, scores, strict=True)]
    write_lists_file(path, dict(zip(("user_id", "item_id", "score"), map(list, zip(*rows, strict=True)), strict=True)))
    targets = {user: cases.item_tokens[item] for user, item in zip(USERS, cases.target, strict=True)}
    qrels = [ir_measures.Qrel(user, item, 1) for user, item in targets.items()]
    histories: dict[str, set[str]] = {user: set() for user in USERS}
    for case, item in zip(cases.history_case, cases.history_item, strict=True):
        histories[USERS[case]].add(cases.item_tokens[item])
    whole = list(ir_measures.read_trec_run(str(path)))
    for protocol in ("unmasked", "masked"):
        run = [one for one in whole if protocol == "unmasked" or one.doc_id not in histories[one.query_id]]
        lists = rank_lists(cases, read_lists(path, cases), protocol, 5)  # type: ignore[arg-type]
        miss = cases.target_in_history if protocol == "masked" else None
        for ours, theirs in (("NDCG@5", "nDCG@5"), ("Recall@10", "R@10"), ("Hit@3", "Success@3"), ("MRR@10", "RR@10")):
            measure = ir_measures.parse_measure(theirs)
            expected = {one.query_id: one.value for one in ir_measures.iter_calc([measure], qrels, run)}
            found = per_user(ours, lists.higher, lists.equal, miss)
            assert found == pytest.approx([expected.get(user, 0.0) for user in USERS], abs=1e-9)


def test_a_matrix_needs_every_case_and_item_once_with_finite_scores(tmp_path: Path) -> None:
    cases, path = world(), tmp_path / "a.npz"
    scores = np.arange(8 * 24, dtype=np.float32).reshape(8, 24)

    def write(scores: np.ndarray = scores, users: list[str] = USERS, items: list[str] = ITEMS) -> Path:
        np.savez(path, scores=scores, user_id=np.array(users), item_id=np.array(items))
        return path

    assert np.array_equal(read_matrix(write(), cases).rows(np.arange(8))[:, 1:], scores)
    for wrong, message in (
        ({"scores": np.where(scores == 3, np.nan, scores)}, "1 user has scores that are not finite"),
        ({"scores": scores[:7]}, "8 ids in user_id for 7 rows of scores"),
        ({"scores": scores[:, :23], "items": ITEMS[:23]}, "item_id lacks 1 of 24 ids \\(first: i24\\)"),
        ({"items": [*ITEMS[:23], "i01"]}, "1 repeated id in item_id"),
        ({"items": [*ITEMS[:23], "pen"]}, "1 unknown id in item_id \\(first: pen\\)"),
        ({"users": [*USERS[:7], "early"]}, "user_id lacks 1 of 8 ids"),
        ({"scores": scores.astype(str)}, "give one number for each case and item"),
    ):
        with pytest.raises(SourceError, match=message):
            read_matrix(write(**wrong), cases)  # type: ignore[arg-type]


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", scores=np.array([{}], dtype=object), user_id=np.array(USERS), item_id=np.array(ITEMS))
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    for name in ("a.npz", "a.npy"):
        with pytest.raises(SourceError, match="can't be read as arrays of numbers and text"):
            read_matrix(tmp_path / name, world())


def test_npy_needs_its_ids_next_to_it(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((8, 24)))
    with pytest.raises(SourceError, match="needs a.user_id.txt next to it"):
        read_matrix(tmp_path / "a.npy", world())


def test_the_files_of_the_fuzzing_are_valid_before_the_damage(tmp_path: Path) -> None:
    for seed in range(5):
        for kind in KINDS[:4]:
            write_lists_file(tmp_path / f"a.{kind}", content_of(Random(seed)))
            read_lists(tmp_path / f"a.{kind}", world())
    write_matrix_file(tmp_path / "a.npz", Random(0))
    read_matrix(tmp_path / "a.npz", world())


def test_ids_of_npy_files_may_have_any_character_but_a_line_break(tmp_path: Path) -> None:
    odd = [f"{user}\u2028\x85\x0c," for user in USERS]
    cases = dataclasses.replace(world(), names=odd, users=frozenset(odd))
    np.save(tmp_path / "a.npy", np.zeros((8, 24)))
    (tmp_path / "a.user_id.txt").write_text("\n".join(odd), "utf-8")
    (tmp_path / "a.item_id.txt").write_text("\n".join(ITEMS) + "\n", "utf-8")
    assert read_matrix(tmp_path / "a.npy", cases).row_of.tolist() == list(range(8))


@pytest.mark.filterwarnings("error")
def test_scores_beyond_float32_are_counted_without_a_warning(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", scores=np.full((8, 24), 1e300), user_id=np.array(USERS), item_id=np.array(ITEMS))
    with pytest.raises(SourceError, match="8 users have scores that are not finite float32 numbers"):
        read_matrix(tmp_path / "a.npz", world())


@pytest.mark.parametrize("kind", ["csv", "jsonl", "trec"])
def test_a_file_in_another_encoding_gets_the_right_advice(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    for content, advice in (
        ("user_id,item_id,score\n".encode("utf-16"), "`iconv -f utf-16 -t utf-8`"),
        (gzip.compress(b"user_id,item_id,score\n"), "it is compressed with gzip; unpack it"),
        ("user_id,ité,score\n".encode("latin1"), "`iconv -f latin1 -t utf-8`"),
    ):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=f"is not UTF-8.*{advice}"):
            read_lists(path, world())
