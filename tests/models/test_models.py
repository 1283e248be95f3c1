"""RecBole models with their item embedding replaced: what stays RecBole's to the bit, and what changes."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from worlds import SMALL, STOCK, built, read_log, store_for, vectors_for, with_small_times

from blair_rec.border.recbole_keys import model_keys
from blair_rec.border.settings import recbole_config
from blair_rec.config.comparison import read_config
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import CheckpointError, ConfigError
from blair_rec.experiment.fit import fit_variant
from blair_rec.experiment.splits.reading import training_data
from blair_rec.models.eligibility import Eligible, eligibility, recbole_models
from blair_rec.models.scorer import transform_report
from blair_rec.models.text_models import (
    count_parameters,
    item_embedding_name,
    item_side,
    model_class,
    with_text,
)
from blair_rec.models.transforms import pca
from blair_rec.ranking.scoring import rank
from blair_rec.registry import BUILT_IN
from blair_rec.training.checkpoint import load_weights, save_tensors, save_weights, saved_transforms
from blair_rec.training.epochs import recbole_batches, seed_everything

from recbole.data.dataset import SequentialDataset
from recbole.model.sequential_recommender import SASRec
from recbole.utils import get_flops

KINDS = ["id", "text", "text_init"]
MODELS = ["SASRec", "GRU4Rec", "NARM", "BERT4Rec"]
SMALL_ALL: dict[str, Any] = {
    **SMALL,
    "n_layers": 2,  # FEARec divides by n_layers - 1
    "embedding_size": 8,
    "prototype_size": 20,
    "reranker_CAN_NUM": 20,
    "selected_features": ["category"],
}
"""Settings that make any RecBole model small and suitable for datasets/tiny."""
ELIGIBLE = {name: found for name in recbole_models() if isinstance(found := eligibility(name), Eligible)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """datasets/tiny with times that float32 holds exactly."""
    tiny = Path(__file__).resolve().parents[2] / "datasets" / "tiny"
    return with_small_times(Path(shutil.copytree(tiny, tmp_path_factory.mktemp("models") / "tiny")))


@pytest.fixture(scope="module")
def store(folder: Path) -> Any:
    """A made-up vector for every item of it."""
    return store_for(folder.parent / "vectors", sorted({item for _, item, _ in read_log(folder)}))


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
@pytest.mark.parametrize("model", ["SASRec", "eSASRec", "GRU4Rec"])
def test_sharing_the_items_changes_no_score(train: Any, kind: str, model: str) -> None:
    built_model, batch = make(train, kind, model), train[torch.arange(50)]
    with torch.no_grad():
        alone = built_model.full_sort_predict(batch)
        with built_model.shared_items():
            assert torch.equal(built_model.full_sort_predict(batch), alone)


@pytest.mark.parametrize("name", ["SASRec", "eSASRec", "GRU4Rec"])
def test_scores_are_written_over_only_where_that_is_allowed_and_are_the_same(train: Any, name: str) -> None:
    model = make(train, "text", name)
    model.scores_packed = True
    # The second batch needs more memory than the first, the third one less.
    batches = [train[torch.arange(first, last)] for first, last in ((0, 9), (9, 40), (40, 52))]
    with torch.no_grad():
        apart = [model.full_sort_predict(batch) for batch in batches]
        assert len({scores.data_ptr() for scores in apart}) == 3
        with model.scores_overwritten():
            places = []
            for batch, scores in zip(batches, apart, strict=True):
                given = model.full_sort_predict(batch)
                assert torch.equal(given, scores)
                places.append(given.data_ptr())
            assert places[1] == places[2]
        again = [model.full_sort_predict(batch) for batch in batches]
    assert len({scores.data_ptr() for scores in again}) == 3 and all(map(torch.equal, again, apart))


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
    """A model with two item embeddings, like HGN."""

    def __init__(self) -> None:
        super().__init__()
        self.item_embedding, self.item_embedding_for_prediction = nn.Embedding(9, 2), nn.Embedding(9, 2)


class Nested(nn.Module):
    """A model with the item table in a submodule, next to other tables."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"item_table": nn.Embedding(10, 2), "user_table": nn.Embedding(99, 2)})
        self.item_category_embedding = nn.Embedding(3, 2)


