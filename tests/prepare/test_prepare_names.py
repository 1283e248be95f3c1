"""Names of users and items: which names survive RecBole's files unchanged, and why others are refused."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blair_rec.prepare.names import MISSING, unusable, why_unusable

ANY = st.one_of(st.text(max_size=4), st.text(' "ab\t\n\r\0', max_size=4), st.sampled_from(MISSING))


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY, min_size=1, max_size=6))
def test_accepted_names_are_read_back_by_pandas_unchanged(names: list[str]) -> None:
    series = pl.Series(names, dtype=pl.String)
    usable = [name for name, bad in zip(names, unusable(series, in_lists=False), strict=True) if not bad]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.inter"
        path.write_bytes("".join(f"{name}\tend\n" for name in ["head", *usable]).encode())
        assert pd.read_csv(path, sep="\t", dtype=str)["head"].tolist() == usable
    parts = [name for name, bad in zip(names, unusable(series, in_lists=True), strict=True) if not bad]
    assert " ".join(parts).split(" ") == (parts or [""]) and " ".join(parts).split() == parts


def test_a_space_belongs_to_the_name_of_a_user_but_not_at_its_ends() -> None:
    names = pl.Series(["Ann Lee", " Ann", "Ann ", "Ann"])
    assert unusable(names, in_lists=False).tolist() == [False, True, True, False]
    assert unusable(names, in_lists=True).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    "name, why",
    [
        (None, "it is empty"),
        ("", "it is empty"),
        ("NA", "read this word as a missing name"),
        ('7" tablet', "would remove the quotation mark"),
        (" cup", "begins or ends with a space"),
        ("a\tb", "would break the cell"),
        ("a\u2028b", "an unusual space"),
        ("a\u00a0b", "an unusual space"),
        ("oak table", "splits lists of items at spaces; replace them, for instance with '_'"),
    ],
)
def test_each_name_is_refused_for_its_own_reason(name: str | None, why: str) -> None:
    assert name is None or unusable(pl.Series([name]), in_lists=True).all()
    assert why in why_unusable(name)
