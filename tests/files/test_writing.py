"""Files and folders are replaced whole or not at all, whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from processes import in_another_process

from blair_rec.errors import FolderBusy, OutputError
from blair_rec.files.writing import (
    discard,
    partial_of,
    put_in_place,
    replace_file,
    room_for,
    share,
    tidy,
    write_text,
)

USE = "from blair_rec.files.writing import partial_of\n"


def new(folder: Path, text: str) -> Path:
    partial_of(folder).mkdir(parents=True)
    (partial_of(folder) / "file").write_text(text, encoding="utf-8")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_two_processes_share_a_temporary_name(tmp_path: Path) -> None:
    ours, theirs = (
        str(partial_of(tmp_path / "run")),
        in_another_process(f"{USE}print(partial_of(Path(sys.argv[1])))", tmp_path / "run"),
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
        f"{USE}root = Path(sys.argv[1])\n"
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


def test_a_full_disk_is_said_of_the_folder_and_other_errors_stay(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device.; free some space"), room_for(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(PermissionError), room_for(tmp_path):
        raise PermissionError(errno.EACCES, "no")
