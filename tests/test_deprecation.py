"""Old names of keys and of Python names work, warn, name their successor, and end in time."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from packaging.version import Version

import blair_rec
from blair_rec.config import plugin
from blair_rec.config.section import Section, read_section
from blair_rec.deprecation import Renamed, deprecated, with_current_keys
from blair_rec.errors import ConfigError

PACKAGE = Path(blair_rec.__file__).parent


class Inner(Section):
    """A section inside another one."""

    size: int = 1
    """A number."""
    renamed: ClassVar[Mapping[str, Renamed]] = {"width": Renamed("size", "0.9")}


class Outer(Section):
    """A section with an old key."""

    name: str = "x"
    """A text."""
    inner: Inner = Inner()
    """Another section."""
    renamed: ClassVar[Mapping[str, Renamed]] = {"title": Renamed("name", "0.9")}


def test_an_old_key_works_and_warns_with_its_successor(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "blair_rec"):
        read = read_section(Outer, {"title": "a", "inner": {"width": 3}}, "my.yaml")
    assert (read.name, read.inner.size) == ("a", 3)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "key title is now called name; the old name works until blair_rec 0.9",
        "key width is now called size; the old name works until blair_rec 0.9",
    ]
    caplog.clear()
    assert read_section(Outer, {"name": "a", "inner": {"size": 3}}, "my.yaml") == read and not caplog.records


def test_an_old_value_is_checked_as_its_successor() -> None:
    with pytest.raises(ConfigError, match=r"my\.yaml: inner\.size is 'b'; expected a whole number"):
        read_section(Outer, {"inner": {"width": "b"}}, "my.yaml")


def test_both_names_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="title: the old name of name, which is given too; remove title"):
        read_section(Outer, {"title": "a", "name": "b"}, "my.yaml")


def test_an_old_flat_key_works_and_warns(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(plugin.RENAMED_KEYS, "blair_side", Renamed("blair_items", "0.9"))
    with caplog.at_level(logging.WARNING, "blair_rec"):
        assert plugin.read_plugin_config({"blair_side": "id"}).variant.items == "id"
    assert "key blair_side is now called blair_items" in caplog.text


def test_an_old_public_name_works_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(blair_rec._RENAMED, "open_vectors", Renamed("open_store", "0.9"))
    with pytest.warns(FutureWarning, match="open_vectors is now called open_store; the old name works until") as caught:
        assert blair_rec.open_vectors is blair_rec.open_store
    assert caught[0].filename == __file__


def test_a_deprecated_function_works_and_warns_where_it_is_called() -> None:
    @deprecated("blair_rec.other", "0.9")
    def old(number: int, *, more: int = 0) -> int:
        """Say what it did."""
        return number + more

    with pytest.warns(FutureWarning, match=r"old is now called blair_rec\.other") as caught:
        assert old(1, more=2) == 3
    assert caught[0].filename == __file__ and old.__doc__ == "Say what it did."


def test_keys_without_old_names_stay_the_same() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert with_current_keys({"a": 1}, {}) == {"a": 1}


def test_no_old_name_outlives_its_version() -> None:
    """A `Renamed` or `deprecated` whose version has come has to be removed."""
    ends = re.compile(r"(?:Renamed|deprecated)\(\s*\"[^\"]+\",\s*\"(\d+\.\d+)\"")
    for path in PACKAGE.rglob("*.py"):
        for until in ends.findall(path.read_text("utf-8")):
            assert Version(until) > Version(blair_rec.__version__), f"{path}: remove what ends in {until}"
