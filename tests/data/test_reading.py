"""Atomic files: our fast reader gives the same columns as RecBole's own reader."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from own_folders import try_one
from worlds import SMALL, STOCK, write_log

from blair_rec.border.settings import recbole_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.reading import TokenIds
from blair_rec.errors import AtomicFileError, DatasetError, RejectedLines
from blair_rec.models.text_models import model_class

from recbole.data.dataset import SequentialDataset

LOG = """\
user_id:token\titem_id:token\trating:float\ttimestamp:float\tplace:token\ttags:token_seq\tshares:float_seq
ann\t007\t3.5\t1628643414042\tnew york\tred blue\t0.25 1e-3 7
bob\tone\t4\t1628643414043.5\t\t\t
ann\t"quoted ""so"\t-1e-3\t1628643415042\tnowhere\tblue\t3
ann\t7\t0.1\t1628643415999\tbonn\tgreen  red\t4 5
bob\t007\t2\t1628643415999\tbonn\tblue green\t1
eve\tone\t2\t1628643415000\tbonn\t\t1
eve\t007\t17.125\t1628643425000\tberlin\tred\t
"""
ITEMS = """\
item_id:token\ttitle:token\tclass:token_seq\tvector:float_seq\tprice:float
one\tThe first\tred old\t0.5 1.5\t3
007\tBond\t\t1 2\t5
7\t\tnew\t\t4.25
"quoted ""so"\tSo\tnew\t\t4.25
never\tNobody's\tnew red\t9 9\t1
7\ttwice\told\t1 1\t2
"""
USERS = "user_id:token\tage:float\tjob:token\nbob\t31\tbaker\nann\t5\t\neve\t7\tbaker\n"
EVERYTHING = {"load_col": None, "numerical_features": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set with every kind of column and with missing values."""
    (tmp_path / "odd").mkdir()
    for kind, text in (("inter", LOG), ("item", ITEMS), ("user", USERS)):
        (tmp_path / "odd" / f"odd.{kind}").write_text(text, encoding="utf-8")
    return tmp_path / "odd"


def both(folder: Path, **said: Any) -> list[Any]:
    """Return RecBole's data set and ours, read and numbered but not split."""
    return [
        cls(recbole_config("SASRec", str(folder), {**SMALL, **STOCK, **EVERYTHING, **said}))
        for cls in (SequentialDataset, TextSequentialDataset)
    ]


def assert_same(theirs: Any, ours: Any) -> None:
    """Return frames cell by cell, vocabularies, and the properties of the fields."""
    for name in ("inter_feat", "user_feat", "item_feat"):
        frame, own = getattr(theirs, name), getattr(ours, name)
        assert list(own) == list(frame) and len(own) == len(frame)
        for field in frame:
            for left, right in zip(frame[field], own[field], strict=True):
                np.testing.assert_array_equal(np.asarray(right), np.asarray(left), err_msg=f"{name} {field}")
    assert ours.field2type == theirs.field2type and ours.field2seqlen == theirs.field2seqlen
    assert ours.field2source == theirs.field2source and ours.field2bucketnum == theirs.field2bucketnum
    assert ours.field2id_token.keys() == theirs.field2id_token.keys()
    for field, tokens in theirs.field2id_token.items():
        assert ours.field2id_token[field].dtype == tokens.dtype
        assert ours.field2id_token[field].tolist() == tokens.tolist()
        assert dict(ours.field2token_id[field]) == dict(theirs.field2token_id[field])


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"load_col": {"inter": ["user_id", "item_id", "timestamp", "tags"], "item": ["item_id", "class"], "user": "*"}},
        {"load_col": None, "unload_col": {"inter": ["shares"], "user": ["age"], "item": ["vector"]}},
        {"seq_len": {"tags": 1, "vector": 9}},
        {"alias_of_item_id": ["tags"], "unload_col": {"item": ["price"]}},
        {"val_interval": {"rating": "[0,5]", "place": ["bonn", "new york"]}},
        {"filter_inter_by_user_or_item": False},
    ],
)
def test_every_kind_of_column_is_read_and_numbered_as_recbole_does(folder: Path, said: dict[str, Any]) -> None:
    assert_same(*both(folder, **said))


