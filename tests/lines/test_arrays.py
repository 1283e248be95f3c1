"""NumPy's files: whole ones are read, and every damage is a ValueError with a reason of one line."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from blair_rec.lines.arrays import load_array, load_arrays

SCORES = np.arange(6, dtype=np.float32).reshape(2, 3)
IDS = np.array(["u1", "é\U0010ffff"])


def npy(array: np.ndarray, *changes: tuple[bytes, bytes]) -> bytes:
    """The bytes of a .npy file, with some of them replaced."""
    file = io.BytesIO()
    np.save(file, array)
    content = file.getvalue()
    for old, new in changes:
        assert len(old) == len(new) and old in content
        content = content.replace(old, new)
    return content


def npz(path: Path, method: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def test_whole_files_are_read_and_single_arrays_are_mapped(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", scores=SCORES, ids=IDS, swapped=IDS.astype(">U4"), none=np.zeros(0, "U3"))
    np.save(tmp_path / "a.npy", SCORES)
    found = load_arrays(tmp_path / "a.npz")
    assert found["scores"].tolist() == SCORES.tolist() and found["none"].tolist() == []
    assert found["ids"].tolist() == found["swapped"].tolist() == IDS.tolist()
    assert isinstance(load_array(tmp_path / "a.npy"), np.memmap)
    assert load_array(tmp_path / "a.npy").tolist() == SCORES.tolist()


@pytest.mark.parametrize(
    "changes",
    [
        [(b"{'descr'", b"((((((((")],
        [(b"(2, 3)", b"(-2,3)")],
        [(b"(2, 3), }   ", b"(True, 3), }")],
        [(b"'<f4'", b"'zzz'")],
        [(b"(2, 3), }     ", b"(2, 30000000)}")],
        [(b"NUMPY\x01", b"NUMPY\x09")],
    ],
    ids=["brackets", "negative", "truth value", "type", "too many", "version"],
)
def test_a_damaged_header_is_a_value_error_of_one_line(changes: list[Any], tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy(SCORES, *changes))
    npz(tmp_path / "a.npz", scores=npy(SCORES, *changes))
    for load, name in ((load_array, "a.npy"), (load_arrays, "a.npz")):
        with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
            load(tmp_path / name)


def test_what_is_no_array_of_an_npz_file_is_named(tmp_path: Path) -> None:
    whole = npy(SCORES)
    with pytest.raises(ValueError, match="scores is not an array"):
        load_arrays(npz(tmp_path / "text.npz", scores=b"1, 2, 3"))
    with pytest.raises(ValueError, match="it is compressed, but not as NumPy does"):
        load_arrays(npz(tmp_path / "bzip2.npz", zipfile.ZIP_BZIP2, scores=whole))
    letters = npy(IDS, ("\U0010ffff".encode("utf-32-le"), b"\xff\xff\xff\x7f"))
    with pytest.raises(ValueError, match="ids holds characters that don't exist"):
        load_arrays(npz(tmp_path / "letters.npz", ids=letters))
    (tmp_path / "single.npz").write_bytes(whole)
    with pytest.raises(ValueError, match="it is a single array, not an .npz file"):
        load_arrays(tmp_path / "single.npz")
    with pytest.raises(ValueError, match="it is an .npz file, not a single array"):
        load_array(npz(tmp_path / "several.npy", scores=whole))
    (tmp_path / "other.npz").write_bytes(b"user_id,item_id\n")
    with pytest.raises(ValueError, match="it is not a NumPy file"):
        load_arrays(tmp_path / "other.npz")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_random_damage_is_one_of_two_errors_or_still_arrays(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    np.save(path, SCORES) if name == "a.npy" else np.savez_compressed(path, scores=SCORES, ids=IDS)
    whole, refused = path.read_bytes(), 0
    for seed in range(400):
        random, damaged = Random(seed), bytearray(whole)
        for _ in range(random.randint(1, 3)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        path.write_bytes(damaged[: random.choice([None, None, random.randrange(len(damaged))])])
        try:
            load_array(path) if name == "a.npy" else load_arrays(path)
        except (OSError, ValueError):  # a place before the beginning of the file is an error of the system
            refused += 1
    assert refused > 100
