"""A folder is used by one process at a time, and the others read why they have to wait."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import in_another_process

from blair_rec.errors import FolderBusy, OutputError
from blair_rec.files.locks import alone_in, whole_folder
from blair_rec.files.places import refuse_unwritable


def test_the_second_process_reads_that_another_one_is_at_work(tmp_path: Path) -> None:
    try_it = (
        "from blair_rec.errors import FolderBusy\nfrom blair_rec.files.locks import alone_in\n"
        "try:\n    with alone_in(Path(sys.argv[1])): print('in')\n"
        "except FolderBusy as error: print(error)"
    )
    with alone_in(tmp_path / "out"):
        said = in_another_process(try_it, tmp_path / "out")
        with pytest.raises(FolderBusy, match="another process is using"), alone_in(tmp_path / "out"):
            pass
    assert said.startswith(f"another process is using {tmp_path / 'out'}; wait until it has finished, or choose")
    assert in_another_process(try_it, tmp_path / "out") == "in"


def test_a_folder_that_is_removed_while_another_process_enters_is_busy_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch = Path.touch

    def removed_before(path: Path, *arguments: Any, **options: Any) -> None:
        shutil.rmtree(path.parent)
        touch(path, *arguments, **options)

    monkeypatch.setattr(Path, "touch", removed_before)
    with pytest.raises(FolderBusy, match="somebody else"), alone_in(tmp_path / "work", "somebody else writes it"):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refused(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    for _ in range(2):  # nothing is left that would keep the next one out
        with alone_in(tmp_path / "out"):
            assert (tmp_path / "out").is_dir()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    unwritable = pytest.raises(OutputError, match=r"can't be written \(File exists\); choose another folder")
    with unwritable, alone_in(tmp_path / "file"):
        pass
    (tmp_path / "out" / ".lock").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"can't be locked \(Is a directory\)"), alone_in(tmp_path / "out"):
        pass


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs the folder /proc of Linux")
@pytest.mark.parametrize("folder", [f"/proc/{name}" for name in ("x", "x/y", "1")])
def test_a_place_where_no_folder_can_be_made_is_not_blamed_on_another_process(folder: str) -> None:
    with (
        pytest.raises(OutputError, match=rf"^{folder} can't be written \(.*\); choose another"),
        alone_in(Path(folder)),
    ):
        pass
    with pytest.raises(OutputError, match=rf"^{folder} can't be written \(.*\); choose another folder$"):
        refuse_unwritable(Path(folder))
    unwritable = pytest.raises(OutputError, match=rf"^{folder} can't be written \(.*\); choose another")
    with unwritable, whole_folder(Path(folder), "export", "the export"):
        pass


def test_a_folder_without_o_has_another_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "in"
    with pytest.raises(OutputError, match=r"\(Not a directory\); choose another folder$"), alone_in(inside):
        pass
    with pytest.raises(OutputError, match=r"\(Not a directory\); move it$"), alone_in(inside, cure="move it"):
        pass