def test_rows_with_their_user_and_item_columns_are_recboles(folder: Path) -> None:
    write = "".join(
        line.replace("16286434", "") + "\n" for line in LOG.splitlines()
    )  # times that float32 holds exactly
    (folder / "odd.inter").write_text(write, encoding="utf-8")
    for their_split, our_split in zip(*(data.build() for data in both(folder)), strict=True):
        if len(their_split) == 0:
            assert len(our_split) == 0
            continue
        every = np.arange(len(their_split))
        theirs, ours = their_split[every], our_split[every]
        assert {"tags_list", "shares_list", "class", "vector", "price", "age", "job"} <= set(theirs.columns)
        for field in theirs.columns:
            assert ours[field].dtype == theirs[field].dtype, field
            assert torch.equal(ours[field], theirs[field]), field


@pytest.mark.parametrize(
    "said", [{"field_separator": ","}, {"field_separator": "::", "seq_separator": ", "}, {"encoding": "latin-1"}]
)
def test_separators_and_encoding_are_the_configs(tmp_path: Path, said: dict[str, Any]) -> None:
    rows = [["user_id:token", "item_id:token", "timestamp:float", "tags:token_seq"]]
    rows += [
        ["ann", "café", "1", "a b"],
        ["ann", "thé", "2", ""],
        ["bob", "thé", "3", "b"],
        ["bob", "café", "4", "c a"],
    ]
    separator, within = said.get("field_separator", "\t"), said.get("seq_separator", " ")
    (tmp_path / "odd").mkdir()
    text = "\n".join(separator.join([*row[:3], within.join(row[3].split())]) for row in rows) + "\n"
    (tmp_path / "odd" / "odd.inter").write_text(text, encoding=said.get("encoding", "utf-8"))
    theirs, ours = both(tmp_path / "odd", **said)
    assert ours.field2id_token["item_id"].tolist() == ["[PAD]", "café", "thé"]
    assert ours.inter_feat.equals(theirs.inter_feat) or [
        [np.asarray(cell).tolist() for cell in ours.inter_feat[field]] for field in ours.inter_feat
    ] == [[np.asarray(cell).tolist() for cell in theirs.inter_feat[field]] for field in theirs.inter_feat]


def test_times_keep_every_digit(tmp_path: Path) -> None:
    times = [1628643414042, 1628643414043, 9007199254740991, 881250949.25, 1628643414.000125]
    folder = write_log(tmp_path / "exact", [(f"u{at}", "i", time) for at, time in enumerate(times)])
    config = recbole_config("SASRec", str(folder), {**SMALL, **STOCK})
    assert TextSequentialDataset(config).inter_feat["timestamp"].tolist() == times


@pytest.mark.parametrize(
    ("title", "message"),
    [
        ("item_id", r"column 'item_id' is not in RecBole's format.*item_id:token"),
        ("item_id:word", "known: token, float"),
    ],
)
def test_a_column_without_a_known_kind_is_an_error(tmp_path: Path, title: str, message: str) -> None:
    folder = write_log(tmp_path / "wrong", [("ann", "a", 1), ("ann", "b", 2)])
    path = folder / "wrong.inter"
    path.write_text(path.read_text("utf-8").replace("item_id:token", title), encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        TextSequentialDataset(recbole_config("SASRec", str(folder), {**SMALL, **STOCK, **EVERYTHING}))


GOOD = "".join(f"u{at % 9}\ti{at % 7}\t{at}\n" for at in range(100))


def write_inter(folder: Path, body: str, header: str = "user_id:token\titem_id:token\ttimestamp:float\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{folder.name}.inter").write_bytes((header + body).encode())
    return folder


def read(folder: Path, **said: Any) -> TextSequentialDataset:
    return TextSequentialDataset(recbole_config("SASRec", str(folder), {**SMALL, **STOCK, **said}))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ann\tcup\tlater", "timestamp 'later' is not a finite number"),
        ("ann\tcup\t", "timestamp is empty"),
        ("ann\tcup\tNaN", "timestamp 'NaN' is not a finite number"),
        ("ann\tcup\t1e999", "timestamp '1e999' is not a finite number"),
        ("ann\tcup\tTrue", "timestamp 'True' is not a finite number"),
        ("ann\tcup\t1_0", "timestamp '1_0' is not a finite number"),
        ("\tcup\t1", "user_id is empty"),
        (" \tcup\t1", "user_id is empty"),
        ('ann\t""\t1', "item_id is empty"),
        ("ann\tc\0p\t1", "item_id 'c\\x00p' holds a NUL character"),
        ("ann\tcup", "2 columns, but the first line has 3"),
        ("ann\tcup\t1\t2", "4 columns, but the first line has 3"),
        ('ann\t"cup\t1\tx"\t2\t3', "6 columns, but the first line has 3"),
    ],
)
def test_a_line_that_can_not_be_used_is_skipped_counted_and_reported(
    tmp_path: Path, line: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="blair_rec")  # RecBole leaves the root logger at the level of its last run
    data = read(write_inter(tmp_path / "shop", f"{GOOD}{line}\n{GOOD}"))
    assert data.inter_feat["timestamp"].tolist() == [*range(100), *range(100)]
    (kept,) = data.rejected.kept
    found = json.loads(kept)
    assert (found["file"], found["line"], found["text"]) == ("shop.inter", 102, line)
    assert found["why"].startswith(why)
    assert f"1 of 201 lines of events can't be used and was skipped (first: shop.inter, line 102: {why}" in caplog.text


