"""RecBole models with their item side replaced: what stays RecBole's to the bit, and what changes altogether."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from worlds import SMALL, STOCK, built, vectors_for, with_small_times

from blair_rec.errors import CheckpointError, ConfigError
from blair_rec.recommend.checkpoint import load_weights, save_weights
from blair_rec.recommend.dataset import TextSequentialDataset
from blair_rec.recommend.models import (
    count_parameters,
    item_embedding_name,
    item_side,
    model_class,
    shared_items,
    with_text,
)
from blair_rec.recommend.settings import recbole_config
from blair_rec.recommend.trainer import recbole_batches, seed_everything

from recbole.data.dataset import SequentialDataset
from recbole.model import sequential_recommender
from recbole.model.sequential_recommender import SASRec
from recbole.utils import get_flops

KINDS = ["id", "text", "text_init"]
MODELS = ["SASRec", "GRU4Rec", "NARM", "BERT4Rec"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """datasets/tiny with times that float32 holds exactly."""
    tiny = Path(__file__).parent.parent / "datasets" / "tiny"
    return with_small_times(Path(shutil.copytree(tiny, tmp_path_factory.mktemp("models") / "tiny")))


@pytest.fixture(scope="module")
def train(folder: Path) -> Any:
    """The training split, with text vectors."""
    split = built(TextSequentialDataset, folder)[1][0]
    split.item_vectors = vectors_for(split.item_num)
    return split


def settings_for(kind: str, **given: Any) -> dict[str, Any]:
    """A small config with this item side."""
    return {**SMALL, "blair_items": kind, **({} if kind == "id" else {"blair_text_fields": ["title"]}), **given}


def make(train: Any, kind: str = "text", model: str = "SASRec", **given: Any) -> Any:
    """A model as a run would build it."""
    cls = model_class(model)
    config = recbole_config(cls, str(train.config["data_path"]), settings_for(kind, **given))
    seed_everything(config["seed"])
    return cls(config, train).eval()


def first_steps(cls: Any, dataset: type, folder: Path, settings: dict[str, Any]) -> tuple[Any, list[float], Any]:
    """Initial weights, the losses of five steps of Adam over RecBole's own batches, and the scores after them."""
    config = recbole_config(cls, str(folder), settings)
    train, _, test = dataset(config).build()
    seed_everything(config["seed"])
    model = cls(config, train)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses: list[float] = []
    for _, batch in zip(range(5), recbole_batches(config, train), strict=False):
        loss = model.calculate_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return initial, losses, model.eval().full_sort_predict(test[torch.arange(len(test))])


@pytest.mark.parametrize("dataset", [SequentialDataset, TextSequentialDataset])
@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_with_its_own_embedding_a_model_is_recboles_to_the_bit(folder: Path, dataset: type, loss_type: str) -> None:
    given: dict[str, Any] = {**SMALL, "loss_type": loss_type, "train_batch_size": 100}
    stock = {**given, **STOCK}
    if loss_type == "BPR":
        del stock["train_neg_sample_args"]
    theirs = first_steps(SASRec, SequentialDataset, folder, stock)
    ours = first_steps(with_text(SASRec), dataset, folder, {**given, "blair_items": "id", "blair_loss": "recbole"})
    assert theirs[0].keys() == ours[0].keys()
    assert all(torch.equal(theirs[0][name], ours[0][name]) for name in theirs[0])
    assert len(ours[1]) == 5 and ours[1] == theirs[1]
    assert torch.equal(ours[2], theirs[2])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_one_item_changes_its_own_score_and_the_encoding_of_histories_that_hold_it(
    train: Any, model: str, kind: str
) -> None:
    built_model = make(train, kind, model)
    batch = train[torch.arange(len(train))]
    item = int(batch["item_id_list"][-1, 1])
    batch = batch[batch["item_id_list"][:, 0] != item]  # BERT4Rec drops the oldest item to make room for its mask
    holds = (batch["item_id_list"] == item).any(dim=1)
    others = torch.arange(1, train.item_num) != item
    with torch.no_grad():
        before = built_model.full_sort_predict(batch)
        table: Any = item_side(built_model).table
        table[item - 1] += torch.linspace(-3, 3, table.shape[1])
        after = built_model.full_sort_predict(batch)
    moved = before[:, 1:] != after[:, 1:]
    assert moved[~holds][:, ~others].all(), "the item's own score"
    assert not moved[~holds][:, others].any(), "scores of other items for histories without it"
    assert moved[holds][:, others].float().mean() > 0.99, "scores of other items for histories with it"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_no_module_keeps_the_old_table(train: Any, model: str, kind: str) -> None:
    built_model = make(train, kind, model)
    embeddings = [name for name, module in built_model.named_modules() if isinstance(module, nn.Embedding)]
    assert not [name for name in embeddings if "item" in name]
    items: Any = item_side(built_model)
    extra = 1 if model == "BERT4Rec" else 0
    assert items.num_embeddings == train.item_num + extra and (items.extra is not None) == bool(extra)
    keeping = [key for key, value in vars(built_model).items() if isinstance(value, (nn.Embedding, torch.Tensor))]
    assert not keeping