class Alias(nn.Module):
    """A model with one table under two names, like GRU4RecCPR."""

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


# Which of RecBole's models can take item text


WHY_NOT = {
    "DIEN": "needs more than events and item features: RecBole reads its data with DIENDataset",
    "DIN": "scores one item at a time .*, so it can't rank a catalogue",
    "FPMC": r"has 3 item embeddings \(IU_emb, LI_emb, IL_emb\); exactly one can be replaced",
    "GRU4RecCPR": r"has 2 item embeddings \(item_embedding, out_item_embedding\)",  # one table under two names
    "GRU4RecKG": "needs more than events and item features: RecBole reads its data with GRU4RecKGDataset",
    "HGN": r"has 2 item embeddings \(item_embedding, item_embedding_for_prediction\)",
    "KSR": "needs more than events and item features: RecBole reads its data with KSRDataset",
    "NPE": r"has 2 item embeddings \(item_embedding, embedding_seq_item\)",
    "RepeatNet": r"learns more about each item than its vector \(explore_recommendation_decoder.*\), which text can't",
    "S3Rec": "is trained in several stages, by RecBole's S3RecTrainer",
}
NOT_IN_EVERY_RECBOLE = {"GRU4RecCPR", "SASRecCPR"}  # new in 1.2.1


def test_every_model_of_recbole_takes_item_text_or_there_is_a_reason() -> None:
    eligible = {
        "BERT4Rec", "CORE", "Caser", "FDSA", "FEARec", "FOSSIL", "GCSAN", "GRU4Rec", "GRU4RecF", "HRM", "LightSANs",
        "NARM", "NextItNet", "SASRec", "SASRecCPR", "SASRecF", "SHAN", "SINE", "SRGNN", "STAMP", "TransRec", "eSASRec",
    }  # fmt: skip
    assert set(ELIGIBLE) | NOT_IN_EVERY_RECBOLE >= eligible and set(ELIGIBLE) <= eligible
    assert set(recbole_models()) - set(ELIGIBLE) | NOT_IN_EVERY_RECBOLE >= set(WHY_NOT)
    assert {name for name, found in ELIGIBLE.items() if found.packed} == {"SASRec", "GRU4Rec", "eSASRec"}


@pytest.mark.parametrize("model", sorted(set(recbole_models()) - set(ELIGIBLE)))
def test_a_model_that_can_not_take_text_says_why_wherever_it_is_asked_for(train: Any, model: str) -> None:
    assert re.match(WHY_NOT[model], str(eligibility(model)))
    with pytest.raises(ConfigError, match=f"{model} can't take item text: it {WHY_NOT[model]}"):
        model_class(model)
    with pytest.raises(ConfigError, match=f"{model} can't take item text: it {WHY_NOT[model]}"):
        with_text(recbole_models()[model])(train.config, train)


@pytest.mark.parametrize("model", sorted(ELIGIBLE))
def test_a_model_that_can_take_text_trains_an_epoch_and_is_ranked(folder: Path, store: Any, model: str) -> None:
    """Train as in a comparison, and with RecBole's own losses; frozen vectors stay those of the store."""
    variants = {"id": {}, "text": {"items": "text"}, "text_init": {"items": "text_init"}}
    load_col = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]}
    known = set(model_keys(model)) | {"MAX_ITEM_LIST_LENGTH"}
    recbole = {key: value for key, value in SMALL_ALL.items() if key in known}
    config = read_config(
        {
            "dataset": str(folder),
            "text": {"fields": ["title"]},
            "model": model,
            "recbole": {**recbole, "load_col": load_col},
            "train": {"epochs": 1, "batch_size": 512, "learning_rate": 0.01},
            "variants": variants,
        }
    )
    data = training_data(config, folder)
    values = {}
    for name in variants:
        fitted = fit_variant(config, name, 1, data, None if name == "id" else store)
        assert np.isfinite(fitted.history[0].loss) and 0 <= fitted.best_value <= 1
        scores = rank(fitted.model, data.valid, 512, k=10)
        values[name] = scores.topk_unmasked.tolist()
        if name != "id":
            side: Any = item_side(fitted.model)
            assert not side.weight[0].any() and side.weight.isfinite().all()
    assert values["id"] != values["text"] != values["text_init"] != values["id"]
    table: Any = item_side(fitted.model).table  # of text_init
    started = pca(store.table([str(token) for token in data.item_tokens[1:]]).astype(np.float64), table.shape[1])
    assert not np.allclose(table.detach().numpy() / table.norm().item(), started / np.linalg.norm(started))