def test_more_than_one_in_twenty_lines_is_an_error_with_the_first_lines(tmp_path: Path) -> None:
    good = GOOD.splitlines(keepends=True)[:95]
    assert read(write_inter(tmp_path / "some", "".join(good) + "u\ti\t\n" * 5)).rejected.count == 5
    message = (
        r"6 of 101 lines can't be used; the limit is 0.05 of all lines .*line 97: timestamp is empty.*correct these"
    )
    with pytest.raises(RejectedLines, match=message):
        read(write_inter(tmp_path / "many", "".join(good) + "u\ti\t\n" * 6))


def test_broken_lines_in_a_row_are_judged_by_the_whole_file(tmp_path: Path) -> None:
    data = read(write_inter(tmp_path / "shop", "u\ti\t\n" * 2000 + GOOD * 500))
    assert (data.rejected.count, data.rejected.lines, len(data.inter_feat)) == (2000, 52_000, 50_000)


def test_no_name_is_taken_for_a_missing_value(tmp_path: Path) -> None:
    names = ["NA", "null", "nan", "None", "N/A", "-", "#N/A", "NULL", "<NA>", "n/a", '"', "[PAD]"]
    data = read(write_inter(tmp_path / "shop", "".join(f"{name}\t{name}x\t{at}\n" for at, name in enumerate(names))))
    assert [str(token) for token in data.field2id_token["user_id"][1:]] == names
    assert data.inter_feat["item_id"].tolist() == list(range(1, 13)) and data.rejected.count == 0


