"""What every test can rely on: its own working directory, one thread, the tiny data set, and a tiny encoder."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from encoders import build_roberta
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent

# Read by torch when it is imported, and by every process a test starts: no test pays for an import it doesn't need.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # tests run side by side, one on each core
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and tables would take its width

# A slow machine is no failure, and examples that failed are printed, not kept in a folder.
settings.register_profile("blair_rec", deadline=None, database=None, print_blob=True)
settings.load_profile("blair_rec")


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RecBole reads sys.argv and writes saved/, log/ and log_tensorboard/ where it stands: let it stand in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pytest"])
    return tmp_path


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command sets up the log of the whole process: put it back, so that the next test can listen to it."""
    log = logging.getLogger("blair_rec")
    before = list(log.handlers), log.level, log.propagate
    yield
    log.handlers, log.propagate = before[0], before[2]
    log.setLevel(before[1])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The folder of a copy of datasets/tiny, named tiny, that a test may change."""
    return Path(shutil.copytree(REPOSITORY / "datasets" / "tiny", tmp_path / "datasets" / "tiny"))


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa in a folder that no test changes."""
    return build_roberta(tmp_path_factory.mktemp("models") / "tiny-roberta")


@pytest.fixture
def own_roberta(roberta: Path, tmp_path: Path) -> Path:
    """The same, in a folder that the test may change."""
    return Path(shutil.copytree(roberta, tmp_path / "my-roberta"))