def test_trying_a_model_does_not_change_later_random_numbers() -> None:
    seed_everything(3)
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    seed_everything(3)
    for name in ("SINE", "CORE"):
        eligibility(name)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])  # noqa: NPY002


class SecondTable(SASRec):
    """A model that scores with another table than it reads."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.for_prediction = nn.Embedding(self.n_items, self.hidden_size)


class Deaf(SASRec):
    """A model that reads a history by its ids alone."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.code = nn.Embedding(7, self.hidden_size)

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        return self.code(item_seq % 7).sum(dim=1)


class Popular(SASRec):
    """A model whose scores don't depend on the item's vector."""

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        state = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return state.sum(1, keepdim=True) * torch.arange(self.n_items)


class Biased(SASRec):
    """A model with one more number for each item."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.popularity = nn.Parameter(torch.zeros(self.n_items))

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        scores: torch.Tensor = super().full_sort_predict(interaction) + self.popularity
        return scores


SASREC = {
    "n_layers": 1, "n_heads": 1, "hidden_size": 8, "inner_size": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5, "initializer_range": 0.02, "loss_type": "CE",
}  # fmt: skip


def test_a_class_of_ones_own_is_tried_in_the_same_way() -> None:
    assert eligibility(Biased, SASREC) == Eligible(packed=True, cold_items=False)
    assert eligibility(with_text(SASRec)) == eligibility("SASRec") == Eligible(packed=True, cold_items=True)
    assert "has 2 item embeddings (item_embedding, for_prediction)" in str(eligibility(SecondTable, SASREC))
    assert eligibility(Deaf, SASREC) == "reads a history by something other than its items' vectors"
    assert eligibility(Popular, SASREC) == "scores an item by something other than its vector"


@pytest.mark.parametrize(("model", "more"), [("Caser", ("user_id",)), ("NARM", ()), ("LightSANs", ())])
def test_fields_of_a_case_that_scores_read_besides_the_history_are_known(model: str, more: tuple[str, ...]) -> None:
    found = eligibility(model)
    assert isinstance(found, Eligible) and found.more == more


def test_features_that_the_data_set_lacks_are_named(folder: Path) -> None:
    load_col = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]}
    cls = model_class("SASRecF")
    config = recbole_config(cls, str(folder), {**SMALL, "load_col": load_col})
    with pytest.raises(ConfigError, match="SASRecF reads 'class' of each item, which the data set doesn't have; list"):
        cls(config, TextSequentialDataset(config).build()[0])


# Upstream's text models, from their equations, over the modules of the built model


def sasrec_states(model: Any, item_vectors: torch.Tensor, batch: Any) -> torch.Tensor:
    """[B, H]: SASRec's states for histories whose items have these vectors [N, H]."""
    sequences = batch["item_id_list"]
    x = model.LayerNorm(item_vectors[sequences] + model.position_embedding.weight)
    x = model.trm_encoder(x, model.get_attention_mask(sequences), output_all_encoded_layers=True)[-1]
    return model.gather_indexes(x, batch["item_length"] - 1)


