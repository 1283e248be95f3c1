"""The screened item sides are their formulas, keep the contract, and are screened on validation alone."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from comparisons import REPOSITORY, tiny_at
from worlds import read_log, store_for, vectors_for, with_other_last_items, write_log

from blair_rec.border.settings import recbole_config
from blair_rec.config.sections import TrainConfig
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.sequences import training_sequences as training_sequences_of
from blair_rec.errors import ConfigError
from blair_rec.models.items import ItemSide
from blair_rec.models.text_models import item_side, model_class
from blair_rec.registry import trusting
from blair_rec.testing import ItemsContract
from blair_rec.testing.items import CATALOGUE, HIDDEN, TEXT_DIM, a_few_steps, text_vectors, training_sequences
from blair_rec.training.epochs import build_training, recbole_batches
from blair_rec.training.trainer import TextTrainer

FOLDER = REPOSITORY / "benchmarks" / "screening"
sys.path.append(str(FOLDER))
try:
    import screen
    from alphafuse import AlphaFuse
    from frequency_gate import FrequencyGate
    from graph_components import GraphComponents
    from whitenrec_plus import WhitenRecPlus
finally:
    sys.path.remove(str(FOLDER))


class TestAlphaFuse(ItemsContract):
    kind, options = AlphaFuse, {"null_dim": 2}


class TestAlphaFuseAsItIs(ItemsContract):
    kind, options = AlphaFuse, {"null_dim": HIDDEN, "standardize": False}


class TestWhitenRecPlus(ItemsContract):
    kind, options = WhitenRecPlus, {"groups": 3}


class TestGraphComponents(ItemsContract):
    kind, options = GraphComponents, {"graph_weight": 0.7}


class TestFrequencyGate(ItemsContract):
    kind, options = FrequencyGate, {"gate": "scalar", "slope": 0.5}


class TestFrequencyGateOfEachDimension(ItemsContract):
    kind, options = FrequencyGate, {"gate": "dimension", "slope": 1.0}


def built(kind: type[ItemSide], **options: Any) -> Any:
    """An item side over the small example, which has read the training events and was trained a little."""
    maker: Any = type("Made", (ItemsContract,), {"kind": kind, "options": options})()
    items = maker.build()
    items.count(training_sequences())
    a_few_steps(items)
    return items.eval()


def rows_of(items: ItemSide) -> np.ndarray:
    return items.rows().detach().numpy().astype(np.float64)


def centred() -> np.ndarray:
    texts = text_vectors()[1:].astype(np.float64)
    return texts - texts.mean(axis=0)


def root_of_inverse(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def mlp(items: Any, x: np.ndarray) -> np.ndarray:
    first, _, second = items.mlp
    a, b = (layer.weight.detach().numpy().astype(np.float64) for layer in (first, second))
    return gelu(x @ a.T + first.bias.detach().numpy()) @ b.T + second.bias.detach().numpy()


@pytest.mark.parametrize("standardize", [True, False])
def test_alphafuse_adds_trained_numbers_to_the_last_principal_components_alone(standardize: bool) -> None:
    items, texts = built(AlphaFuse, null_dim=2, standardize=standardize), centred()
    values, vectors = np.linalg.eigh(texts.T @ texts / len(texts))
    components = texts @ vectors[:, ::-1][:, :HIDDEN]
    if standardize:
        components = components / np.sqrt(values[::-1][:HIDDEN])
    components *= items._start / np.sqrt(np.mean(components**2))
    found = rows_of(items)
    signs = np.sign((found * components).sum(axis=0))  # an eigenvector may point either way
    signs[-2:] = np.sign((items.table.numpy() * components).sum(axis=0))[-2:]
    np.testing.assert_allclose(found[:, :-2], (components * signs)[:, :-2], rtol=1e-4, atol=1e-7)
    ids = items.ids.detach().numpy()
    assert np.abs(ids).min() > 0
    np.testing.assert_allclose(found[:, -2:], (components * signs)[:, -2:] + ids, rtol=1e-4, atol=1e-6)


def test_whitenrec_plus_is_one_mlp_of_full_and_of_grouped_whitening() -> None:
    items, texts = built(WhitenRecPlus, groups=3), centred()
    full = texts @ root_of_inverse(texts.T @ texts / len(texts))
    blocks = [texts[:, at : at + TEXT_DIM // 3] for at in range(0, TEXT_DIM, TEXT_DIM // 3)]
    relaxed = np.hstack([block @ root_of_inverse(block.T @ block / len(texts)) for block in blocks])
    assert not np.allclose(full, relaxed)
    np.testing.assert_allclose(rows_of(items), mlp(items, full) + mlp(items, relaxed), rtol=1e-4, atol=1e-6)


def pairs_of_neighbours() -> list[tuple[int, int]]:
    log = training_sequences()
    sequences = [log.items[begin:end].tolist() for begin, end in zip(log.offsets[:-1], log.offsets[1:], strict=True)]
    return [(a, b) for items in sequences for a, b in zip(items[:-1], items[1:], strict=True) if a != b]


@pytest.mark.parametrize("weight", [0.0, 0.7, 3.0])
def test_graph_components_keep_the_variance_that_neighbours_share(weight: float) -> None:
    items, texts, pairs = built(GraphComponents, graph_weight=weight, max_delta=0.5), centred(), pairs_of_neighbours()
    apart = sum(np.outer(texts[a - 1] - texts[b - 1], texts[a - 1] - texts[b - 1]) for a, b in pairs)
    _, vectors = np.linalg.eigh(texts.T @ texts / len(texts) - weight * apart / (2 * len(pairs)))
    chosen, found = vectors[:, ::-1][:, :HIDDEN], items.directions.numpy()
    np.testing.assert_allclose(np.abs((chosen * found).sum(axis=0)), 1, rtol=1e-4)
    content = texts @ found
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    delta, length = items.delta.detach().numpy().astype(np.float64), float(items.length)
    size = np.linalg.norm(delta, axis=1, keepdims=True)
    assert (size > 0.5 * length).any()
    delta *= np.minimum(1, 0.5 * length / size)
    np.testing.assert_allclose(rows_of(items), length * content + delta, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gate", ["scalar", "dimension"])
def test_the_gate_follows_the_frequency_in_training(gate: str) -> None:
    items, texts = built(FrequencyGate, gate=gate, slope=1.0), text_vectors()[1:].astype(np.float64)
    events = training_sequences().items.tolist()
    logs = np.log([1 + events.count(item) for item in range(1, CATALOGUE)])
    slope, shift = (one.detach().numpy().astype(np.float64) for one in (items.slope, items.shift))
    assert slope.shape == ((1,) if gate == "scalar" else (HIDDEN,))
    share = 1 / (1 + np.exp(-(slope * (logs - logs.mean())[:, None] + shift)))
    expected = share * items.ids.detach().numpy() + (1 - share) * mlp(items, texts)
    np.testing.assert_allclose(rows_of(items), expected, rtol=1e-4, atol=1e-6)
    often, never = int(np.argmax(logs)), CATALOGUE - 2
    assert logs[never] == 0 and share[often].mean() > share[never].mean()


def test_a_new_item_of_the_gate_counts_as_never_seen() -> None:
    items, texts = built(FrequencyGate, slope=1.0), text_vectors()
    items.append(texts[[4]])
    never = items.frequency[CATALOGUE - 2]  # the last item doesn't occur in training
    assert items.frequency[-1] == never
    share = torch.sigmoid(items.slope * never + items.shift)
    text = torch.from_numpy(mlp(items, texts[[4]].astype(np.float64))).float()
    torch.testing.assert_close(items.weight[-1:], (1 - share) * text, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (AlphaFuse, {"null_dim": HIDDEN + 1}, f"null_dim is {HIDDEN + 1}; expected a number from 1 to"),
        (WhitenRecPlus, {"groups": 1}, "groups is 1; expected a number from 2 to"),
        (FrequencyGate, {"gate": "both"}, "gate is 'both'; expected scalar or dimension"),
    ],
)
def test_options_out_of_range_are_refused(kind: type[ItemSide], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(kind, **options)


@pytest.mark.parametrize("way", ["every position", "recbole's loss", "recbole's trainer", "recbole's trainer and loss"])
def test_an_item_side_reads_the_training_events_alone_however_it_is_trained(way: str, tmp_path: Path) -> None:
    tiny, loss = tiny_at(tmp_path), "recbole" if "loss" in way else "full_softmax"
    named = f"{FrequencyGate.__module__}:{FrequencyGate.__name__}"
    given = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "blair_items": named, "blair_loss": loss}
    cls = model_class("SASRec")
    config = recbole_config(cls, str(tiny), {**given, "blair_text_fields": ["title"]})
    split, _, _ = TextSequentialDataset(config).build()
    split.item_vectors = vectors_for(split.item_num)
    with trusting([named]):
        if "trainer" in way:
            loader = recbole_batches(config, split)
            model = cls(config, split)
            TextTrainer(config, model)._prepare(loader)
        else:
            model, _ = build_training(cls, config, split, training_sequences_of(split), TrainConfig(loss=loss), seed=1)

    histories: dict[str, list[tuple[int, str]]] = {}
    for user, item, time in read_log(tiny):
        histories.setdefault(user, []).append((time, item))
    kept = [item for events in histories.values() for _, item in sorted(events)[:-2]]  # without validation and test
    logs = np.log([1 + kept.count(str(token)) for token in split.field2id_token[split.iid_field][1:]])
    np.testing.assert_allclose(item_side(model).frequency.numpy(), logs - logs.mean(), rtol=1e-5, atol=1e-6)


def test_every_method_has_six_different_settings_and_the_first_of_id_are_those_of_the_config() -> None:
    for settings in screen.METHODS.values():
        assert len({json.dumps(one, sort_keys=True) for one in settings}) == len(settings) == 6
    plan = screen.comparison("d", "s", {"id": screen.METHODS["id"][0]}, "id", 50, screen.BASE)
    base = yaml.safe_load(screen.BASE.read_text("utf-8"))
    assert {name: plan[name] for name in screen.SHARED} == {name: base[name] for name in screen.SHARED}


def test_the_settings_of_id_do_not_reach_the_other_methods() -> None:
    variants = {"id": screen.METHODS["id"][5], "text_delta": screen.METHODS["text_delta"][0]}
    plan = screen.comparison("d", "s", variants, "id", 50, screen.BASE)
    assert plan["train"]["temperature"] is None and plan["recbole"]["attn_dropout_prob"] == 0.5
    assert plan["variants"]["id"] == {"items": "id"}
    other = plan["variants"]["text_delta"]
    assert other["train"] == {"temperature": 0.07} and other["recbole"] == {"attn_dropout_prob": 0.2}


SMALL = (
    "recbole={hidden_size: 8, inner_size: 8, n_layers: 1, n_heads: 1, MAX_ITEM_LIST_LENGTH: 10, attn_dropout_prob: 0.2}"
)


@pytest.fixture
def _small_methods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two settings of each method, of the width 8, and records that go elsewhere."""
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(importlib.import_module("side_by_side"), "RESULTS", tmp_path / "results")
    methods = {name: [json.loads(json.dumps(one)) for one in both[:2]] for name, both in screen.METHODS.items()}
    for number, one in enumerate(methods["alphafuse"]):
        one["options"]["null_dim"] = 3 + number
    monkeypatch.setattr(screen, "METHODS", methods)


