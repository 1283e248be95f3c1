"""A run's code hash covers every module that affects its numbers, found by importing them, and no report."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import blair_rec
from blair_rec.experiment.provenance import code_files, code_hash

PACKAGE = Path(blair_rec.__file__).parent

LOADED_BY_A_RUN = """
import sys
import blair_rec.experiment.run
import blair_rec.text.encoding.encode, blair_rec.text.encoding.encoder, blair_rec.text.encoding.ray_encode
for name, module in sorted(sys.modules.items()):
    if name.split(".")[0] == "blair_rec":
        print(module.__file__)
"""
BESIDE = {
    "__init__.py": "the version",
    "deprecation.py": "words about old names",
    "errors.py": "words",
    "extras.py": "words about what is not installed",
    "files/__init__.py": "nothing",
    "files/contents.py": "hashes of files",
    "files/locks.py": "one process at a time",
    "files/places.py": "where files may be written",
    "files/writing.py": "how files are replaced",
    "experiment/planning/still_valid.py": "words",
    "experiment/splits/leakage.py": "notes for readers",
    "experiment/listener.py": "progress",
    "experiment/provenance.py": "what is noted",
    "evaluate/__init__.py": "nothing",
    "evaluate/runs/__init__.py": "nothing",
    "evaluate/runs/results.py": "the files of a run",
    "evaluate/runs/recorded.py": "the files of a run",
    "evaluate/runs/run_files.py": "the files of a run",
    "evaluate/runs/encoder_used.py": "the files of a run",
    "evaluate/runs/checks.py": "the files of a run",
    "evaluate/runs/new_ranks.py": "the files of a run",
    "text/search/__init__.py": "nothing",
}
"""Also loaded by a run, but they don't affect its numbers."""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that the test may edit."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "blair_rec", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every module of the package that a process imports to encode, train and evaluate."""
    # In the folder of the test: in the checkout, Python would import its sources and not the installed package.
    done = subprocess.run(
        [sys.executable, "-c", LOADED_BY_A_RUN],
        capture_output=True, text=True, check=True, cwd=tmp_path_factory.mktemp("run"),
    )  # fmt: skip
    return [Path(line).relative_to(PACKAGE).as_posix() for line in done.stdout.splitlines()]


def test_every_module_that_a_run_imports_and_that_decides_changes_the_hash(loaded: list[str], package: Path) -> None:
    before, deciding = code_files(True, package), [path for path in loaded if path not in BESIDE]
    assert {"evaluate/metrics.py", "text/template.py", "experiment/fit.py"} <= set(deciding) and len(deciding) > 40
    for path in deciding:
        (package / path).write_text((package / path).read_text("utf-8") + "\n", encoding="utf-8")
    code_files.cache_clear()
    after = code_files(True, package)
    assert [path for path in deciding if path not in after or after[path] == before[path]] == []


@pytest.mark.parametrize(
    "path",
    ["evaluate/leaderboard.py", "cli/commands/compare.py", "prepare/public/reviews.py", "text/search/sentences.py"],
)
def test_what_only_reports_prepares_or_searches_changes_nothing(package: Path, path: str) -> None:
    before = code_files(True, package)
    (package / path).write_text("", encoding="utf-8")
    code_files.cache_clear()
    assert code_files(True, package) == before


@pytest.mark.parametrize("path", ["new.py", "training/losses.py", "evaluate/sampled.py"])
def test_a_module_that_nobody_listed_counts(package: Path, path: str) -> None:
    (package / path).parent.mkdir(exist_ok=True)
    (package / path).write_text("", encoding="utf-8")
    code_files.cache_clear()
    assert path in code_files(False, package)


@pytest.mark.parametrize("path", ["evaluate/report.py", "prepare", "text"])
def test_a_listed_part_that_was_moved_is_an_error(package: Path, path: str) -> None:
    (package / path).rename(package / "moved" if (package / path).is_dir() else package / "moved.py")
    code_files.cache_clear()
    with pytest.raises(LookupError, match=rf"provenance.py lists {path}.*, which is not in .*list it by its new name"):
        code_files(True, package)


def test_runs_without_text_do_not_depend_on_what_makes_vectors() -> None:
    with_text, without = code_files(True), code_files(False)
    assert {path for path in with_text if path not in without} == {path for path in with_text if path[:5] == "text/"}
    assert without.items() <= with_text.items() and code_hash(True) != code_hash(False)