def moved(train: Any, kind: str) -> Any:
    """A model whose parameters have all moved away from their initial values."""
    model = make(train, kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def test_sasrec_over_sasrec_text_is_upstreams_sasrectext(train: Any) -> None:
    """Upstream's padding is the adaptor's output for zeros, and ours is zero; no item's score depends on it."""
    model, batch = moved(train, "sasrec_text"), train[torch.arange(60)]
    side: Any = item_side(model)
    table = torch.from_numpy(train.item_vectors.table)  # row 0 is zero, as in upstream's plm_embedding
    adapted = torch.relu(table @ side.first.weight.T + side.first.bias) @ side.second.weight.T + side.second.bias
    assert adapted[0].any() and (batch["item_length"] < 6).any()
    with torch.no_grad():
        expected = sasrec_states(model, adapted, batch) @ adapted.T
        ours = model.full_sort_predict(batch)
    torch.testing.assert_close(ours[:, 1:], expected[:, 1:], rtol=1e-5, atol=1e-5)


def test_sasrec_over_unisrec_is_upstreams_unisrec_and_its_temperature_is_there_by_default(train: Any) -> None:
    model, batch = moved(train, "unisrec"), train[torch.arange(60)]
    side: Any = item_side(model)
    table = torch.from_numpy(train.item_vectors.table)
    gates = torch.softmax(table @ side.gate, dim=-1)
    experts = torch.stack([(table - b) @ w for b, w in zip(side.shift, side.projection, strict=True)], dim=-2)
    adapted = (gates.unsqueeze(-1) * experts).sum(dim=-2)
    with torch.no_grad():
        states = sasrec_states(model, adapted, batch)
        expected = torch.nn.functional.normalize(states, dim=1) @ torch.nn.functional.normalize(adapted, dim=1).T
        ours = model.full_sort_predict(batch)
    torch.testing.assert_close(ours[:, 1:] * 0.07, expected[:, 1:], rtol=1e-5, atol=1e-5)


def test_the_config_can_set_the_temperature_of_unisrec(train: Any) -> None:
    assert make(train, "unisrec").blair_temperature == 0.07
    assert make(train, "unisrec", blair_temperature=0.5).blair_temperature == 0.5
    assert make(train, "unisrec", blair_temperature=None).blair_temperature is None
    assert make(train, "unisrec", blair_loss="recbole").blair_temperature is None
    assert make(train, "text").blair_temperature is None


@pytest.mark.parametrize("kind", BUILT_IN["items"])
@pytest.mark.parametrize("model", ["SASRec", "CORE", "STAMP", "FEARec"])
def test_every_kind_of_item_side_fits_into_a_model(train: Any, kind: str, model: str) -> None:
    """CORE initialises every parameter again, also the padding; STAMP sums over the padding."""
    given = {"blair_temperature": None} if model != "SASRec" else {}
    built_model = make(train, kind, model, **{**SMALL_ALL, **given})
    side = item_side(built_model)
    if kind != "id":
        assert not side.weight[0].any()
        assert transform_report(built_model) == list(side.transforms.report)  # type: ignore[union-attr]
    else:
        assert transform_report(built_model) == []
    batch = train[torch.arange(20)]
    with torch.no_grad():
        scores = built_model.full_sort_predict(batch)
        with built_model.shared_items():
            torch.testing.assert_close(built_model.full_sort_predict(batch), scores)
    assert scores.isfinite().all()


# Items that come after training


COLD = ["SASRec", "eSASRec", "GRU4Rec", "CORE", "NARM", "STAMP", "NextItNet", "LightSANs"]


@pytest.mark.parametrize("model", COLD)
@pytest.mark.parametrize("kind", ["text", "text_delta", "unisrec"])
def test_an_appended_item_with_a_known_text_scores_and_reads_as_the_known_one(
    train: Any, model: str, kind: str
) -> None:
    built_model = make(train, kind, model, **{**SMALL_ALL, "blair_temperature": None, "blair_transforms": ["whiten"]})
    batch = train[torch.arange(40)]
    known = int(batch["item_id_list"][0, 0])
    with torch.no_grad():
        before = built_model.full_sort_predict(batch)
        built_model.append_items(train.item_vectors.table[[known, known]] + [[0.0], [1.0]])
        after = built_model.full_sort_predict(batch)
        assert after.shape == (40, train.item_num + 2)
        batch["item_id_list"] = torch.where(batch["item_id_list"] == known, train.item_num, batch["item_id_list"])
        again = built_model.full_sort_predict(batch)

    def apart(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).abs().max() / before.abs().max())  # STAMP's scores are of the size 1e-10 here

    assert apart(after[:, : train.item_num], before) < 1e-5, "scores of the other items"
    assert apart(after[:, train.item_num], before[:, known]) < 1e-5, "its own score"
    assert apart(again, after) < 1e-4, "the reading of histories that hold it"
    assert apart(after[:, train.item_num + 1], before[:, known]) > 1e-3, "another text"


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        ("SASRec", "id", "items: id learns items from their events"),
        ("SASRec", "text_init", "text_init trains a vector for each item"),
        ("SASRec", "id_text", "id_text also trains a vector for each item"),
        ("BERT4Rec", "text", "BERT4Rec keeps more about each item than its vector"),
    ],
)
def test_what_can_not_take_new_items_says_why(train: Any, model: str, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"came after training can't be scored: .*{message}"):
        make(train, kind, model).append_items(train.item_vectors.table[:2])


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
def test_a_class_that_is_not_a_sequential_model_is_refused(wrong: Any) -> None:
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


