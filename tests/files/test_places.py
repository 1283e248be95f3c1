"""No place is used that can't be, no folder that isn't ours is replaced, and none that holds somebody else's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from blair_rec.errors import OutputError
from blair_rec.files.places import real_place, refuse_foreign, refuse_taken


def test_files_of_ones_own_are_not_taken_for_those_of_a_command(tmp_path: Path) -> None:
    refuse_taken(tmp_path / "new", ("config.yaml",), ())
    (tmp_path / "notes.txt").touch()
    refuse_taken(tmp_path, ("config.yaml", "runs"), ())
    (tmp_path / "config.yaml").touch()
    with pytest.raises(OutputError, match="holds config.yaml, which this command did not write and would replace"):
        refuse_taken(tmp_path, ("config.yaml", "runs"), ("runs/*/result.json",))
    (tmp_path / "runs" / "id-1").mkdir(parents=True)
    (tmp_path / "runs" / "id-1" / "result.json").touch()
    refuse_taken(tmp_path, ("config.yaml", "runs"), ("runs/*/result.json",), folders=("runs",))


def test_a_folder_in_the_place_of_a_file_is_named_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "board.md").mkdir()
    with pytest.raises(OutputError, match=r"board.md is a folder, but a file is needed there; remove it, or choose"):
        refuse_taken(tmp_path, ("board.md", "runs"), (), folders=("runs",))
    (tmp_path / "board.md").rmdir()
    (tmp_path / "runs").touch()
    with pytest.raises(OutputError, match=r"runs is a file, but a folder is needed there; remove it, or choose"):
        refuse_taken(tmp_path, ("board.md", "runs"), (), folders=("runs",))


def test_a_place_without_o_has_another_cure(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(OutputError, match=r"and would replace; move it$"):
        refuse_taken(tmp_path, ("config.yaml",), (), "move it")


def test_the_place_of_a_link_is_where_it_points_and_a_place_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert real_place(tmp_path / "link") == (tmp_path / "there").resolve()
    assert real_place(tmp_path / "new" / "x") == (tmp_path / "new" / "x").resolve()
    assert real_place(Path("/")) == Path("/")
    too_long = tmp_path / ("x" * 230)  # the name itself is allowed, but not that of the folder next to it
    too_long.mkdir()
    for path in (tmp_path / "one", too_long, tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(OutputError, match="can't be used .*; choose another place$"):
            real_place(path)


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
