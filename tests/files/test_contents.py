"""All files of a folder are listed, those in subfolders and broken links, too, and hashed whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

from blair_rec.files.contents import files_in, sha256_of


def test_all_files_below_a_folder_are_listed_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "empty").mkdir()
    for name in ("b/c/deep", "b/.hidden", "a"):
        (tmp_path / name).touch()
    (tmp_path / "b" / "broken").symlink_to("nowhere")
    assert files_in(tmp_path) == ["a", "b/.hidden", "b/broken", "b/c/deep"]
    assert files_in(tmp_path / "missing") == []


def test_the_hash_is_that_of_all_bytes_of_a_file_longer_than_the_buffer(tmp_path: Path) -> None:
    content = bytes(range(256)) * 3000 + b"end"
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
