"""A variant may have its own model: data and protocol are shared, and its run is the one that a comparison of that
model alone would make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import config_of, tiny_at
from encoders import build_roberta

from blair_rec.border.recbole_keys import setting_problems
from blair_rec.errors import ConfigError
from blair_rec.evaluate.caption import caption
from blair_rec.evaluate.leaderboard import Leaderboard
from blair_rec.evaluate.report import to_csv
from blair_rec.experiment.compare import compare
from blair_rec.experiment.loading import load_model
from blair_rec.experiment.planning.data_files import data_folder
from blair_rec.experiment.splits.reading import read_splits

GRU = {"items": "text", "transforms": ["center"], "train": {"learning_rate": 0.02}, "recbole": {"num_layers": 2}}
VARIANTS: dict[str, Any] = {
    "id": {},
    "gru": {**GRU, "model": "GRU4Rec"},
    "rules": {"scorer": "sequential_rules"},
    "both": {"average": ["id", "gru"], "weights": "equal"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set and an encoder, which no test changes."""
    folder = tmp_path_factory.mktemp("models")
    tiny_at(folder)
    build_roberta(folder / "encoder")
    return folder


def made(place: Path, out: str, **sections: Any) -> Leaderboard:
    train = {"epochs": 1, "learning_rate": 0.01}
    config = config_of(place / "tiny", place / "encoder", seeds=[1], train=train, **sections)
    board = compare(config, place / out)
    assert board is not None
    return board


@pytest.fixture(scope="module")
def board(place: Path) -> Leaderboard:
    return made(place, "out", variants=VARIANTS)


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
    return found


def test_a_variant_with_its_own_model_is_the_run_of_a_comparison_of_that_model(place: Path, board: Leaderboard) -> None:
    made(place, "alone", model="GRU4Rec", variants={"gru": GRU}, baseline="gru")
    ours, alone = (place / out / "runs" / "gru-1" for out in ("out", "alone"))
    assert result(ours)["hashes"] == result(alone)["hashes"]
    with np.load(ours / "ranks.npz") as one, np.load(alone / "ranks.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in other.files)


def test_the_leaderboard_names_the_models_where_they_differ(place: Path, board: Leaderboard) -> None:
    assert {row.variant: row.model for row in board.rows} == {
        "id": "SASRec", "gru": "GRU4Rec", "rules": "SASRec", "both": "SASRec + GRU4Rec",
    }  # fmt: skip
    named = "Models: SASRec for id, GRU4Rec for gru"
    assert named in caption(board) or "Models: GRU4Rec for gru, SASRec for id" in caption(board)
    assert "gru used different settings: model is GRU4Rec (shared: SASRec); " in "\n".join(board.notes)
    assert {line.split(",")[1] for line in to_csv(board).splitlines() if ",GRU4Rec," in line} == {"gru"}
    assert "Models:" not in caption(made(place, "same", variants={"id": {}, "b": {"model": "SASRec"}}))


def test_a_finished_run_is_loaded_as_the_model_that_it_is(place: Path, board: Leaderboard) -> None:
    names = {name: type(load_model(place / "out" / "runs" / f"{name}-1").model).__name__ for name in ("id", "gru")}
    assert names == {"id": "BLaIRSASRec", "gru": "BLaIRGRU4Rec"}
    members = load_model(place / "out" / "runs" / "both-1").members
    assert [type(member.model).__name__ for member in members] == ["BLaIRSASRec", "BLaIRGRU4Rec"]


def test_another_model_for_one_variant_leaves_the_runs_of_the_others(place: Path, board: Leaderboard) -> None:
    runs = place / "out" / "runs"
    before = {name: result(runs / name)["hashes"] for name in ("id-1", "rules-1")}
    other = {**VARIANTS, "narm": {"model": "NARM"}}
    assert {row.model for row in made(place, "out", variants=other).rows} >= {"NARM", "GRU4Rec", "SASRec"}
    assert {name: result(runs / name)["hashes"] for name in before} == before


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"model": "GRU4Rek"}, r"variants\.b: .*GRU4Rek"),
        ({"model": "NARM", "train": {"loss": "bpr"}}, r"variants\.b: `loss: bpr` isn't supported for BLaIRNARM"),
        (
            {"model": "GRU4Rec", "recbole": {"n_heads": 2}},
            r"variants\.b\.recbole: n_heads is not among the .* of GRU4Rec",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_trained(
    place: Path, variant: dict[str, Any], message: str
) -> None:
    config = config_of(place / "tiny", place / "encoder", variants={"id": {}, "b": variant})
    with pytest.raises(ConfigError, match=message):
        read_splits(config, place / "tiny")


def test_a_model_that_reads_other_files_than_the_shared_one_is_refused_unless_their_columns_are_named() -> None:
    variants = {"id": {}, "features": {"model": "SASRecF"}}
    config = config_of(Path("ml-100k"), "e", variants=variants)
    with pytest.raises(
        ConfigError, match=r"variants\.features\.model: SASRecF needs the \.item file, but all variants"
    ):
        read_splits(config, data_folder("ml-100k"))


def test_settings_are_checked_against_the_model_of_each_variant(place: Path) -> None:
    variants = {"id": {}, "gru": {"model": "GRU4Rec", "recbole": {"num_layer": 1}}}
    config = config_of(place / "tiny", "e", variants=variants, recbole={"embedding_size": "wide", "n_layers": "two"})
    assert setting_problems(config) == [
        "recbole: n_layers is 'two'; expected a number",
        "recbole: embedding_size is 'wide'; expected a number",
        "variants.gru.recbole: unknown key 'num_layer'; did you mean 'num_layers'?",
    ]