def test_a_quotation_mark_in_a_column_that_is_not_loaded_swallows_nothing(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\treview:token_seq\ttimestamp:float\n"
    reviews = ['"Open', "fine", '7" tablet', 'so "so"', '"a\tb"', '"7"" tablet"', '"'] * 30
    body = "".join(f"u{at % 9}\ti{at % 7}\t{review}\t{at}\n" for at, review in enumerate(reviews))
    data = read(write_inter(tmp_path / "shop", body, header))
    assert data.inter_feat["timestamp"].tolist() == list(range(210)) and data.rejected.count == 0


@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing(tmp_path: Path, mark: str, end: str) -> None:
    folder = write_inter(tmp_path / "shop", GOOD)
    expected = read(folder).inter_feat
    path = folder / "shop.inter"
    path.write_bytes((mark + path.read_text("utf-8").replace("\n", end)).encode())
    assert read(folder).inter_feat.equals(expected)


@pytest.mark.parametrize(
    ("header", "said", "message"),
    [
        (
            "user_id:token\titem_id:token\ttimestamp:token\n",
            {},
            r"line 1: .*'timestamp:token' is used for times.*name it time",
        ),
        (
            "user_id:float\titem_id:token\ttimestamp:float\n",
            {},
            "'user_id:float' is used for ids; name it user_id:token",
        ),
        ("user:token\titem_id:token\ttimestamp:float\n", {}, r"no column 'user_id' \(columns: user, .*USER_ID_FIELD"),
        ("user_id:token\titem_id:token\titem_id:float\n", {}, "line 1: two columns are called 'item_id'"),
        ('"user_id:token"\titem_id:token\ttimestamp:float\n', {}, "without quotation marks around names"),
        ("", {}, "is not in RecBole's format"),
        (
            "user_id:token\titem_id:token\ttimestamp:float\t\n",
            {},
            r"line 1: a column has no name; .*'\\t' at the end",
        ),
        (
            "user_id:token,item_id:token,timestamp:float\n",
            {},
            r"columns are separated by ',', .* `field_separator` to ','",
        ),
        ("user_id:token\titem_id:token\ttimestamp:float\ru1", {}, "the lines end in a carriage return alone"),
        ("user_id:token\titem_id:token\ttimestamp:float\n", {"encoding": "utf9"}, "Python has no encoding 'utf9'"),
        ("user_id:token\titem_id:token\ttimestamp:float\n", {"encoding": "utf-16"}, "the text is not utf-16"),
    ],
)
def test_an_invalid_header_is_an_error(tmp_path: Path, header: str, said: dict[str, Any], message: str) -> None:
    with pytest.raises(AtomicFileError, match=message):
        read(write_inter(tmp_path / "shop", GOOD, header), **said)


@pytest.mark.parametrize("odd", [[], [0], [1_700_000_000_000, -1], [4_102_444_801]])
def test_times_outside_the_unit_of_most_are_counted(tmp_path: Path, odd: list[int]) -> None:
    times = [*range(1_700_000_000, 1_700_000_040), *odd]
    data = read(write_inter(tmp_path / "shop", "".join(f"u{at % 4}\ti{at % 7}\t{at}\n" for at in times)))
    assert [note[:44] for note in data.reading_notes] == [
        f"timestamp in shop.inter: {len(odd)} of {len(times)} times {'is' if len(odd) == 1 else 'are'} before"[:44]
    ] * bool(odd)


def test_other_names_of_columns_need_no_load_col_and_give_no_note(tmp_path: Path) -> None:
    header = "uid:token\tproduct:token\ttime:float\n"
    folder = write_inter(tmp_path / "shop", GOOD, header)
    named = {"USER_ID_FIELD": "uid", "ITEM_ID_FIELD": "product", "TIME_FIELD": "time"}
    data = TextSequentialDataset(recbole_config(model_class("SASRec"), str(folder), named))
    assert data.reading_notes == [] and len(data.inter_feat) == GOOD.count("\n")


def test_a_name_in_load_col_that_no_column_has_is_named(tmp_path: Path) -> None:
    columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp", "ratnig"]}}
    assert read(write_inter(tmp_path / "shop", GOOD), **columns).reading_notes == [
        "shop.inter has no column ratnig, which load_col names; correct load_col"
    ]


def test_ids_that_are_not_loaded_are_named(tmp_path: Path) -> None:
    with pytest.raises(AtomicFileError, match=r"column 'user_id' \(USER_ID_FIELD\) is not loaded; add it to load_col"):
        read(write_inter(tmp_path / "shop", GOOD), load_col={"inter": ["item_id", "timestamp"]})


@pytest.mark.parametrize("content", ["", "\n\n", "user_id:token\titem_id:token\ttimestamp:float\n"])
def test_a_file_without_an_event_is_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(AtomicFileError, match="shop.inter (is empty and has no|has no event)"):
        read(write_inter(tmp_path / "shop", "", content))


def test_text_in_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    folder = write_inter(tmp_path / "shop", GOOD)
    path = folder / "shop.inter"
    path.write_bytes(path.read_bytes() + b"caf\xe9\ti1\t3\n")
    with pytest.raises(
        AtomicFileError, match=r"shop.inter, line 102: byte \d+ \(0xe9\) is not UTF-8; save it as UTF-8"
    ):
        read(folder)
    assert "café" in read(folder, encoding="latin-1").field2id_token["user_id"]


FEATURES: dict[str, Any] = {
    "load_col": {**STOCK["load_col"], "item": ["item_id", "price", "kind"]},
    "filter_inter_by_user_or_item": False,
}


def write_features(folder: Path, lines: list[str]) -> Path:
    write_inter(folder, GOOD)
    text = "item_id:token\tprice:float\tkind:token\n" + "".join(f"{line}\n" for line in lines)
    (folder / f"{folder.name}.item").write_text(text, encoding="utf-8")
    return folder


PRICED = [f"i{at}\t{at}\tx" for at in range(7)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [*PRICED[:6], "i6\t\tx"],
            "shop.item, line 8: price is empty; correct the line, or remove the column from load_col",
        ),
        ([*PRICED, "\t1\tx"], "shop.item, line 9: item_id is empty"),
        (PRICED[:5], r"2 of 7 items have no line in shop.item \(first: i5, i6\), and RecBole .* the mean of price"),
    ],
)
def test_no_number_of_an_item_is_made_up(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(write_features(tmp_path / "shop", lines), **FEATURES)


def test_an_unknown_token_is_recboles_padding_and_counted(tmp_path: Path) -> None:
    said = {**FEATURES, "load_col": {**STOCK["load_col"], "item": ["item_id", "kind"]}}
    data = read(write_features(tmp_path / "shop", [*PRICED[:5], "i5\t1\t"]), **said)
    assert data.item_feat["kind"].tolist() == [0, *[1] * 5, 0, 0]
    assert data.reading_notes == [
        "kind is empty in 1 of 6 lines of shop.item; RecBole's padding token, [PAD], is used instead",
        "1 of 7 items has no line in shop.item (first: i6); RecBole's padding is used for kind",
    ]


def test_events_that_recbole_skips_without_features_are_counted(tmp_path: Path) -> None:
    data = read(write_features(tmp_path / "shop", PRICED[:6]), load_col=FEATURES["load_col"])
    (note,) = data.reading_notes
    assert note.startswith("14 of 100 events were skipped because the user or item has no line")
    assert len(data.inter_feat) == 86


def test_an_empty_history_of_a_benchmark_file_is_skipped(tmp_path: Path) -> None:
    lines = [f"u{at}\ta b\tc" for at in range(40)]
    for part in ("train", "valid", "test"):
        header = "user_id:token\titem_id_list:token_seq\titem_id:token"
        text = "\n".join([header, *lines, *(["u\t\ta"] if part == "train" else [])])
        write_inter(tmp_path / "shop", "", "")
        (tmp_path / "shop" / f"shop.{part}.inter").write_text(text, encoding="utf-8")
    columns = {"load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "alias_of_item_id": ["item_id_list"]}
    data = read(tmp_path / "shop", benchmark_filename=["train", "valid", "test"], **columns)
    assert data.file_size_list == [40, 40, 40]
    assert data.rejected.examples == "first: shop.train.inter, line 42: item_id_list is empty"


@pytest.mark.parametrize(("kind", "files"), [("inter", 60), ("item", 60), ("benchmark", 40)])
def test_a_broken_folder_is_refused_or_read_as_a_plain_reader_does(tmp_path: Path, kind: str, files: int) -> None:
    outcomes = {try_one(tmp_path / str(seed), kind, seed) for seed in range(files)}
    assert {"refused", "read"} <= outcomes


events = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), min_size=1, max_size=40)
intervals = st.sampled_from([None, "[0,inf)", "[2,inf)", "[3,inf)", "(1,5]", "[2,3];[5,9]"])


