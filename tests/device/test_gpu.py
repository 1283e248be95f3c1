"""From the config to the results, on the CPU and on a real GPU; on the GPU, every RecBole model that takes text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import config_of, tiny_at
from devices import HAS_GPU, NEEDS_GPU, WITHOUT_DROPOUT, World, write_world

import blair_rec
from blair_rec.cli import main
from blair_rec.experiment.compare import compare
from blair_rec.experiment.tune import tune
from blair_rec.models.eligibility import Eligible, eligibility, recbole_models
from blair_rec.recbole import run_recbole
from blair_rec.training.loop import make_optimizer, run_epoch

DEVICES = ["cpu", pytest.param("cuda:0", marks=NEEDS_GPU)]
VARIANTS: dict[str, Any] = {
    "id": {"items": "id"},
    "text": {"items": "text", "transforms": ["center"]},
    "near": {"scorer": "recent_history"},
    "rules": {"scorer": "sequential_rules"},
    "by_product": {"average": ["text", "near"]},
    "of_scores": {"average": ["id", "rules"], "weights": "equal"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("data") / "world")


@pytest.mark.parametrize("device", DEVICES)
def test_a_whole_comparison_names_its_device_and_loads_on_another(device: str, tmp_path: Path, roberta: Path) -> None:
    text = {"fields": ["title"], "encoder": str(roberta), "pooling": "cls"}
    text |= {"dtype": "float16"} if device != "cpu" else {}
    config = config_of(tiny_at(tmp_path), roberta, text=text, variants=VARIANTS, seeds=[1], device=device)
    board = compare(config, tmp_path / "out")
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
    assert board is not None
    assert board.provenance["device"] == name
    for variant in VARIANTS:
        run = tmp_path / "out" / "runs" / f"{variant}-1"
        assert json.loads((run / "result.json").read_text("utf-8"))["provenance"]["device"] == name
        tokens = json.loads((run / "items.json").read_text("utf-8"))[1:4]
        histories = [tokens[:1], tokens[1:]]
        found = [
            blair_rec.load(run, device=there).recommend(histories, k=5) for there in ("cpu", *(["cuda"] * HAS_GPU))
        ]
        for one in found:
            scores = [[item.score for item in best] for best in one]
            np.testing.assert_allclose(scores, [[item.score for item in best] for best in found[0]], atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_tuning_computes_there(device: str, tmp_path: Path, roberta: Path) -> None:
    grid = {"space": {"train.learning_rate": [0.01, 0.003]}, "budget": 2, "rungs": [1]}
    variants = {"id": {"items": "id"}, "near": {"scorer": "last_item"}}
    config = config_of(tiny_at(tmp_path), roberta, variants=variants, tune=grid, device=device)
    assert tune(config, tmp_path / "out").variants["id"].trials == 2


@pytest.mark.parametrize("device", DEVICES)
def test_the_plugin_computes_where_recboles_own_keys_say(
    folder: Path, roberta: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # RecBole overwrites it; monkeypatch restores it
    keys = {"use_gpu": False} if device == "cpu" else {"gpu_id": "0", "blair_dtype": "float16"}
    settings = {
        "blair_items": "text", "blair_text_fields": ["title"], "blair_encoder": str(roberta), "blair_pooling": "cls",
        "epochs": 2, "data_path": str(folder.parent), "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1,
        "MAX_ITEM_LIST_LENGTH": 6, "show_progress": False, "state": "ERROR", "stopping_step": 5, **keys,
    }  # fmt: skip
    found = run_recbole(model="BLaIRSASRec", dataset="world", config_dict=settings)
    assert 0 <= found["test_result"]["ndcg@10"] <= 1


@pytest.mark.parametrize("device", DEVICES)
def test_pretraining_and_search_compute_there(device: str, tmp_path: Path, roberta: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    rows = [f"i like the {word} cup,a {word} cup number {row}" for row, word in enumerate(["red", "blue", "old"] * 8)]
    pairs.write_text("\n".join(["review,meta", *rows]) + "\n", "utf-8")
    config = tmp_path / "pretrain.yaml"
    said = {
        "pairs": str(pairs),
        "encoder": str(roberta),
        "pooling": "cls",
        "batch_size": 4,
        "max_steps": 2,
        "chunk_size": 2,
    }
    config.write_text(json.dumps(said), "utf-8")
    assert main(["pretrain", str(config), "-o", str(tmp_path / "encoder"), "--device", device, "--quiet"]) == 0
    record = json.loads((tmp_path / "encoder" / "pretraining.json").read_text("utf-8"))
    assert record["device"] == ("cpu" if device == "cpu" else torch.cuda.get_device_name(device))
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\na,a red cup\nb,a blue cup\n", "utf-8")
    store, encoder = tmp_path / "store", str(tmp_path / "encoder")
    blair_rec.encode(items, store, fields=["title"], encoder=encoder, device=device)
    on_cpu = blair_rec.encode(items, tmp_path / "cpu", fields=["title"], encoder=encoder, device="cpu")
    np.testing.assert_allclose(blair_rec.open_store(store).vectors, on_cpu.vectors, atol=1e-4)
    assert main(["search", str(store), "a red cup", "--device", device]) == 0


ELIGIBLE = [name for name in recbole_models() if isinstance(eligibility(name), Eligible)] if HAS_GPU else ["SASRec"]
ALL: dict[str, Any] = {"n_layers": 2, "embedding_size": 8, "prototype_size": 20, "reranker_CAN_NUM": 20}


@NEEDS_GPU
@pytest.mark.parametrize("name", ELIGIBLE)
def test_every_model_of_recbole_computes_on_a_gpu_what_it_does_on_the_cpu(folder: Path, name: str) -> None:
    world = [
        World(
            folder, device, {"items": "text"}, {"loss": "recbole"}, name, **{**ALL, **WITHOUT_DROPOUT},
            load_col={"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "kind"]},
            selected_features=["kind"],
        )
        for device in ("cpu", "cuda:0")
    ]  # fmt: skip
    world[1].model.load_state_dict(world[0].model.state_dict())
    batch = world[0].splits[1][torch.arange(16)]
    with torch.no_grad():
        on_cpu, on_gpu = (one.model.eval().full_sort_predict(batch.to(one.model.device)).cpu() for one in world)
    np.testing.assert_allclose(on_gpu.numpy(), on_cpu.numpy(), rtol=1e-2, atol=2e-3)  # cuDNN rounds a GRU to TF32
    assert np.isfinite(run_epoch(world[1].model, make_optimizer(world[1].model, world[1].train), world[1].steps(1)))
