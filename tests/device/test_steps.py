"""Training, ranking and checkpoints on any device: no tensor is created on another device than the others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import PLACES, WITHOUT_DROPOUT, World, device_of, working_in, write_world
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from blair_rec.ranking.ensemble import Ensemble, choose_weights
from blair_rec.ranking.scoring import Ranks, rank
from blair_rec.serve.recommender import Recommender
from blair_rec.training.checkpoint import load_weights, save_weights
from blair_rec.training.loop import fit, make_optimizer, run_epoch

ITEM_SIDES: dict[str, dict[str, Any]] = {
    "id": {},
    "text": {"items": "text", "transforms": ["center"]},
    "text_init": {"items": "text_init"},
    "text_delta": {"items": "text_delta"},
    "id_text": {"items": "id_text", "fusion": "gate"},
    "unisrec": {"items": "unisrec"},
    "sasrec_text": {"items": "sasrec_text"},
}
DRAWS = ("unisrec", "sasrec_text")
"""Item sides that use random numbers in training."""
LOSSES: dict[str, dict[str, Any]] = {
    "full_softmax": {},
    "bfloat16": {"precision": "bfloat16"},
    "cosine": {"temperature": 0.2},
    "sampled_softmax": {"loss": "sampled_softmax", "negatives": 8, "log_q": True, "sampling": "popularity"},
    "gbce": {"loss": "gbce", "negatives": 8},
    "bpr": {"loss": "bpr", "negatives": 8},
    "decayed": {"loss": "bpr", "negatives": 8, "weight_decay": 0.01},
}
SCORERS = (
    "popularity",
    "markov",
    "sequential_rules",
    "last_item",
    "mean_history",
    "recent_history",
    "text_rules",
)
ENSEMBLES: dict[str, tuple[str, ...]] = {
    "by product": ("model", "recent_history"),
    "of scores": ("model", "sequential_rules", "last_item"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("data") / "world")


def validated() -> dict[str, float]:
    return {"m": 0.5}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("items", ITEM_SIDES)
def test_a_training_step_stays_on_its_device(folder: Path, items: str, loss: str, place: str) -> None:
    world = World(folder, device_of(place), ITEM_SIDES[items], LOSSES[loss])
    optimizer = make_optimizer(world.model, world.train)
    with working_in(place):
        mean = run_epoch(world.model, optimizer, world.steps(1))
    assert math.isfinite(mean)
    assert {parameter.device.type for parameter in world.model.parameters()} == {torch.device(device_of(place)).type}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("loss", ["full_softmax", "gbce"])
@pytest.mark.parametrize(("model", "settings"), [("GRU4Rec", {"embedding_size": 8, "num_layers": 1}), ("eSASRec", {})])
def test_so_does_one_of_another_packed_model(
    folder: Path, model: str, settings: dict[str, Any], loss: str, place: str
) -> None:
    world = World(folder, device_of(place), ITEM_SIDES["text"], LOSSES[loss], model, **settings)
    with working_in(place):
        assert math.isfinite(run_epoch(world.model, make_optimizer(world.model, world.train), world.steps(1)))


def scorer_of(world: World, name: str) -> Any:
    """The model, a scorer, or an ensemble of both kinds."""
    if name == "model":
        return world.model
    if name in ENSEMBLES:
        members = [scorer_of(world, member) for member in ENSEMBLES[name]]
        return Ensemble(members, [1 / len(members)] * len(members))
    return world.scorer(name)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("k", [0, 5])
@pytest.mark.parametrize("name", ["model", *SCORERS, *ENSEMBLES])
def test_ranking_stays_on_its_device_and_finds_the_same(folder: Path, name: str, k: int, place: str) -> None:
    world = World(folder, device_of(place), ITEM_SIDES["text_delta"])
    scorer, on_cpu = scorer_of(world, name), scorer_of(World(folder, "cpu", ITEM_SIDES["text_delta"]), name)
    assert torch.device(scorer.device).type == torch.device(device_of(place)).type
    with working_in(place):
        ranks = rank(scorer, world.splits[1], batch_size=16, k=k)
    assert_same_but_for_roundings(ranks, rank(on_cpu, world.splits[1], batch_size=16, k=k))


def assert_same_but_for_roundings(ranks: Ranks, expected: Ranks) -> None:
    """Compare exactly if both were computed on the CPU, where rounding is the same."""
    for name in ("user", "item", "target_in_history", "history_length"):
        np.testing.assert_array_equal(getattr(ranks, name), getattr(expected, name))
    for protocol in ("unmasked", "masked"):
        for counted in ("higher", "equal"):
            found, there = (getattr(one, f"{counted}_{protocol}") for one in (ranks, expected))
            assert np.mean(found == there) >= (0.95 if torch.cuda.is_available() else 1), f"{counted}_{protocol}"


@pytest.mark.parametrize("place", PLACES)
def test_a_model_that_gives_all_scores_is_ranked_there_too(folder: Path, place: str) -> None:
    world = World(folder, device_of(place), ITEM_SIDES["text"])
    type(world.model).scores_by_product = property(lambda self: False)  # type: ignore[attr-defined]
    try:
        world.model.scores_packed = True
        with working_in(place), world.model.scores_overwritten():
            ranks = rank(world.model, world.splits[1], batch_size=16, k=3)
    finally:
        del type(world.model).scores_by_product  # type: ignore[attr-defined]
    assert len(ranks.user) == len(world.splits[1])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ENSEMBLES)
@pytest.mark.parametrize("masked", [False, True])
def test_validation_weighs_an_ensemble_there(folder: Path, name: str, masked: bool, place: str) -> None:
    world = World(folder, device_of(place), ITEM_SIDES["text_delta"])
    ensemble = scorer_of(world, name)
    with working_in(place):
        weights, value = choose_weights(
            ensemble, world.splits[1], masked, lambda higher, equal, miss: -float(higher.mean()), batch_size=16
        )
    assert sum(weights) == pytest.approx(1)
    assert math.isfinite(value)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["model", *SCORERS, *ENSEMBLES])
def test_it_recommends_there(folder: Path, name: str, place: str) -> None:
    world = World(folder, device_of(place), ITEM_SIDES["text"])
    tokens = [str(token) for token in world.splits[0].field2id_token["item_id"]]
    recommender = Recommender(scorer_of(world, name), tokens, world.config["MAX_ITEM_LIST_LENGTH"])
    histories = [["i1", "i2"], ["i3"], [f"i{item}" for item in range(9)]]
    with working_in(place):
        found = recommender.recommend(histories, k=3)
        if recommender._model.scores_by_product:
            users, items = recommender.user_vectors(histories), recommender.item_vectors()
            assert users.shape[1] == items.shape[1]
    assert [len(best) for best in found] == [3, 3, 3]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["model", "last_item"])
def test_items_that_came_later_are_scored_there(folder: Path, name: str, place: str) -> None:
    world = World(folder, device_of(place), ITEM_SIDES["text"])
    scorer, known = scorer_of(world, name), world.splits[0].item_num
    with working_in(place):
        scorer.append_items(np.ones((2, world.vectors.table.shape[1]), dtype=np.float32))
        recommender = Recommender(scorer, [str(number) for number in range(known + 2)], 6)
        assert recommender.recommend([["1", str(known)]], k=2)


SIDES_SAVED = ["id", "text_delta", "unisrec"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
@pytest.mark.parametrize("items", SIDES_SAVED)
def test_training_resumes_from_a_checkpoint_bit_for_bit(
    folder: Path, items: str, loss: str, place: str, tmp_path: Path
) -> None:
    def trained(checkpoint: Path, until: int | None = None) -> tuple[list[float], dict[str, torch.Tensor]]:
        world = World(folder, device_of(place), ITEM_SIDES[items], {**LOSSES[loss], "epochs": 3})
        with working_in(place):
            found = fit(world.model, world.steps, validated, "m", world.train, checkpoint=checkpoint, until=until)
        return [epoch.loss for epoch in found.history], dict(world.model.state_dict())

    losses, weights = trained(tmp_path / "whole.safetensors")
    trained(tmp_path / "parts.safetensors", until=1)
    torch.rand(9)  # random numbers drawn between the two parts
    again, same = trained(tmp_path / "parts.safetensors")
    assert again == losses
    for name, tensor in weights.items():
        assert torch.equal(tensor, same[name]), name
    before, after = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("place", PLACES)
def test_training_resumes_from_a_checkpoint_without_the_states_of_gpus(
    folder: Path, place: str, tmp_path: Path
) -> None:
    path = tmp_path / "before.safetensors"
    for until in (1, 2):
        world = World(folder, device_of(place), train={"epochs": 2})
        with working_in(place):
            found = fit(world.model, world.steps, validated, "m", world.train, checkpoint=path, until=until)
        assert len(found.history) == until
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = {name: tensor for name, tensor in load_file(path).items() if "gpu" not in name}
        save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["model", *SCORERS])
def test_weights_saved_there_are_read_on_the_cpu_and_back(folder: Path, name: str, place: str, tmp_path: Path) -> None:
    there = scorer_of(World(folder, device_of(place), ITEM_SIDES["text_delta"]), name)
    on_cpu = scorer_of(World(folder, "cpu", ITEM_SIDES["text_delta"]), name)
    with working_in(place):
        save_weights(there, tmp_path / "there.safetensors", None)
        load_weights(on_cpu, tmp_path / "there.safetensors", None)
        save_weights(on_cpu, tmp_path / "cpu.safetensors", None)
        load_weights(there, tmp_path / "cpu.safetensors", None)
    assert {tensor.device.type for tensor in there.state_dict().values()} <= {torch.device(device_of(place)).type}
    for key, tensor in there.state_dict().items():
        assert torch.equal(tensor.cpu(), on_cpu.state_dict()[key]), key


@pytest.mark.parametrize("items", [name for name in ITEM_SIDES if name not in DRAWS])
@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax", "gbce", "bpr"])
@pytest.mark.parametrize("place", PLACES[1:])
def test_a_gpu_learns_what_the_cpu_learns(folder: Path, items: str, loss: str, place: str) -> None:
    means = []
    for device in (place, "cpu"):
        world = World(folder, device, ITEM_SIDES[items], LOSSES[loss], **WITHOUT_DROPOUT)
        means.append(run_epoch(world.model, make_optimizer(world.model, world.train), world.steps(1)))
    assert means[0] == pytest.approx(means[1], rel=1e-4)
