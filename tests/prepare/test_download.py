"""Downloads: they resume, are checked by hash, and take nothing that is not the file."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer

from blair_rec.errors import OutputError, SourceError
from blair_rec.prepare.public.download import (
    RemoteFile,
    cache_folder,
    check_address,
    get,
    member,
    opened_zip,
)

CONTENT = random.Random(3).randbytes(3_000_000)


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer()
    server.files["data.bin"] = CONTENT
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_a_file_is_downloaded_once_and_its_hash_is_noted(server: FileServer, tmp_path: Path) -> None:
    told: list[str] = []
    seen: list[tuple[str, int, int]] = []
    file = RemoteFile(f"{server.url}/data.bin")
    path = get(file, tmp_path / "cache", None, told.append, lambda *step: seen.append(step))
    assert path == tmp_path / "cache" / "data.bin" and path.read_bytes() == CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "cache" / "data.bin.sha256").read_text() == f"{digest}  data.bin\n"
    assert f"SHA-256 {digest}" in told[-1] and "the publisher gives no hash, noted in" in told[-1]
    assert str(path) in told[0] and seen[-1] == ("data.bin", len(CONTENT), len(CONTENT))
    assert get(file, tmp_path / "cache", None, told.append) == path
    assert "the same as the first copy" in told[-1] and len(server.asked) == 1
    assert sorted(one.name for one in path.parent.iterdir()) == [".lock", "data.bin", "data.bin.sha256"]


def test_an_interrupted_download_resumes(server: FileServer, tmp_path: Path) -> None:
    file, told = RemoteFile(f"{server.url}/data.bin"), list[str]()
    server.cut_after = 2_000_000
    with pytest.raises(SourceError, match=r"ended after 2\.0 MB of 3\.0 MB; the same command resumes"):
        get(file, tmp_path, None, told.append)
    assert not (tmp_path / "data.bin").exists()
    assert get(file, tmp_path, None, told.append).read_bytes() == CONTENT
    assert server.asked[-1] == ("data.bin", "bytes=2000000-")
    assert any(line.startswith("resuming ") for line in told)


@pytest.mark.parametrize("change", ["another version", "no ranges"])
def test_a_download_that_cant_resume_starts_again(server: FileServer, tmp_path: Path, change: str) -> None:
    file = RemoteFile(f"{server.url}/data.bin")
    server.cut_after = 1_000_000
    with pytest.raises(SourceError, match="ended after"):
        get(file, tmp_path, None, print)
    if change == "another version":
        server.files["data.bin"], server.version = CONTENT[::-1], "2"
    else:
        server.has_ranges = False
    assert get(file, tmp_path, None, print).read_bytes() == server.files["data.bin"]


def test_a_part_longer_than_the_file_is_given_up(server: FileServer, tmp_path: Path) -> None:
    file = RemoteFile(f"{server.url}/data.bin")
    server.cut_after = 1_000_000
    with pytest.raises(SourceError, match="ended after"):
        get(file, tmp_path, None, print)
    server.files["data.bin"] = CONTENT[:1000]
    with pytest.raises(SourceError, match="status 416"):
        get(file, tmp_path, None, print)
    assert get(file, tmp_path, None, print).read_bytes() == CONTENT[:1000]


def test_a_file_with_another_hash_than_published_is_refused(server: FileServer, tmp_path: Path) -> None:
    right = hashlib.md5(CONTENT).hexdigest()
    told: list[str] = []
    get(RemoteFile(f"{server.url}/data.bin", md5=right), tmp_path / "right", None, told.append)
    assert "as published (MD5)" in told[-1]
    with pytest.raises(SourceError, match=f"MD5 {right}, but its publisher gives {'0' * 32}.* was removed"):
        get(RemoteFile(f"{server.url}/data.bin", md5="0" * 32), tmp_path / "wrong", None, print)
    assert [one.name for one in (tmp_path / "wrong").iterdir()] == [".lock"]


def test_a_later_copy_must_equal_the_first(server: FileServer, tmp_path: Path) -> None:
    file = RemoteFile(f"{server.url}/data.bin")
    path = get(file, tmp_path, None, print)
    path.unlink()
    server.files["data.bin"] = CONTENT[1:]
    with pytest.raises(SourceError, match=r"an earlier copy had [0-9a-f]{64}.*remove .*data\.bin\.sha256"):
        get(file, tmp_path, None, print)
    assert not path.exists()
    (tmp_path / "data.bin.sha256").unlink()
    assert get(file, tmp_path, None, print).read_bytes() == CONTENT[1:]


def test_a_changed_file_in_the_cache_is_noticed(server: FileServer, tmp_path: Path) -> None:
    file = RemoteFile(f"{server.url}/data.bin")
    get(file, tmp_path, None, print).write_bytes(b"other")
    with pytest.raises(SourceError, match="run the same command again"):
        get(file, tmp_path, None, print)
    assert get(file, tmp_path, None, print).read_bytes() == CONTENT


def test_a_missing_file_is_one_line(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"refuses the file \(status 404\).*--source") as found:
        get(RemoteFile(f"{server.url}/none.gz"), tmp_path, None, print)
    assert "\n" not in str(found.value)


def test_without_a_server_it_is_one_line(server: FileServer, tmp_path: Path) -> None:
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(SourceError, match=r"can't be downloaded \(.*refused\); try again later, or download") as found:
        get(RemoteFile(f"{server.url}/data.bin"), tmp_path, None, print)
    assert "\n" not in str(found.value)


def test_a_web_page_is_not_the_file(server: FileServer, tmp_path: Path) -> None:
    server.files["login"], server.types["login"] = b"<html>Sign in</html>", "text/html; charset=utf-8"
    server.redirects["data.zip"] = "/login"
    with pytest.raises(SourceError, match=r"login is a web page and not the file data\.zip"):
        get(RemoteFile(f"{server.url}/data.zip"), tmp_path, None, print)
    server.files["data.gz"] = b"<html>Sign in</html>"  # without saying so
    with pytest.raises(SourceError, match=r"data\.gz is not a \.gz file"):
        get(RemoteFile(f"{server.url}/data.gz"), tmp_path, None, print)
    assert [one.name for one in tmp_path.iterdir() if one.name != ".lock"] == []


def test_only_https_is_followed(server: FileServer, tmp_path: Path) -> None:
    server.redirects["data.zip"] = "http://example.org/data.zip"
    with pytest.raises(SourceError, match=r"http://example\.org/data\.zip is not an https address"):
        get(RemoteFile(f"{server.url}/data.zip"), tmp_path, None, print)
    server.redirects["data.zip"] = "file:///etc/passwd"
    with pytest.raises(SourceError, match="status 302"):
        get(RemoteFile(f"{server.url}/data.zip"), tmp_path, None, print)
    with pytest.raises(SourceError, match="not an https address"):
        get(RemoteFile("http://example.org/data.zip"), tmp_path, None, print)
    check_address("https://example.org/data.zip")


def test_a_mirror_or_a_folder_can_replace_the_home(server: FileServer, tmp_path: Path) -> None:
    file = RemoteFile("https://example.org/far/data.bin", md5=hashlib.md5(CONTENT).hexdigest())
    assert get(file, tmp_path / "cache", f"{server.url}/", print).read_bytes() == CONTENT
    local = tmp_path / "local"
    local.mkdir()
    with pytest.raises(
        SourceError, match=r"has no file data\.bin; download it from https://example\.org/far/data\.bin"
    ):
        get(file, tmp_path / "cache", str(local), print)
    (local / "data.bin").write_bytes(CONTENT)
    assert get(file, tmp_path / "cache", str(local), print) == local / "data.bin"
    (local / "data.bin").write_bytes(CONTENT[1:])
    with pytest.raises(SourceError, match="its publisher gives"):
        get(file, tmp_path / "cache", str(local), print)
    assert (local / "data.bin").exists()


def test_the_cache_can_be_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BLAIR_REC_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "blair_rec"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "blair_rec"
    monkeypatch.setenv("BLAIR_REC_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def archive(path: Path, *names: str, link: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if link else 0o100644) << 16
            file.writestr(info, f"content of {name}")
    return path


@pytest.mark.parametrize("name", ["../out.inter", "a/../../out.inter", "/out.inter", "C:/out.inter", "a\\..\\..\\out"])
def test_an_archive_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(SourceError, match="is a link or leads out"),
        opened_zip(archive(tmp_path / "a.zip", "ok", name)),
    ):
        pass


def test_an_archive_with_a_link_or_damage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a link"), opened_zip(archive(tmp_path / "a.zip", "ok", link=True)):
        pass
    whole = archive(tmp_path / "b.zip", "x/ok").read_bytes()
    (tmp_path / "c.zip").write_bytes(whole[:-30])
    with pytest.raises(SourceError, match="can't be unpacked"), opened_zip(tmp_path / "c.zip"):
        pass
    (tmp_path / "d.zip").write_bytes(whole.replace(b"content", b"CONTENT"))
    with pytest.raises(SourceError, match="can't be unpacked"), opened_zip(tmp_path / "d.zip") as opened:
        member(opened, "ok").read()
    with opened_zip(tmp_path / "b.zip") as opened:
        assert io.TextIOWrapper(member(opened, "ok")).read() == "content of x/ok"
        with pytest.raises(SourceError, match=r"b\.zip has no file other"):
            member(opened, "other")


def test_a_cache_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"")
    for name in ("file/amazon", "c" * 300):
        with pytest.raises(OutputError, match="BLAIR_REC_CACHE names another folder"):
            get(RemoteFile("https://example.com/a.gz"), tmp_path / name, str(tmp_path), print)
        with pytest.raises(OutputError, match="can't be written .*; BLAIR_REC_CACHE names another folder"):
            get(RemoteFile("https://example.com/a.gz"), tmp_path / name, None, print)


@pytest.mark.parametrize("note", [b"", b"\xff\xfe", b"nonsense"])
def test_a_damaged_note_of_a_hash_is_named(note: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"x")
    (tmp_path / "a.gz.sha256").write_bytes(note)
    with pytest.raises(SourceError, match=r"a\.gz\.sha256 holds no SHA-256; remove it"):
        get(RemoteFile("https://example.com/a.gz"), tmp_path, str(tmp_path), print)


def test_an_address_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not an address"):
        get(RemoteFile("https://example.com/a.gz"), tmp_path, "https://[x", print)
