"""A comparison that is killed, or started twice at the same time, has bit-equal ranks in the end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import interrupted

SMALL = {"variants": {"id": {"items": "id"}, "rules": {"scorer": "sequential_rules"}}, "seeds": [1]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The config and the folder of a comparison that was not interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = interrupted.write_config(folder, **SMALL)
    assert interrupted.run(config, folder / "out") == "finished"
    return config, folder / "out"


@pytest.mark.parametrize("after", [0.3, 1.0])
def test_a_killed_comparison_ends_as_if_nothing_had_happened(
    undisturbed: tuple[Path, Path], tmp_path: Path, after: float
) -> None:
    config, whole = undisturbed
    found = interrupted.check(interrupted.killed(config, tmp_path / "out", after), tmp_path / "out", whole)
    assert found["wrong"] == [] and found["second"] == "finished"


def test_two_processes_on_one_folder_make_one_comparison(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    config, whole = undisturbed
    found = interrupted.check(interrupted.raced(config, tmp_path / "out", 0.0), tmp_path / "out", whole)
    assert found["wrong"] == [] and found["third"] == "finished"
    assert sorted([found["first"], found["second"]]) in (["busy", "finished"], ["finished", "finished"])


def test_a_difference_would_be_seen(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    _, whole = undisturbed
    other = Path(shutil.copytree(whole, tmp_path / "out"))
    ranks = other / "runs" / "id-1" / "ranks.npz"
    shutil.copy(other / "runs" / "rules-1" / "ranks.npz", ranks)
    (other / "runs" / ".id-1.1-01234567.partial").mkdir()
    wrong = interrupted.check({"first": "killed", "second": "failed: words"}, other, whole)["wrong"]
    assert wrong[:2] == ["failed: words", "the last process: failed: words"]
    assert "differs: id-1/ranks.npz/higher_masked" in wrong and wrong[-1].startswith("half-written: runs/.id-1")
