"""Files of earlier versions can be read, every file that travels has a version, and docs/stability.md says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import blair_rec
from blair_rec.errors import ConfigError, OutputError
from blair_rec.evaluate.page.cards import read_cards
from blair_rec.experiment.tuning.trials import read_trials
from blair_rec.prepare.folder import is_done
from blair_rec.serve.export.recommend import ExportedModel

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = sorted((REPOSITORY / "tests" / "fixtures").glob("files_*"))
HISTORY = ["i07", "i08"]


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one version's files."""
    return Path(shutil.copytree(request.param, tmp_path / "files"))


@pytest.fixture
def expected(files: Path) -> Any:
    return json.loads((files / "expected.json").read_text(encoding="utf-8"))


def tokens(run: Path, store: Path | None = None) -> list[str]:
    return [one.item_token for one in blair_rec.load(run, store).recommend([HISTORY], k=5)[0]]


def test_there_is_a_folder_for_this_minor_version() -> None:
    minor = ".".join(blair_rec.__version__.split(".")[:2])
    assert f"files_{minor}" in [folder.name for folder in FOLDERS], "run tests/fixtures/write_files.py"


def test_a_comparison_and_its_runs_are_read(files: Path, expected: Any) -> None:
    board = blair_rec.leaderboard(files / "comparison")
    found = {row.variant: row.metrics["unmasked"]["NDCG@10"].mean for row in board.rows}
    assert found == pytest.approx(expected["rows"], rel=1e-12)
    assert len(read_cards(files / "comparison").titles) == 80


def test_models_are_loaded_and_recommend_the_same(files: Path, expected: Any) -> None:
    for name, items in expected["recommended"].items():
        store = files / "store" if name == "text" else None
        assert tokens(files / "comparison" / "runs" / f"{name}-1", store) == items, name
    assert tokens(files / "refit") == expected["refit"]


def test_stores_and_vectors_are_read(files: Path, expected: Any) -> None:
    store = blair_rec.open_store(files / "store")
    assert store.store_sha256 == expected["store_sha256"] and store.vectors[0].tolist() == expected["first_vector"]
    assert np.load(files / "vectors" / "items.npy").shape == (80, 8)
    assert len(json.loads((files / "vectors" / "items.json").read_text())) == 80


def test_trials_exports_and_prepared_folders_are_read(files: Path, expected: Any) -> None:
    assert [trial.variant for trial in read_trials(files / "tuned" / "trials.jsonl")] == ["id", "id"]
    ((item, *_),) = ExportedModel(files / "export").recommend([HISTORY], k=1)
    assert item[0] == expected["recommended"]["popular"][0]
    record = json.loads((files / "prepared" / "prepared.json").read_text())
    with pytest.raises(OutputError, match="with different settings or from other files"):
        is_done(files / "prepared", {**record["asked"], "core": 3}, [])  # it is recognised as ours


def test_trials_of_before_the_version_are_read_and_later_ones_refused(tmp_path: Path) -> None:
    line = json.loads((FOLDERS[0] / "tuned" / "trials.jsonl").read_text("utf-8").splitlines()[0])
    path = tmp_path / "trials.jsonl"
    path.write_text(json.dumps({key: value for key, value in line.items() if key != "schema"}) + "\n")
    assert read_trials(path)[0].variant == "id"
    path.write_text(json.dumps({**line, "schema": 2}) + "\n")
    with pytest.raises(ConfigError, match="another version of blair_rec wrote it"):
        read_trials(path)


VERSIONED = (
    "comparison/leaderboard.json", "comparison/results.jsonl", "comparison/item_cards.json", "export/config.json",
    "comparison/runs/id-1/result.json", "prepared/prepared.json", "refit/result.json", "store/store.json",
    "tuned/trials.jsonl",
)  # fmt: skip


def test_every_kind_of_file_has_a_version() -> None:
    folder = FOLDERS[-1]
    for name in VERSIONED:
        lines = (folder / name).read_text("utf-8")
        for text in lines.splitlines() if name.endswith("l") else [lines]:
            assert isinstance(json.loads(text)["schema"], int), name
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            assert file.metadata()["schema"] == "1", path
    # A folder's other files belong to its file with the version.
    homes = {Path(name).parent.as_posix() for name in VERSIONED} | {
        "comparison/runs/text-1",
        "comparison/runs/popular-1",
    }
    plain = {"vectors", "."}  # formats of NumPy and JSON lists, which have no place for a version
    assert {path.parent.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} <= homes | plain


def test_the_page_names_every_file_with_a_version() -> None:
    page = (REPOSITORY / "docs" / "stability.md").read_text("utf-8")
    for name in VERSIONED:
        assert f"`{Path(name).name}`" in page, name
