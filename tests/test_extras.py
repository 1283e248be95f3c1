"""Extras: a library that is missing, and one that is there but can't be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from blair_rec.errors import MissingExtra
from blair_rec.extras import need


def test_a_missing_library_names_the_extra() -> None:
    with pytest.raises(MissingExtra, match=r"a job needs nowhere_to_be_found.*pip install 'blair-rec\[some\]'"):
        need("nowhere_to_be_found", "some", "a job")


def test_a_library_that_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "without_its_system.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match=r"installed but can't be loaded \(libgomp.so.1: cannot open"):
        need("without_its_system", "some", "a job")