def test_no_weight_initialisation_touches_the_vectors(train: Any) -> None:
    expected = torch.from_numpy(train.item_vectors.table[1:])
    assert torch.equal(item_side(make(train, "text")).table, expected)  # type: ignore[arg-type, union-attr]
    table = item_side(make(train, "text_init", blair_transforms=["center"])).weight[1:].detach().numpy()
    centred = train.item_vectors.table[1:].astype(np.float64)
    centred -= centred.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)[:8]
    ours = np.linalg.svd(table.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(ours / ours[0], values / values[0], rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_of_the_model_starts_as_recboles(train: Any, folder: Path, kind: str) -> None:
    config = recbole_config(SASRec, str(folder), {**SMALL, **STOCK})
    seed_everything(config["seed"])
    stock = SASRec(config, train).state_dict()
    ours = make(train, kind).state_dict()
    for name in stock:
        if kind == "id" or not name.startswith("item_embedding"):
            assert torch.equal(ours[name], stock[name]), name


@pytest.mark.parametrize("control", ["shuffle", "random"])
def test_a_control_reaches_the_model_and_follows_the_seed(train: Any, control: str) -> None:
    tables = [
        item_side(make(train, "text", blair_control=control, seed=seed)).table  # type: ignore[union-attr]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_sharing_the_items_changes_no_score(train: Any, kind: str, model: str) -> None:
    built_model, batch = make(train, kind, model), train[torch.arange(50)]
    with torch.no_grad():
        alone = built_model.full_sort_predict(batch)
        with shared_items(built_model):
            assert torch.equal(built_model.full_sort_predict(batch), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_predict_agrees_with_full_sort_predict(train: Any, kind: str) -> None:
    built_model, batch = make(train, kind), train[torch.arange(50)]
    with torch.no_grad():
        own = built_model.full_sort_predict(batch)[torch.arange(50), batch["item_id"]]
        torch.testing.assert_close(built_model.predict(batch), own)


@pytest.mark.parametrize("kind", KINDS)
def test_recboles_count_of_operations_leaves_the_model_as_it_was(train: Any, kind: str) -> None:
    built_model = make(train, kind)
    before = {name: tensor.clone() for name, tensor in built_model.state_dict().items()}
    flops = get_flops(built_model, train, torch.device("cpu"), logging.getLogger(), lambda _, batch: batch)
    assert flops > 0
    assert built_model.state_dict().keys() == before.keys()


class TwoTables(nn.Module):
    """What HGN looks like from here."""

    def __init__(self) -> None:
        super().__init__()
        self.item_embedding, self.item_embedding_for_prediction = nn.Embedding(9, 2), nn.Embedding(9, 2)


class Nested(nn.Module):
    """A model in whose parts the table stands, beside tables of other things."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"item_table": nn.Embedding(10, 2), "user_table": nn.Embedding(99, 2)})
        self.item_category_embedding = nn.Embedding(3, 2)


class Alias(nn.Module):
    """What GRU4RecCPR looks like from here."""

    def __init__(self) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(9, 2)
        self.out_item_embedding = self.item_embedding


def test_the_item_embedding_is_found_where_it_is() -> None:
    assert item_embedding_name(Nested(), 9) == "encoder.item_table"


def test_no_item_embedding_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"Linear has 0 item embeddings \(none\)"):
        item_embedding_name(nn.Linear(2, 2), 9)


def test_two_item_embeddings_are_an_error_that_names_both() -> None:
    expected = r"TwoTables has 2 item embeddings \(item_embedding, item_embedding_for_prediction\)"
    with pytest.raises(ConfigError, match=expected):
        item_embedding_name(TwoTables(), 9)


def test_a_second_name_for_the_same_table_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"Alias has 2 item embeddings \(item_embedding, out_item_embedding\)"):
        item_embedding_name(Alias(), 9)


REFUSED = ["HGN", "GRU4RecCPR"] if hasattr(sequential_recommender, "GRU4RecCPR") else ["HGN"]  # new in RecBole 1.2.1


@pytest.mark.parametrize("model", REFUSED)
def test_models_of_recbole_with_a_second_table_or_name_are_refused(train: Any, model: str) -> None:
    with pytest.raises(ConfigError, match=f"BLaIR{model} has 2 item embeddings"):
        make(train, "text", model, embedding_size=8, reg_weight=[0.0, 0.0], loss_type="CE")


def test_text_without_vectors_is_an_error(train: Any) -> None:
    bare = train.copy(train.inter_feat)
    bare.item_vectors = None
    with pytest.raises(ConfigError, match="blair_items is 'text', but the data set carries no text vectors"):
        make(bare, "text")


def test_a_misspelt_model_names_the_near_one() -> None:
    for name in ("SASrec", "sasrec", "SASRecs"):
        with pytest.raises(ConfigError, match=f"model is '{name}'.*did you mean 'SASRec'"):
            model_class(name)
    with pytest.raises(ConfigError, match="known: .*GRU4Rec.*SASRec"):
        model_class("zzz")


@pytest.mark.parametrize("wrong", ["SASRec", nn.Linear, None])
def test_what_is_no_sequential_model_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="is not a class of RecBole sequential models"):
        with_text(wrong)


def test_a_model_with_text_is_not_wrapped_again() -> None:
    once = with_text(SASRec)
    assert with_text(once) is once and with_text(SASRec) is once
    assert model_class("BLaIRSASRec").__name__ == "BLaIRSASRec"


def test_frozen_numbers_are_counted_apart(train: Any) -> None:
    counts = {kind: count_parameters(make(train, kind)) for kind in KINDS}
    table = train.item_num * 8
    rest = counts["id"]["trained"] - table
    assert counts["text_init"] == {"trained": rest + table - 8, "frozen": 0}
    assert counts["text"] == {"trained": rest + 12 * 8 + 8 + 8 * 8 + 8, "frozen": (train.item_num - 1) * 12}
    assert counts["id"]["frozen"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_back_as_they_were_saved(train: Any, tmp_path: Path, kind: str) -> None:
    saved, other = make(train, kind), make(train, kind, seed=8)
    sha256 = None if kind == "id" else train.item_vectors.store_sha256
    save_weights(saved, tmp_path / "model.safetensors", sha256)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    batch = train[torch.arange(20)]
    with torch.no_grad():
        assert not torch.equal(other.full_sort_predict(batch), saved.full_sort_predict(batch))
        load_weights(other, tmp_path / "model.safetensors", sha256)
        assert torch.equal(other.full_sort_predict(batch), saved.full_sort_predict(batch))


def test_weights_over_text_ask_for_their_store_by_its_hash(train: Any, tmp_path: Path) -> None:
    model, path = make(train, "text"), tmp_path / "model.safetensors"
    save_weights(model, path, "a" * 64)
    with pytest.raises(CheckpointError, match=f"vectors of store {'a' * 64}, .* and no store was given"):
        load_weights(model, path, None)
    with pytest.raises(CheckpointError, match=f"vectors of store {'a' * 64}, .* the store given is {'b' * 64}"):
        load_weights(model, path, "b" * 64)


def test_weights_of_another_model_are_refused(train: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(make(train, "id", "GRU4Rec"), path, None)
    with pytest.raises(CheckpointError, match="holds weights of another model"):
        load_weights(make(train, "id"), path, None)
    save_weights(make(train, "id", hidden_size=16), path, None)
    with pytest.raises(CheckpointError, match="holds weights of another model"):
        load_weights(make(train, "id"), path, None)


def test_weights_that_are_no_safetensors_are_refused(train: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="no saved weights there"):
        load_weights(make(train, "id"), path, None)
    path.write_bytes(b"PK\x03\x04 a pickle of old")
    with pytest.raises(CheckpointError, match="can't be read as safetensors"):
        load_weights(make(train, "id"), path, None)


def test_weights_without_our_header_are_judged_by_their_tensors(train: Any, tmp_path: Path) -> None:
    model, path = make(train, "id"), tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    load_weights(make(train, "id", seed=8), path, None)
