"""blair_rec.recommend_file and `blair-rec recommend`: histories from a file, the best items into a file, or neither."""

from __future__ import annotations

import csv
import errno
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from comparisons import config_of, tiny_at, write_config
from encoders import build_roberta
from history_files import KINDS, read_output, try_one, write_histories
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import read_log

import blair_rec
from blair_rec.cli import main
from blair_rec.errors import BlairRecError, ConfigError, MissingExtra, OutputError, SourceError, UnknownItems
from blair_rec.experiment.compare import compare
from blair_rec.serve.batch import histories as reading
from blair_rec.serve.batch import outputs, recommend
from blair_rec.serve.batch.histories import Unknown, read_histories
from blair_rec.serve.batch.recommend import Served
from blair_rec.serve.items import KnownItems
from blair_rec.text.store.embeddings import open_store
from blair_rec.text.store.writer import write_store

EVENTS = {
    "user_id": ["u2", "u1", "u2", "u1", "u2"],
    "item_id": ["i05", "i02", "i07", "i01", "i06"],
    "timestamp": [3, 2, 1, 1, 3],
}
"""In order of time: u2 i07 i05 i06 (the last two tie), u1 i01 i02."""
IN_ORDER = {"u2": ["i07", "i05", "i06"], "u1": ["i01", "i02"]}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with one run of each kind of variant; no test changes it."""
    folder = tmp_path_factory.mktemp("done")
    variants = {"rules": {"scorer": "sequential_rules"}, "near": {"scorer": "recent_history"}, "id": {"items": "id"}}
    config = config_of(tiny_at(folder), build_roberta(folder / "tiny-roberta"), variants=variants, seeds=[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        compare(config, folder / "out")
    return folder


@pytest.fixture
def run(done: Path) -> Path:
    return done / "out" / "runs" / "rules-1"


def lists_of(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["user_id"], []).append(row["item_id"])
    return found


def expected_of(run: Path, histories: dict[str, list[str]], k: int, **options: Any) -> dict[str, list[str]]:
    """The recommendations of `recommend` for lists."""
    found = blair_rec.load(run).recommend(histories, k, **options)
    return {user: [one.item_token for one in best] for user, best in found.items()}


@pytest.mark.parametrize("written", KINDS)
@pytest.mark.parametrize("read", KINDS)
@pytest.mark.parametrize("name", ["rules-1", "id-1"])
def test_a_file_gives_what_lists_in_order_of_time_give(done: Path, name: str, read: str, written: str) -> None:
    run = done / "out" / "runs" / name
    write_histories(Path(f"events.{read}"), EVENTS)
    write_histories(Path(f"lists.{read}"), {"user_id": list(IN_ORDER), "history": list(IN_ORDER.values())})
    sources = ["events", "lists"]
    if read != "csv":  # which has no lists of its own
        write_histories(Path(f"items.{read}"), {"user_id": list(IN_ORDER), "item_id": list(IN_ORDER.values())})
        sources.append("items")
    for source in sources:
        served = blair_rec.recommend_file(run, f"best.{written}", histories=f"{source}.{read}", k=4)
        rows = read_output(Path(f"best.{written}"))
        assert (served.users, served.rows, served.notes(4)) == (2, 8, [])
        found = blair_rec.load(run).recommend(IN_ORDER, 4)
        assert [(row["user_id"], row["item_id"], row["rank"], row["by_popularity"]) for row in rows] == [
            (user, one.item_token, rank, False) for user, best in found.items() for rank, one in enumerate(best, 1)
        ]
        assert [row["score"] for row in rows] == pytest.approx([one.score for best in found.values() for one in best])


def test_all_users_have_all_their_events(done: Path, run: Path) -> None:
    events: dict[str, list[tuple[int, str]]] = {}
    for user, item, time in read_log(done / "tiny"):
        events.setdefault(user, []).append((time, item))
    histories = {user: [item for _, item in sorted(found, key=lambda pair: pair[0])] for user, found in events.items()}
    served = blair_rec.recommend_file(run, "best.csv", all_users=True, k=3)
    assert served.users == len(histories)
    assert lists_of(read_output(Path("best.csv"))) == expected_of(run, histories, 3)
    refit = blair_rec.refit(run, "refit")
    blair_rec.recommend_file(refit, "after.csv", all_users=True, k=3)
    assert lists_of(read_output(Path("after.csv"))) == expected_of(refit, histories, 3)


def test_all_users_of_a_run_with_hidden_items_are_those_of_the_data_set_and_what_is_missing_is_counted(
    done: Path, tmp_path: Path
) -> None:
    variants = {"near": {"scorer": "recent_history"}, "rules": {"scorer": "sequential_rules"}}
    config = config_of(
        done / "tiny",
        done / "tiny-roberta",
        variants=variants,
        seeds=[1],
        baseline="rules",
        evaluate={"new_items": 0.2},
    )
    compare(config, tmp_path / "out")
    log = read_log(done / "tiny")
    for name in ("rules", "near"):
        run = tmp_path / "out" / "runs" / f"{name}-1"
        known = set(blair_rec.load(run).item_tokens)
        hidden = [item for _, item, _ in log if item not in known]
        served = blair_rec.recommend_file(run, "best.csv", all_users=True, k=3)
        assert (served.users, served.skipped) == (len({user for user, _, _ in log}), 0)
        assert (served.hidden_items, served.hidden_events) == (len(set(hidden)), len(hidden)) and hidden
        (note,) = served.notes(3)
        assert note.startswith(
            f"hidden from this run (evaluate.new_items): {len(set(hidden))} items with {len(hidden)} events: not in "
            "the histories, and not recommended."
        )
        assert {row["item_id"] for row in read_output(Path("best.csv"))} <= known
    [store] = (tmp_path / "out" / "stores").iterdir()
    whole = blair_rec.recommend_file(run, "whole.csv", all_users=True, k=3, extra_items=store)
    assert (whole.users, whole.hidden_items, whole.notes(3)) == (served.users, 0, [])
    after = blair_rec.recommend_file(blair_rec.refit(run, "refit"), "after.csv", all_users=True, k=3)
    assert (after.users, after.hidden_items, after.notes(3)) == (served.users, 0, [])


def test_small_blocks_change_nothing(done: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blair_rec.recommend_file(run, "whole.csv", all_users=True, k=3)
    monkeypatch.setattr(reading, "BLOCK", 7)
    monkeypatch.setattr(recommend, "SCORED", 3)
    blair_rec.recommend_file(run, "pieces.csv", all_users=True, k=3)
    assert Path("whole.csv").read_text() == Path("pieces.csv").read_text()


def test_titles_allowed_and_denied_items_and_the_history(done: Path, run: Path) -> None:
    write_histories(Path("h.csv"), EVENTS)
    Path("only.txt").write_text("\n".join(f"i{n:02}" for n in range(1, 31)) + "\n", "utf-8")
    write_histories(Path("except.csv"), {"item_id": ["i10", "i20"]})
    blair_rec.recommend_file(
        run, "best.parquet", histories="h.csv", k=9, titles=True, only="only.txt", deny="except.csv",
        exclude_history=False,
    )  # fmt: skip
    rows = read_output(Path("best.parquet"))
    allow = [f"i{n:02}" for n in range(1, 31)]
    assert lists_of(rows) == expected_of(run, IN_ORDER, 9, allow=allow, deny=["i10", "i20"], exclude_history=False)
    with (done / "tiny" / "tiny.item").open(encoding="utf-8", newline="") as file:
        titles = {row["item_id:token"]: row["title:token_seq"] for row in csv.DictReader(file, delimiter="\t")}
    assert all(row["title"] == titles[row["item_id"]] for row in rows)


def test_unknown_items_are_an_error_or_skipped_and_counted(run: Path) -> None:
    events = {"user_id": ["u1", "u1", "u2", "u3"], "item_id": ["i01", "new", "newer", "i02"]}
    write_histories(Path("h.csv"), events)
    with pytest.raises(
        UnknownItems, match="the model doesn't have 2 of 4 item tokens.*first: new, newer.*--unknown-items skip"
    ):
        blair_rec.recommend_file(run, "best.csv", histories="h.csv", k=2)
    assert not Path("best.csv").exists()
    served = blair_rec.recommend_file(run, "best.csv", histories="h.csv", k=2, unknown="skip")
    rows = read_output(Path("best.csv"))
    assert (served.skipped, served.first_skipped, served.by_popularity) == (2, ("new", "newer"), 1)
    assert [row["by_popularity"] for row in rows] == [False] * 2 + [True] * 2 + [False] * 2
    [popular] = blair_rec.load(run).recommend([[]], 2, unknown="skip")
    assert [(row["item_id"], row["score"]) for row in rows[2:4]] == [tuple(one) for one in popular]
    assert served.notes(2) == [
        "unknown items skipped: 2 (first: new, newer)",
        "1 of 3 users has no known item and got the most popular items; the column by_popularity says so",
    ]


def test_users_with_too_few_items_left_get_fewer_and_that_is_counted(run: Path) -> None:
    write_histories(Path("h.csv"), {"user_id": ["u1", "u1", "u2"], "item_id": ["i01", "i02", "i40"]})
    Path("only.txt").write_text("i01\ni02\ni03\n", "utf-8")
    served = blair_rec.recommend_file(run, "best.csv", histories="h.csv", k=3, only="only.txt")
    found = lists_of(read_output(Path("best.csv")))
    assert found["u1"] == ["i03"] and set(found["u2"]) == {"i01", "i02", "i03"}
    assert served.notes(3) == [
        "1 of 2 users has fewer than 3 items left to recommend, so the file has fewer rows there"
    ]


def test_more_items_than_there_are_can_be_asked_for(run: Path) -> None:
    write_histories(Path("h.csv"), {"user_id": ["u1", "u2"], "item_id": ["i01", "new"]})
    served = blair_rec.recommend_file(run, "best.csv", histories="h.csv", k=1000, unknown="skip")
    found = lists_of(read_output(Path("best.csv")))
    assert (len(found["u1"]), len(found["u2"]), served.short) == (79, 80, 2)


@pytest.mark.parametrize("key", ["only", "deny"])
def test_an_unknown_item_of_a_list_is_reported_with_the_list(run: Path, key: str) -> None:
    write_histories(Path("h.csv"), {"user_id": ["u1"], "item_id": ["i01"]})
    Path("list.txt").write_text("i02\nnew\n", "utf-8")
    with pytest.raises(UnknownItems, match="^list.txt: the model doesn't have 1 of 2 item tokens .first: new"):
        blair_rec.recommend_file(run, "best.csv", histories="h.csv", **{key: "list.txt"})


def test_notes_of_a_single_user_are_in_the_singular() -> None:
    assert Served(users=1, by_popularity=1, short=1, hidden_items=1, hidden_events=1).notes(1) == [
        "hidden from this run (evaluate.new_items): 1 item with 1 event: not in the histories, and not recommended. "
        "`blair-rec refit` learns hidden items, and `extra_items` (--extra-items) adds those with a text vector",
        "1 of 1 user has no known item and got the most popular items; the column by_popularity says so",
        "1 of 1 user has fewer than 1 item left to recommend, so the file has fewer rows there",
    ]


def test_ids_stay_text(run: Path, tmp_path: Path) -> None:
    known = KnownItems(["[PAD]", "007", "7", "1e3"])
    Path("h.csv").write_text("user_id,item_id\n01,007\n1,7\n01,1e3\n", "utf-8")
    [block] = read_histories(Path("h.csv"), known, Unknown("error"))
    assert block.users == ["01", "1"] and block.items.tolist() == [1, 3, 2]
    for kind in ("jsonl", "parquet"):  # a column of whole numbers becomes their digits
        write_histories(Path(f"h.{kind}"), {"user_id": [1, 2], "item_id": [7, 7]})
        [block] = read_histories(Path(f"h.{kind}"), known, Unknown("error"))
        assert block.users == ["1", "2"] and block.items.tolist() == [2, 2]


@pytest.mark.parametrize(
    "times, expected",
    [
        ([3, 1, 2], "bca"),
        ([2**62 + 1, 2**62, 2**62 + 2], "bac"),
        ([1.5, 1, 1.25], "bca"),
        (["2024-07-02", "2024-07-01T10:00:00+02:00", "2024-07-01"], "cba"),
        ([5, 5, 5], "abc"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_events_are_put_in_order_by_their_times_and_ties_stay(kind: str, times: list[Any], expected: str) -> None:
    write_histories(Path(f"h.{kind}"), {"user_id": ["u"] * 3, "item_id": list("abc"), "timestamp": times})
    [block] = read_histories(Path(f"h.{kind}"), KnownItems(["[PAD]", *"abc"]), Unknown("error"))
    assert "".join("abc"[item - 1] for item in block.items) == expected


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcde"), st.integers(-3, 3)), min_size=1, max_size=30),
    st.booleans(),
)  # fmt: skip
def test_histories_are_those_that_sorted_finds(events: list[tuple[str, str, int]], timed: bool) -> None:
    users, items, times = (list(column) for column in zip(*events, strict=True))
    columns = {"user_id": users, "item_id": items, **({"timestamp": times} if timed else {})}
    Path("h.csv").unlink(missing_ok=True)
    write_histories(Path("h.csv"), columns)
    [block] = read_histories(Path("h.csv"), KnownItems(["[PAD]", *"abcd"]), Unknown("skip"))
    rows = np.split(block.items, np.cumsum(block.lengths)[:-1])
    ordered = sorted(events, key=lambda event: event[2]) if timed else events
    expected = {
        user: [item for who, item, _ in ordered if who == user and item != "e"] for user in dict.fromkeys(users)
    }
    assert dict(zip(block.users, (["[abcd"[item] for item in row] for row in rows), strict=True)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_are_refused_or_rightly_used(kind: str, tmp_path: Path) -> None:
    outcomes = set()
    for seed in range(25):
        (tmp_path / f"{seed}").mkdir()
        outcomes.add(try_one(tmp_path / f"{seed}", kind, seed))
    assert outcomes == {"refused", "used"}


BROKEN = [
    ("h.txt", b"x", r"h.txt: unknown kind of file; known endings: .csv, .jsonl, .parquet"),
    ("h.csv", b"", "h.csv is empty, or its first line is"),
    ("h.csv", b"user_id,item_id\n", "h.csv holds no row"),
    ("h.jsonl", b"\n\n", "h.jsonl holds no row"),
    ("h.csv", b"user_id,item_id,rating\nu,i01,5\n", r"1 of 3 columns is unknown \(rating\); .*leave them out"),
    ("h.csv", b"user_id,item_id,timestmap\nu,i01,5\n", "columns is unknown .timestmap.; did you mean 'timestamp'?"),
    ("h.csv", b"user_id;item_id\nu;i01\n", "its columns are separated by semicolons"),
    ("h.csv", b"user_id,user_id\nu,i01\n", "several columns are called 'user_id'"),
    ("h.csv", b"user_id\nu\n", "h.csv has the columns user_id; give user_id, item_id and perhaps timestamp"),
    ("h.csv", b"user_id,item_id\nu,i01\nu\n", "line 3: 1 column where there should be 2"),
    ("h.csv", b"user_id,item_id\n,i01\n", "line 2: user_id is empty"),
    ("h.csv", b"user_id,item_id\nu,\n", "line 2: item_id is empty"),
    ("h.csv", b'user_id,item_id\nu,"i01\nu,i02\n', "unexpected end of data; mend the quotation marks"),
    ("h.csv", b'user_id,item_id\n"u,i01\nu",i02\n', "holds a line break or an invalid character; look for a quotation"),
    ("h.csv", b"user_id,item_id\nu,\xff\n", r"h.csv is not UTF-8 \(byte 0xff\)"),
    ("h.csv", b"user_id,item_id,timestamp\nu,i01,nan\n", "line 2: timestamp is 'nan'; expected a number or a date"),
    ("h.csv", b"user_id,item_id,timestamp\nu,i01,1_0\n", "line 2: timestamp is '1_0'; expected a number or a date"),
    ("h.csv", b"user_id,item_id,timestamp\nu,i01,1\nu,i02,2024-01-01\n", "line 3.*give all times as numbers, or all"),
    ("h.csv", b"user_id,history\nu,i01\nu,i02\n", "line 3: a second list of user 'u'"),
    ("h.jsonl", b'{"user_id": "u", "item_id": "i01"}\n{"user_id": "u", "item_id": 1}\n', "line 2: item_id is a number"),
    ("h.jsonl", b'{"user_id": 1, "item_id": "i01"}\n{"user_id": "1", "item_id": "i01"}\n', "user_id is text here"),
    ("h.jsonl", b'{"user_id": "u", "item_id": 1.0}\n', "line 1: item_id is '1.0', a float; ids are text"),
    ("h.jsonl", b'{"user_id": "u", "item_id": NaN}\n', "line 1: NaN is not a value"),
    ("h.jsonl", b'{"user_id": "u", "user_id": "v", "item_id": "i01"}\n', "line 1: a field is there twice"),
    ("h.jsonl", b'{"user_id": "u", "item_id": "i01"}\n{"user_id": "u"}\n', "line 2: every line has to"),
    ("h.jsonl", b'{"user_id": "u", "history": "i01"}\n', "line 1: history is 'i01'; give a list of item ids"),
    ("h.jsonl", b'{"user_id": "u\\ud800", "history": ["i01"]}\n', "holds a line break or an invalid character"),
    ("h.jsonl", b'{"user_id": "u", "item_id": "i01"}\n{"user_id": "v", "item_id": []}\n', "line 2: item_id is"),
    ("h.jsonl", b"[1]\n", "line 1: a JSON object is expected, such as"),
    ("h.jsonl", b"{\n", "line 1 is not JSON"),
    ("h.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ("h.parquet", b"PAR1", "h.parquet is not a Parquet file, or is damaged"),
]  # fmt: skip


@pytest.mark.parametrize("name, content, message", BROKEN)
def test_what_is_wrong_with_a_file_is_told_in_one_line(run: Path, name: str, content: bytes, message: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as error:
        blair_rec.recommend_file(run, "best.csv", histories=name, unknown="skip")
    assert "\n" not in str(error.value) and sorted(path.name for path in Path().iterdir()) == [name]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"k": 0}, ConfigError, "k is 0; it has to be at least 1"),
        ({"all_users": True}, ConfigError, "name either a file of histories"),
        ({"histories": None}, ConfigError, "name either a file of histories"),
        ({"histories": "no.csv"}, SourceError, "no.csv is not there, or not a file"),
        ({"only": "no.txt"}, SourceError, "no.txt is not there"),
        ({"deny": "empty.txt"}, SourceError, "empty.txt names no item"),
        ({"only": "h.csv"}, SourceError, "2 of 3 columns are unknown"),
        ({"out": "best.tsv"}, ConfigError, "best.tsv: unknown kind of file"),
        ({"out": "h.csv"}, ConfigError, "h.csv is read, too, and would be lost"),
        ({"out": "folder.csv"}, OutputError, "folder.csv is a folder"),
        ({"unknown": "ignore"}, ConfigError, "unknown is 'ignore'"),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_told_before_anything_is_written(
    run: Path, options: dict[str, Any], error: type[BlairRecError], message: str
) -> None:
    write_histories(Path("h.csv"), EVENTS)
    Path("empty.txt").write_text("\n")
    Path("folder.csv").mkdir()
    before = sorted(Path().iterdir())
    out = options.get("out", "best.csv")
    rest = {name: value for name, value in options.items() if name != "out"}
    with pytest.raises(error, match=message):
        blair_rec.recommend_file(run, out, **{"histories": "h.csv", **rest})
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_and_an_interruption_leave_the_older_file(
    run: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_histories(Path("h.csv"), EVENTS)
    out = Path(f"best.{kind}")
    out.write_text("older")
    for raised, expected in (
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (KeyboardInterrupt(), None),
    ):

        def fail(*_: object, error: BaseException = raised) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(outputs._OUTPUTS[f".{kind}"], "write", fail)
            with pytest.raises(expected or KeyboardInterrupt, match="No space left" if expected else None):
                blair_rec.recommend_file(run, out, histories="h.csv", k=2)
        assert out.read_text() == "older" and sorted(path.name for path in Path().iterdir()) == [out.name, "h.csv"]


def test_a_store_of_more_items_makes_them_recommendable(done: Path) -> None:
    run = done / "out" / "runs" / "near-1"
    own = open_store(next((done / "out" / "stores").iterdir()))
    vectors = np.vstack([own.vectors, own.table(["i05"])])
    made = {"encoder": dict(own.encoder), "template": dict(own.template)}
    write_store(Path("more"), [*own.item_tokens, "twin"], vectors, textless=(), text_sha256="0" * 64, **made)
    write_histories(Path("h.csv"), {"user_id": ["a", "b"], "item_id": ["i05", "twin"]})
    blair_rec.recommend_file(run, "best.jsonl", histories="h.csv", k=3, extra_items="more", titles=True)
    rows = read_output(Path("best.jsonl"))
    assert [(row["item_id"], row["title"]) for row in rows if row["rank"] == 1][0] == ("twin", None)
    assert rows[3]["item_id"] == "i05"
    with pytest.raises(ConfigError, match="after training can't be scored"):
        blair_rec.recommend_file(run.with_name("id-1"), "no.csv", histories="h.csv", extra_items="more")


def test_without_pyarrow_csv_and_json_lines_work_and_parquet_names_the_extra(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in KINDS:
        write_histories(Path(f"h.{kind}"), EVENTS)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("pyarrow", "polars")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("blair_rec.extras.find_spec", lambda library: None)
    blair_rec.recommend_file(run, "best.csv", histories="h.jsonl", k=2)
    blair_rec.recommend_file(run, "best.jsonl", histories="h.csv", k=2)
    for histories, out in (("h.parquet", "no.csv"), ("h.csv", "no.parquet")):
        with pytest.raises(MissingExtra, match=r"Parquet needs pyarrow.*pip install 'blair-rec\[prepare\]'"):
            blair_rec.recommend_file(run, out, histories=histories, k=2)


def test_the_command_recommends(done: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_histories(Path("h.csv"), {**EVENTS, "item_id": ["i05", "i02", "new", "i01", "i06"]})
    command = ["recommend", str(run), "--histories", "h.csv", "-k", "3", "-o", "best.parquet"]
    assert main(command) == 1
    assert "the model doesn't have 1 of 5 item tokens" in capsys.readouterr().err
    assert main([*command, "--unknown-items", "skip", "--titles"]) == 0
    said = capsys.readouterr().err
    assert "unknown items skipped: 1 (first: new)" in said and "wrote 6 recommendations for 2 users to best.pa" in said
    table = pyarrow.parquet.read_table("best.parquet")
    types = [str(kind) for kind in table.schema.types]
    assert table.column_names == ["user_id", "item_id", "score", "rank", "by_popularity", "title"]
    assert types == ["string", "string", "float", "int32", "bool", "string"]
    Path("except.txt").write_text("i10\n")
    assert (
        main(["recommend", str(run), "--all-users", "-o", "a.jsonl", "--except", "except.txt", "--include-history"])
        == 0
    )
    assert "i10" not in {row["item_id"] for row in read_output(Path("a.jsonl"))}


def test_a_comparison_without_titles_says_so(tmp_path: Path, tiny: Path) -> None:
    (tiny / "tiny.item").unlink()
    file = write_config(tmp_path / "my.yaml", tiny, "none", variants={"p": {"scorer": "popularity"}}, baseline="p")
    blair_rec.compare(file, tmp_path / "out")
    with pytest.raises(ConfigError, match="no titles of the items are known: .*these names: title, .*; leave "):
        blair_rec.recommend_file(tmp_path / "out" / "runs" / "p-1", "best.csv", all_users=True, titles=True)


def test_a_file_that_vanishes_while_it_is_read_is_not_taken_for_the_output(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "h.csv")
        yield

    write_histories(Path("h.csv"), EVENTS)
    monkeypatch.setattr(recommend, "read_histories", gone)
    with pytest.raises(FileNotFoundError, match=r"h\.csv"):
        blair_rec.recommend_file(run, "best.csv", histories="h.csv", k=3)
    assert not Path("best.csv").exists()


@pytest.mark.parametrize(
    "times",
    [
        pyarrow.array([3, 2, 1, 1, 3], pyarrow.date32()),
        pyarrow.array([day * 86_400_000 for day in (3, 2, 1, 1, 3)], pyarrow.date64()),
        pyarrow.array([3, 2, 1, 1, 3], pyarrow.decimal128(5, 1)),
    ],
)
def test_days_and_decimals_of_parquet_are_times(run: Path, times: Any) -> None:
    pyarrow.parquet.write_table(pyarrow.table({**EVENTS, "timestamp": times}), "h.parquet")
    blair_rec.recommend_file(run, "best.csv", histories="h.parquet", k=4)
    assert lists_of(read_output(Path("best.csv"))) == expected_of(run, IN_ORDER, 4)
