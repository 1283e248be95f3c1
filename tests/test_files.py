"""Files and folders are replaced whole or not at all, by one process at a time, whatever happens to the others."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blair_rec.errors import FolderBusy, OutputError
from blair_rec.files import (
    alone_in,
    discard,
    partial_of,
    put_in_place,
    real_place,
    refuse_taken,
    replace_file,
    room_for,
    share,
    tidy,
    write_text,
)


def in_another_process(code: str, *arguments: Any) -> str:
    script = (
        "import sys\nfrom pathlib import Path\nfrom blair_rec.files import *\nfrom blair_rec.files import _sync\n"
        + code
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def new(folder: Path, text: str) -> Path:
    partial_of(folder).mkdir(parents=True)
    (partial_of(folder) / "file").write_text(text, encoding="utf-8")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_two_processes_share_a_temporary_name(tmp_path: Path) -> None:
    ours, theirs = (
        str(partial_of(tmp_path / "run")),
        in_another_process("print(partial_of(Path(sys.argv[1])))", tmp_path / "run"),
    )
    assert ours != theirs
    read, write = os.pipe()
    if (child := os.fork()) == 0:  # a fork has the memory of its parent
        os.write(write, str(partial_of(tmp_path / "run")).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 4096).decode() not in (ours, theirs)


def test_a_replaced_folder_is_gone_only_once_its_successor_is_there(tmp_path: Path) -> None:
    for text in ("first", "second"):
        put_in_place(new(tmp_path / "run", text))
    assert (tmp_path / "run" / "file").read_text() == "second" and names(tmp_path) == ["run"]


def test_two_processes_that_write_one_folder_at_once_get_one_whole_folder_and_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one puts its own there between the two renames of ours."""
    put_in_place(new(tmp_path / "run", "old"))
    new(tmp_path / "run", "ours")
    rename = Path.rename

    def and_theirs(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if target.name.endswith(".old"):
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "file").write_text("theirs")
        return moved

    monkeypatch.setattr(Path, "rename", and_theirs)
    with pytest.raises(FolderBusy, match="another process has just written .*run; use its result, or start again"):
        put_in_place(tmp_path / "run")
    assert (tmp_path / "run" / "file").read_text() == "theirs"
    assert names(tmp_path) == [partial_of(tmp_path / "run").name, "run"], "which its writer clears away"


def test_what_another_process_left_is_tidied_and_nothing_else(tmp_path: Path) -> None:
    in_another_process(
        "root = Path(sys.argv[1])\n"
        "partial_of(root / 'a.b').mkdir()\n"
        "partial_of(root / 'config.yaml').touch()\n"
        "(root / 'gone').mkdir()\n(root / 'gone').rename(str(partial_of(root / 'gone')).replace('.partial', '.old'))\n"
        "(root / 'kept').mkdir()\n(root / 'kept').rename(str(partial_of(root / 'kept')).replace('.partial', '.old'))\n",
        tmp_path,
    )
    (tmp_path / "kept").mkdir()
    (tmp_path / ".bashrc.old").touch()  # anybody's
    (tmp_path / ".run-1.old").mkdir()  # anybody's, too
    assert len(names(tmp_path)) == 7
    tidy(tmp_path, "a.b")
    assert len(names(tmp_path)) == 6 and not [name for name in names(tmp_path) if name.startswith(".a.b")]
    tidy(tmp_path)
    assert names(tmp_path) == [".bashrc.old", ".run-1.old", "gone", "kept"]


def test_files_of_ones_own_are_not_taken_for_those_of_a_command(tmp_path: Path) -> None:
    refuse_taken(tmp_path / "new", ("config.yaml",), ())
    (tmp_path / "notes.txt").touch()
    refuse_taken(tmp_path, ("config.yaml", "runs"), ())
    (tmp_path / "config.yaml").touch()
    with pytest.raises(OutputError, match="holds config.yaml, which this command did not write and would replace"):
        refuse_taken(tmp_path, ("config.yaml", "runs"), ("runs/*/result.json",))
    (tmp_path / "runs" / "id-1").mkdir(parents=True)
    (tmp_path / "runs" / "id-1" / "result.json").touch()
    refuse_taken(tmp_path, ("config.yaml", "runs"), ("runs/*/result.json",))


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

    monkeypatch.setattr(os, "fsync", synced)
    rename, replace = Path.rename, Path.replace
    monkeypatch.setattr(Path, "rename", lambda path, to: done.append(f"rename {to.name}") or rename(path, to))
    monkeypatch.setattr(Path, "replace", lambda path, to: done.append(f"rename {to.name}") or replace(path, to))
    write_text(tmp_path / "text", "words")
    partial = partial_of(tmp_path / "text").name
    assert done == [f"sync {partial}", "rename text", f"sync {tmp_path.name}"]
    done.clear()
    put_in_place(new(tmp_path / "run", "words"))
    partial = partial_of(tmp_path / "run").name
    assert done == ["sync file", f"sync {partial}", "rename run", f"sync {tmp_path.name}"]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "text", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "text", "new")
    assert (tmp_path / "text").read_text() == "old" and names(tmp_path) == ["text"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / "private").touch(0o600)
    share(tmp_path / "private")
    assert (tmp_path / "private").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert names(tmp_path) == ["plain", "private"]
    replace_file(tmp_path / "private", tmp_path / "plain")
    assert names(tmp_path) == ["plain"]


def test_the_second_process_reads_that_another_one_is_at_work(tmp_path: Path) -> None:
    try_it = (
        "from blair_rec.errors import FolderBusy\ntry:\n    with alone_in(Path(sys.argv[1])): print('in')\n"
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


def test_a_folder_is_discarded_although_others_enter_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rmtree alone fails where a file appears between its listing and the removal of the folder."""
    rmdir = os.rmdir

    def after_they_came(path: Any, **options: Any) -> None:
        (tmp_path / "work").mkdir(exist_ok=True)
        (tmp_path / "work" / ".lock").touch()
        rmdir(path, **options)

    (tmp_path / "work").mkdir()
    monkeypatch.setattr(os, "rmdir", after_they_came)
    discard(tmp_path / "work")
    assert names(tmp_path) == ["work"]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refused(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    for _ in range(2):  # nothing is left that would keep the next one out
        with alone_in(tmp_path / "out"):
            assert (tmp_path / "out").is_dir()


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
        with pytest.raises(OutputError, match="can't be used .*; choose another place with -o"):
            real_place(path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    unwritable = pytest.raises(OutputError, match=r"can't be written \(File exists\); choose another folder with -o")
    with unwritable, alone_in(tmp_path / "file"):
        pass
    (tmp_path / "out" / ".lock").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"can't be locked \(Is a directory\)"), alone_in(tmp_path / "out"):
        pass


def test_a_full_disk_is_said_of_the_folder_and_other_errors_stay(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device.; free some space"), room_for(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(PermissionError), room_for(tmp_path):
        raise PermissionError(errno.EACCES, "no")