def test_weights_trained_on_text_need_the_store_with_the_same_hash(train: Any, tmp_path: Path) -> None:
    model, path = make(train, "text"), tmp_path / "model.safetensors"
    save_weights(model, path, "a" * 64)
    with pytest.raises(CheckpointError, match=f"vectors of store {'a' * 64}, .* but no store was given"):
        load_weights(model, path, None)
    with pytest.raises(CheckpointError, match=f"vectors of store {'a' * 64}, .* but the store given is {'b' * 64}"):
        load_weights(model, path, "b" * 64)


def test_weights_trained_on_text_with_other_transforms_are_refused(train: Any, tmp_path: Path) -> None:
    saved, path = make(train, "text", blair_transforms=[{"pca": 8}]), tmp_path / "model.safetensors"
    sha256 = train.item_vectors.store_sha256
    save_weights(saved, path, sha256)
    found = saved_transforms(path)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in item_side(saved).transforms.arrays.items()
    }
    other = make(train, "text", blair_transforms=[{"pca": 8}])
    load_weights(other, path, sha256)
    item_side(other).transforms.steps[0].arrays["matrix"][:, 3] *= -1
    with pytest.raises(CheckpointError, match=r"transformed differently from those of this model \(0.matrix\)"):
        load_weights(other, path, sha256)


def test_weights_of_another_model_are_refused(train: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(make(train, "id", "GRU4Rec"), path, None)
    with pytest.raises(CheckpointError, match="holds weights of another model"):
        load_weights(make(train, "id"), path, None)
    save_weights(make(train, "id", hidden_size=16), path, None)
    with pytest.raises(
        CheckpointError, match=r"or of other settings \(size mismatch .*\) and [0-9]+ more problems; give"
    ):
        load_weights(make(train, "id"), path, None)
    (tmp_path / "other.bin").write_bytes(b"RecBole's pickle")
    with pytest.raises(CheckpointError, match="other.bin can't be read .*; give a .safetensors file"):
        load_weights(make(train, "id"), tmp_path / "other.bin", None)


def test_weights_that_are_not_safetensors_are_refused(train: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="no saved weights there"):
        load_weights(make(train, "id"), path, None)
    path.write_bytes(b"PK\x03\x04 a pickle of old")
    with pytest.raises(
        CheckpointError, match="can't be read as safetensors .*; delete the folder .*, and make it again"
    ):
        load_weights(make(train, "id"), path, None)


def test_equal_tensors_and_metadata_are_equal_files_whatever_their_order(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3), "a": torch.arange(4), "c": torch.zeros(2, 2)}
    metadata = {"schema": "1", "model": 'é\u007f\u0001"\\/', "store": "", "training": '{"a": [1, 2.5, null]}'}
    names = [f"{number}.safetensors" for number in range(8)]
    for name in names:  # safetensors writes the metadata in a random order
        save_tensors(dict(reversed(tensors.items())), tmp_path / name, dict(reversed(metadata.items())))
    assert len({(tmp_path / name).read_bytes() for name in names}) == 1
    with safe_open(tmp_path / names[0], framework="pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_weights_without_our_header_are_judged_by_their_tensors(train: Any, tmp_path: Path) -> None:
    model, path = make(train, "id"), tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    load_weights(make(train, "id", seed=8), path, None)