@settings(max_examples=40)
@given(events, intervals, intervals, st.booleans())
def test_users_and_items_are_filtered_as_recbole_does(
    log: list[tuple[str, str]], of_users: str | None, of_items: str | None, with_features: bool
) -> None:
    limits = {"user_inter_num_interval": of_users, "item_inter_num_interval": of_items, "numerical_features": []}
    with tempfile.TemporaryDirectory() as place:
        folder = write_log(Path(place) / "core", [(user, item, at) for at, (user, item) in enumerate(log)])
        columns = {"load_col": STOCK["load_col"]}
        if with_features:
            (folder / "core.item").write_text("item_id:token\nu\nv\nz\nnever\n", encoding="utf-8")
            columns = {"load_col": {**STOCK["load_col"], "item": ["item_id"]}}
        found = []
        for cls in (SequentialDataset, TextSequentialDataset):
            try:
                data = cls(recbole_config("SASRec", str(folder), {**SMALL, **STOCK, **limits, **columns}))
            except ValueError as error:
                found.append(str(error))
                continue
            items = (
                None if data.item_feat is None else data.field2id_token["item_id"][data.item_feat["item_id"]].tolist()
            )
            found.append((data.inter_feat.to_numpy().tolist(), data.field2id_token["item_id"].tolist(), items))
    assert found[0] == found[1]


def test_token_ids_are_those_of_the_tokens() -> None:
    ids = TokenIds(np.array(["[PAD]", "b", "a"]))
    assert dict(ids) == {"[PAD]": 0, "b": 1, "a": 2} and len(ids) == 3 and ids["a"] == 2
    assert "c" not in ids


def test_a_missing_file_of_events_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "shop.train.inter").write_text("user_id:token\titem_id:token\titem_id_list:token_seq\n")
    columns = {"alias_of_item_id": ["item_id_list"], "benchmark_filename": ["train", "valid", "test"]}
    for said, message in (
        ({}, "shop has no shop.inter; a data set shop needs shop.inter, so correct the name"),
        (
            columns,
            "shop has no shop.valid.inter, shop.test.inter; a data set shop needs the files that benchmark_filen",
        ),
    ):
        config = recbole_config(model_class("SASRec"), str(tmp_path / "shop"), {**SMALL, **said})
        with pytest.raises(DatasetError, match=message):
            TextSequentialDataset(config)