def run_screening(dataset: Path, store: Path, out: Path) -> dict[str, Any]:
    given = ["--dataset", str(dataset), "--store", str(store), "-o", str(out), "--set", SMALL]
    screen.main([*given, "--screen-epochs", "1", "--epochs", "2"])
    found: dict[str, Any] = json.loads((out.parent / "results" / "screening-tiny.json").read_text("utf-8"))
    return found


@pytest.mark.usefixtures("_small_methods")
def test_a_screening_resumes_and_reads_no_test_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny, out = tiny_at(tmp_path), tmp_path / "out"
    log = read_log(tiny)
    store_for(tmp_path / "store", sorted({str(event[1]) for event in log}), text_dim=16)
    first = run_screening(tiny, tmp_path / "store", out)
    assert set(first["runs"]) == {*screen.METHODS}
    for method, of in first["runs"].items():
        values = [one["valid"] for one in of["settings"]]
        assert len(values) == 2 and of["best"] == values.index(max(values)) + 1, method
        assert 0 <= of["trained_to_the_end"]["valid"] <= 1 and of["trained_to_the_end"]["best_epoch"] in (1, 2)
    page = (tmp_path / "results" / "screening-tiny.md").read_text("utf-8")
    assert page.startswith("# Screening of item sides on tiny") and "commit" in page
    assert all(f"| {method} |" in page for method in screen.METHODS)

    trials = [(out / step / "trials.jsonl").read_text("utf-8") for step in ("screen", "final")]
    assert [len(lines.splitlines()) for lines in trials] == [12, 6]
    capsys.readouterr()
    again = run_screening(tiny, tmp_path / "store", out)
    assert again["runs"] == first["runs"] and " s\n" not in capsys.readouterr().out.partition("#")[0]

    # Other test cases, all else equal: the same results.
    shutil.rmtree(tiny)
    write_log(tiny, with_other_last_items(log))
    other = run_screening(tiny, tmp_path / "store", tmp_path / "other")
    for method, of in other["runs"].items():
        for one, two in zip(of["settings"], first["runs"][method]["settings"], strict=True):
            assert one["valid"] == two["valid"], method
