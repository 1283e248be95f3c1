"""Atomic files read fast: column by column what RecBole's own reader gives."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import SMALL, STOCK, write_log

from blair_rec.errors import DatasetError
from blair_rec.recommend.dataset import TextSequentialDataset
from blair_rec.recommend.reading import TokenIds
from blair_rec.recommend.settings import recbole_config

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
    """A data set with every kind of column, and with gaps."""
    (tmp_path / "odd").mkdir()
    for kind, text in (("inter", LOG), ("item", ITEMS), ("user", USERS)):
        (tmp_path / "odd" / f"odd.{kind}").write_text(text, encoding="utf-8")
    return tmp_path / "odd"


def both(folder: Path, **said: Any) -> list[Any]:
    """RecBole's data set and ours, read and numbered, not split."""
    return [
        cls(recbole_config("SASRec", str(folder), {**SMALL, **STOCK, **EVERYTHING, **said}))
        for cls in (SequentialDataset, TextSequentialDataset)
    ]


def assert_same(theirs: Any, ours: Any) -> None:
    """Frames cell by cell, vocabularies, and what is known of the fields."""
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
        {"alias_of_item_id": ["tags"]},
        {"val_interval": {"rating": "[0,5]", "place": ["bonn", "new york"]}},
        {"filter_inter_by_user_or_item": False},
    ],
)
def test_every_kind_of_column_is_read_and_numbered_as_recbole_does(folder: Path, said: dict[str, Any]) -> None:
    assert_same(*both(folder, **said))


def test_rows_with_their_user_and_item_columns_are_recboles(folder: Path) -> None:
    write = "".join(line.replace("16286434", "") + "\n" for line in LOG.splitlines())  # times that float32 holds
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
    [("item_id", r"column 'item_id' is none of RecBole's.*item_id:token"), ("item_id:word", "known: token, float")],
)
def test_a_column_without_a_kind_of_recboles_is_named(tmp_path: Path, title: str, message: str) -> None:
    folder = write_log(tmp_path / "wrong", [("ann", "a", 1), ("ann", "b", 2)])
    path = folder / "wrong.inter"
    path.write_text(path.read_text("utf-8").replace("item_id:token", title), encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        TextSequentialDataset(recbole_config("SASRec", str(folder), {**SMALL, **STOCK, **EVERYTHING}))


def test_a_time_that_is_no_number_is_named(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "wrong", [("ann", "a", 1), ("ann", "b\tlater", 2)])
    with pytest.raises(ValueError, match="could not convert string to float: 'later'"):
        TextSequentialDataset(recbole_config("SASRec", str(folder), {**SMALL, **STOCK}))


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
