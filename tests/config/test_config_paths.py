"""Paths in a comparison file: the working directory first, then beside the file, and runs that don't change by it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparisons import raw_config, tiny_at
from encoders import build_roberta
from worlds import store_for

from blair_rec import cli
from blair_rec.config.comparison import CompareConfig, load_config
from blair_rec.errors import ConfigError, DatasetError
from blair_rec.experiment.board import leaderboard
from blair_rec.experiment.compare import compare
from blair_rec.experiment.planning.data_files import data_folder
from blair_rec.experiment.planning.plan import run_setup

KEYS = ["dataset", "items", "store", "encoder", "fallback", "variant"]
POPULAR: dict[str, Any] = {"variants": {"popular": {"scorer": "popularity"}}, "baseline": "popular", "seeds": [1]}


def write(folder: Path, **sections: Any) -> Path:
    """A comparison file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {"dataset": "ml-100k", "variants": {"id": {}}, **sections}
    (folder / "cfg.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return folder / "cfg.yaml"


def make(folder: Path, content: str = "there") -> None:
    """A data set, an items file, a store and an encoder, as far as a look at their names can tell."""
    for name in ("shop", "vectors", "encoder"):
        (folder / name).mkdir(parents=True)
    (folder / "items.jsonl").write_text(content)
    (folder / "encoder" / "config.json").write_text(content)


def paths_in(config: CompareConfig) -> dict[str, str | None]:
    fallback = config.text.fallback
    return {
        "dataset": config.dataset,
        "items": config.text.items,
        "store": config.variants["other"].text["store"],
        "encoder": config.text.encoder,
        "fallback": None if fallback is None else fallback.encoder,
        "variant": config.variants["text"].text["encoder"],
    }


SECTIONS: dict[str, Any] = {
    "dataset": "shop",
    "text": {"fields": ["t"], "items": "items.jsonl", "encoder": "encoder", "fallback": {"encoder": "encoder"}},
    "variants": {
        "id": {},
        "text": {"items": "text", "text": {"encoder": "encoder"}},
        "other": {"items": "text", "text": {"store": "vectors"}},
    },
}
WRITTEN = {
    "dataset": "shop", "items": "items.jsonl", "store": "vectors", "encoder": "encoder", "fallback": "encoder",
    "variant": "encoder",
}  # fmt: skip


def test_a_path_that_the_working_directory_lacks_is_taken_from_beside_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "project")
    with caplog.at_level(logging.INFO, logger="blair_rec"):
        found = paths_in(load_config(write(tmp_path / "project", **SECTIONS)))
    assert found == {key: str(tmp_path / "project" / name) for key, name in WRITTEN.items()}
    for where, name in (("dataset", "shop"), ("variants.other.text.store", "vectors")):
        said = f"{where}: {name} is not in the working directory; found next to the file: "
        assert f"{said}{tmp_path / 'project' / name}" in caplog.messages
    assert len(caplog.messages) == len(KEYS)


def test_the_working_directory_comes_first_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "project")
    make(tmp_path)
    with caplog.at_level(logging.INFO, logger="blair_rec"):
        found = paths_in(load_config(write(tmp_path / "project", **SECTIONS)))
    assert found == {**WRITTEN, "dataset": str(tmp_path / "shop"), "items": str(tmp_path / "items.jsonl")}
    assert caplog.messages == []


def test_what_is_nowhere_and_what_is_no_path_stays_as_it_is_written(tmp_path: Path) -> None:
    assert paths_in(load_config(write(tmp_path / "project", **SECTIONS))) == WRITTEN
    (tmp_path / "project" / "encoder").mkdir()  # without a config.json, such as a store of that name
    assert load_config(write(tmp_path / "project", **SECTIONS)).text.encoder == "encoder"
    config = load_config(write(tmp_path / "project"))
    assert config.dataset == "ml-100k" and data_folder(config.dataset).name == "ml-100k"


@pytest.mark.parametrize("here", [".", "data", "data/shop", "elsewhere"])
def test_a_file_inside_the_data_folder_that_it_names_is_found_from_anywhere(
    here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prepare -o data/shop` writes such a file: data/shop/shop.yaml."""
    text = {"template": "blair", "items": "data/shop/items.jsonl"}
    path = write(tmp_path / "data" / "shop", dataset="data/shop", text=text)
    (path.parent / "items.jsonl").write_text("there")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / here)
    config = load_config(os.path.relpath(path))
    assert (config.dataset, config.text.items) == (str(path.parent), str(path.parent / "items.jsonl"))


def test_a_link_keeps_its_name_as_the_files_carry_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "shop")
    assert Path(load_config(write(tmp_path / "project", dataset="shop")).dataset).name == "shop"


def test_a_data_set_that_is_nowhere_is_told_where_it_was_looked_for(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "project", dataset="shpo"))
    with pytest.raises(DatasetError, match="'shpo': there is no such folder; .*working directory or next to the"):
        data_folder(config.dataset)


def test_a_comparison_is_the_same_from_beside_its_file_and_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "project"
    tiny_at(project)
    path = write(project, **{**raw_config(Path("tiny"), "unused", **POPULAR), "text": {}})
    setups = []
    for here in (project, tmp_path):
        monkeypatch.chdir(here)
        setups.append(run_setup(load_config(path), "popular", 1))
    assert setups[0] == setups[1] and setups[0]["dataset"] == "tiny"
    assert cli.main(["compare", str(path), "-o", "out"]) == 0
    assert f"found next to the file: {project / 'tiny'}" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["compare", str(tmp_path / "out" / "config.yaml"), "-o", "../out"]) == 0
    assert "already finished: 1 of 1 run" in capsys.readouterr().err
    assert leaderboard(tmp_path / "out") is not None


def test_an_encoder_and_a_store_beside_the_file_are_used(tmp_path: Path) -> None:
    project = tmp_path / "project"
    tiny_at(project)
    build_roberta(project / "models" / "mine")
    store_for(project / "vectors", [f"i{number:02d}" for number in range(1, 81)])
    variants = {"near": {"scorer": "last_item"}, "given": {"scorer": "last_item", "text": {"store": "vectors"}}}
    raw = raw_config(Path("tiny"), "models/mine", variants=variants, baseline="near", seeds=[1])
    board = compare(load_config(write(project, **raw)), tmp_path / "out")
    assert board is not None
    assert {row.variant: row.encoder.name for row in board.rows if row.encoder} == {"near": "mine", "given": "made up"}


def test_a_file_of_a_data_set_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "shop.inter").write_text("user_id:token\titem_id:token\n")
    with pytest.raises(
        ConfigError, match="shop.inter is a file of a data set, not a YAML file; a data set is named by"
    ):
        load_config(tmp_path / "shop.inter")
