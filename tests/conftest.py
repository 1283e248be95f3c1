"""The set-up of every test: its own working directory, one thread, the tiny data set, and a tiny encoder."""

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

# No test turns the machine off, and waiting for the disk takes longer than a small training.
os.fsync = lambda descriptor: None

# A slow machine is no failure, and examples that failed are printed, not kept in a folder.
settings.register_profile("blair_rec", deadline=None, database=None, print_blob=True)
settings.load_profile("blair_rec")


SLOW = (
    "cli/test_terminal",
    "device/",
    "evaluate/test_page",
    "experiment/test_new_items",
    "experiment/test_tune",
    "models/test_models",
    "prepare/test_fetch",
    "prepare/test_prepare_amazon",
    "prepare/test_prepare_records",
    "pretrain/",
    "ranking/test_ensemble",
    "serve/test_damaged",
    "serve/test_export",
    "serve/test_refit",
    "test_benchmarks",
    "test_distill_benchmark",
    "test_extend",
    "test_readme",
    "test_encoders_page",
    "test_new_items_page",
    "text/test_catalogue",
    "text/test_encode",
    "text/test_encoder",
    "text/test_nearest",
    "text/test_search",
    "text/test_static",
    "text/test_store",
)
"""Beginnings of the modules that `-m "not slow"` leaves out, about half of the suite's time. The other half runs on all
Pythons: reading, models, training and ranking, RecBole's border, comparisons and the command line."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow half of the suite."""
    tests = REPOSITORY / "tests"
    for item in items:
        if item.path.relative_to(tests).as_posix().startswith(SLOW):
            item.add_marker("slow")


UNDRAWN = (
    *("cli/", "config/", "data/", "device/", "docs/", "experiment/", "models/", "prepare/", "ranking/", "serve/"),
    *("text/", "training/", "test_"),
)
"""Beginnings of the modules that make comparisons, but look at no chart of leaderboard.html."""


def leave_charts_empty(patch: pytest.MonkeyPatch) -> None:
    """Draw nothing on leaderboard.html, which takes a large part of a small comparison's time."""
    from blair_rec.evaluate.page import render

    for plot in ("interval_plot", "curve_plot", "time_plot", "map_plot"):
        patch.setattr(render, plot, lambda *_, **__: "")


@pytest.fixture(autouse=True, scope="module")
def undrawn_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave charts empty in the modules of UNDRAWN. They are drawn in the tests of the page and in new processes."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.relative_to(REPOSITORY / "tests").as_posix().startswith(UNDRAWN):
            leave_charts_empty(patch)
        yield


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave charts empty in a test that looks only at the text of the page."""
    leave_charts_empty(monkeypatch)


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RecBole reads sys.argv and writes saved/, log/ and log_tensorboard/ where it stands: let it stand in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pytest"])
    return tmp_path


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command sets up the log of the whole process: put it back, so that the next test can listen to it."""
    log, root = logging.getLogger("blair_rec"), logging.getLogger()
    before, level = (list(log.handlers), log.level, log.propagate), root.level
    yield
    root.setLevel(level)  # RecBole's objective_function raises it
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
