"""No folder that isn't ours is replaced, and none in which somebody else has put a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from blair_rec.errors import OutputError
from blair_rec.files import refuse_foreign


def folder_with(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text("x")
    return path


@pytest.mark.parametrize("names", [(), ("ours.json",), ("ours.json", "part-1.bin"), ("theirs.json", "part-2.bin")])
def test_a_free_an_empty_and_our_own_folder_may_be_replaced(tmp_path: Path, names: tuple[str, ...]) -> None:
    refuse_foreign(tmp_path / "free", {"ours.json"})
    refuse_foreign(folder_with(tmp_path / "there", *names), {"ours.json", "theirs.json"}, {"part-*.bin"})


def test_one_file_of_somebody_else_is_enough_to_keep_the_folder(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "there", "ours.json", "part-1.bin", "thesis.tex")
    with pytest.raises(OutputError, match=r"holds 1 file .* \(first: thesis.tex\) and would delete"):
        refuse_foreign(folder, {"ours.json"}, {"part-*.bin"})


def test_files_that_anybody_may_have_do_not_make_a_folder_ours(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"holds part-1.bin but no ours.json"):
        refuse_foreign(folder_with(tmp_path / "there", "part-1.bin"), {"ours.json"}, {"part-*.bin"})


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        refuse_foreign(tmp_path / "there", {"there"})
