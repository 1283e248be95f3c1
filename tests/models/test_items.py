"""The item side of a model: every kind keeps the contract, and keeps its own promises, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blair_rec import registry
from blair_rec.config.variant import VariantConfig
from blair_rec.errors import ConfigError
from blair_rec.models.items import ItemSide, build_items
from blair_rec.models.items import sasrec_text as sasrec_text_module
from blair_rec.models.items import unisrec as unisrec_module
from blair_rec.models.items.id_text import IdTextItems
from blair_rec.models.items.sasrec_text import SASRecTextItems
from blair_rec.models.items.text import TextItems
from blair_rec.models.items.text_delta import TextDeltaItems
from blair_rec.models.items.text_init import TextInitItems
from blair_rec.models.items.unisrec import UniSRecItems
from blair_rec.models.transforms import apply_transforms, pca
from blair_rec.testing import ItemsContract
from blair_rec.testing.items import CATALOGUE, HIDDEN, TEXT_DIM, a_few_steps
from blair_rec.testing.items import replaced_embedding as replaced
from blair_rec.testing.items import text_vectors as vectors

KINDS = tuple(registry.BUILT_IN["items"])[1:]
"""All kinds except the model's own embedding."""

torch.set_num_threads(1)  # the tables are so small that two threads only wait for each other


def rms(rows: Tensor | np.ndarray) -> float:
    """Root of the mean square."""
    return float(torch.as_tensor(np.array(rows.tolist())).square().mean().sqrt())


def build(kind: str, n_extra: int = 0, std: float = 0.02, seed: int = 5, **variant: Any) -> Any:
    """An item side of this kind that replaces a model's own embedding."""
    return build_items(VariantConfig(items=kind, **variant), vectors(), replaced(n_extra, std), seed=seed)


class TestText(ItemsContract):
    kind = TextItems


class TestTextInit(ItemsContract):
    kind, frozen = TextInitItems, False


class TestTextDelta(ItemsContract):
    kind = TextDeltaItems


class TestTextDeltaFarAway(ItemsContract):
    kind, options = TextDeltaItems, {"max_delta": 3.0}


class TestSumOfBoth(ItemsContract):
    kind = IdTextItems


class TestConcatOfBoth(ItemsContract):
    kind, options = IdTextItems, {"fusion": "concat"}


class TestGateOfBoth(ItemsContract):
    kind, options = IdTextItems, {"fusion": "gate"}


class TestUniSRec(ItemsContract):
    kind = UniSRecItems


class TestSASRecText(ItemsContract):
    kind = SASRecTextItems


def test_every_kind_keeps_the_contract() -> None:
    kinds = {kind.kind for kind in ItemsContract.__subclasses__() if kind.__name__ != "Broken"}
    tested = {kind for kind in kinds if kind.__module__.startswith("blair_rec.")}  # other tests have kinds of their own
    assert tested == {registry.load("items", name) for name in KINDS}


class Sharing(TextItems):
    """Broken: all items have the first one's vector, and some of them twice that."""

    def rows(self, which: Tensor | None = None) -> Tensor:
        first = super().rows()[:1]
        return first.expand(self.num_embeddings - 1, -1) if which is None else 2 * first.expand(len(which), -1)


def test_a_broken_item_side_breaks_the_contract() -> None:
    class Broken(ItemsContract):
        kind = Sharing

        def built(self) -> list[Any]:
            return [self.build()]

    with pytest.raises(AssertionError):
        Broken().test_every_row_is_different()
    with pytest.raises(AssertionError):
        Broken().test_some_rows_are_the_same_as_in_all_rows()


COLD = pytest.mark.parametrize("kind", ["text", "text_delta", "unisrec", "sasrec_text"])


@COLD
def test_an_appended_item_gets_what_its_text_alone_gives_and_the_others_stay_as_they_were(kind: str) -> None:
    items = build(kind).eval()
    a_few_steps(items)
    if kind == "text_delta":
        items.delta.data[[3, 8]] = 0
    before = items.weight.detach().clone()
    items.append(vectors()[[4, 9]])  # the texts of two items of the catalogue
    assert items.num_embeddings == CATALOGUE + 2 == len(items.weight)
    assert torch.equal(items.weight[:CATALOGUE], before)
    torch.testing.assert_close(items.weight[CATALOGUE:], before[[4, 9]])
    torch.testing.assert_close(items(torch.tensor([[CATALOGUE, 4]]))[0], before[[4, 4]])


@COLD
def test_appended_items_go_through_the_transforms_as_the_catalogue_fitted_them(kind: str) -> None:
    items = build(kind, transforms=("center", {"pca": 5}, {"whiten": "pca"}, "l2")).eval()
    items.append(vectors()[1:])
    items.append(vectors()[1:3])
    torch.testing.assert_close(items.weight[CATALOGUE:-2], items.weight[1:CATALOGUE])
    torch.testing.assert_close(items.weight[-2:], items.weight[1:3])


def test_kinds_that_learn_items_from_events_and_models_with_special_rows_refuse_new_items() -> None:
    for kind in {*KINDS} - {"text", "text_delta", "unisrec", "sasrec_text"}:
        with pytest.raises(
            ConfigError, match=f"came after training can't be scored: items: {kind} .*a new item has none"
        ):
            build(kind).append(vectors()[[4]])
    with pytest.raises(ConfigError, match="came after training can't be scored: the model has special rows"):
        build("text", n_extra=1).append(vectors()[[4]])


@pytest.mark.parametrize("kind", KINDS)
def test_extra_rows_start_at_the_same_size_and_are_trained(kind: str) -> None:
    items = build(kind, n_extra=400)
    before = items.weight[CATALOGUE:].detach().clone()
    assert rms(before) == pytest.approx(rms(replaced(400).weight[1:]), rel=0.1)
    optimizer = torch.optim.SGD(items.parameters(), lr=1.0)
    items(torch.tensor([CATALOGUE])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(items.weight[CATALOGUE], before[0] - 1)
    torch.testing.assert_close(items.weight[CATALOGUE + 1 :], before[1:])


def test_text_init_starts_at_the_principal_components_all_on_one_scale() -> None:
    expected = pca(vectors()[1:].astype(np.float64), HIDDEN)
    expected *= rms(replaced().weight[1:]) / rms(expected)
    np.testing.assert_allclose(build("text_init").weight[1:].detach().numpy(), expected, rtol=1e-4, atol=1e-7)


def test_text_init_trains_the_table_and_nothing_else() -> None:
    assert [name for name, _ in build("text_init").named_parameters()] == ["table"]
    assert build("text_init").state_dict().keys() == {"table"}


def test_text_init_of_vectors_narrower_than_the_model_fills_up_with_zeros() -> None:
    narrow = vectors()[:, :3]
    items = build_items(VariantConfig(items="text_init"), narrow, replaced(), seed=0)
    assert items.weight.shape == (CATALOGUE, HIDDEN)
    assert (items.weight[1:, :3].abs().amax(dim=0) > 0).all() and not items.weight[:, 3:].any()


def test_transforms_come_before_anything_is_learned() -> None:
    expected = apply_transforms(vectors()[1:], ("center", "l2"))
    np.testing.assert_allclose(build("text", transforms=("center", "l2")).table.numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("kind", ["text_init", "text_delta"])
def test_whitening_comes_after_the_components_that_a_kind_keeps(kind: str) -> None:
    """After whitening all directions have the same variance, so rounding would decide which ones are kept."""
    items = build(kind, transforms=("center", "whiten"))
    own = ["l2"] if kind == "text_delta" else []
    assert [line["step"] for line in items.transforms.report] == ["center", f"pca: {HIDDEN}", "whiten", *own]
    expected = apply_transforms(vectors()[1:], ["center", {"pca": HIDDEN}, "whiten", *own])
    found = items.weight[1:].detach().double().numpy()
    np.testing.assert_allclose(found / found.std(), expected / expected.std(), atol=1e-5)


def test_the_padding_row_has_no_part_in_the_transforms() -> None:
    centred = build("text", transforms=("center",)).table
    np.testing.assert_allclose(centred.mean(dim=0).numpy(), 0, atol=1e-6)


def test_shuffle_gives_every_item_the_text_of_one_other() -> None:
    shuffled = build("text", control="shuffle").table.numpy()
    order = np.lexsort(shuffled.T), np.lexsort(vectors()[1:].T)
    np.testing.assert_array_equal(shuffled[order[0]], vectors()[1:][order[1]])
    assert (shuffled != vectors()[1:]).any(axis=1).mean() > 0.8


def test_random_has_the_size_of_the_text_vectors_and_nothing_else_of_them() -> None:
    table = np.random.default_rng(0).standard_normal((3000, TEXT_DIM)).astype(np.float32) * np.float32(4)
    items: Any = build_items(VariantConfig(items="text", control="random"), table, nn.Embedding(3000, HIDDEN), seed=0)
    assert rms(items.table) == pytest.approx(rms(table[1:]), rel=0.02)
    assert abs(np.corrcoef(items.table.numpy().ravel(), table[1:].ravel())[0, 1]) < 0.05


# text_delta: PCA content, and a delta that is shortened to its bound


def contents() -> np.ndarray:
    """[CATALOGUE - 1, HIDDEN] principal components, each item's at the length that gives the model's size."""
    rows = pca(vectors()[1:], HIDDEN)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * rms(replaced().weight[1:]) * HIDDEN**0.5)


def test_text_delta_starts_at_the_principal_components_all_of_one_length() -> None:
    np.testing.assert_allclose(build("text_delta").weight[1:].detach().numpy(), contents(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("max_delta", [None, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("learning_rate", [1e-4, 0.05, 100.0])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.Adagrad])
def test_text_delta_stays_within_its_bound_after_every_step_of_any_optimiser(
    max_delta: float | None, learning_rate: float, optimizer: Any
) -> None:
    items = build("text_delta", **({} if max_delta is None else {"max_delta": max_delta}))
    content = torch.from_numpy(contents()).float()
    bound = (max_delta or 0.5) * content.norm(dim=1)
    steps = optimizer(items.parameters(), lr=learning_rate)
    target, reached = torch.randn_like(items.weight) * 5, 0.0
    for _ in range(8):
        steps.zero_grad()
        (items.weight - target).square().sum().backward()
        steps.step()
        delta = (items.weight[1:] - content).detach().norm(dim=1)
        assert (delta <= bound * (1 + 1e-4)).all()
        reached = max(reached, float((delta / bound).max()))
    assert reached > (0.99 if learning_rate > 1 else 0)


def test_within_its_bound_the_delta_is_added_as_it_is_and_beyond_it_keeps_its_direction() -> None:
    items = build("text_delta", max_delta=0.5)
    content = items.weight[1].detach().clone()
    direction = torch.nn.functional.normalize(torch.randn(HIDDEN), dim=0)
    for length, expected in ((0.3, 0.3), (0.5, 0.5), (7.0, 0.5)):
        items.delta.data[0] = direction * content.norm() * length
        torch.testing.assert_close(items.weight[1] - content, direction * content.norm() * expected)


def test_an_item_without_content_starts_at_zero_and_has_its_delta() -> None:
    table = vectors()
    table[3] = np.delete(table[1:], 2, axis=0).mean(axis=0)  # what an item without text gets with missing_text: mean
    items: Any = build_items(VariantConfig(items="text_delta"), table, replaced(), seed=0)
    assert not items.weight[3].any()
    for learning_rate in (0.001, 10.0):
        a_few_steps(items, learning_rate)
        assert items.weight.isfinite().all() and 0 < items.weight[3].norm() <= 0.5001 * items.length


def test_with_one_text_for_all_items_only_the_deltas_are_left() -> None:
    items: Any = build_items(VariantConfig(items="text_delta"), np.ones((CATALOGUE, TEXT_DIM)), replaced(), seed=0)
    assert not items.weight.any()
    a_few_steps(items)
    assert items.weight.isfinite().all() and items.weight[1:].any(dim=1).all()


# id_text: the two halves, and how they are joined


def halves(items: Any) -> tuple[Tensor, Tensor]:
    return items.mlp(items.table), items.ids


def test_sum_concat_and_gate_compute_what_their_names_say() -> None:
    for fusion in ("sum", "concat", "gate"):
        items = build("id_text", fusion=fusion)
        a_few_steps(items)
        text, ids = halves(items)
        both = torch.cat([text, ids], dim=1)
        if fusion == "sum":
            expected = text + ids
        elif fusion == "concat":
            expected = text @ items.join.weight[:, :HIDDEN].T + ids @ items.join.weight[:, HIDDEN:].T
        else:
            gate = torch.sigmoid(both @ items.gate.weight.T + items.gate.bias)
            assert not torch.allclose(gate, torch.full_like(gate, 0.5)), "it has learnt something"
            expected = gate * text + (1 - gate) * ids
        torch.testing.assert_close(items.weight[1:], expected)


def test_id_text_is_a_sum_by_default() -> None:
    assert torch.equal(build("id_text").weight, build("id_text", fusion="sum").weight)


def test_the_ids_start_as_the_model_initialised_them_and_a_gate_half_open() -> None:
    for fusion in ("sum", "concat", "gate"):
        ids = build("id_text", fusion=fusion).ids.detach()
        own = replaced().weight[1:]
        torch.testing.assert_close(ids / ids.norm(), own / own.norm())
    items = build("id_text", fusion="gate")
    text, ids = halves(items)
    torch.testing.assert_close(items.weight[1:], (text + ids) / 2)


# unisrec: the mixture of experts of Hou et al., KDD 2022, from its equations


def filled_unisrec() -> Any:
    """Move every parameter away from its initial value."""
    items = build("unisrec")
    for parameter in items.parameters():
        parameter.data = torch.randn_like(parameter)
    return items.eval()


def gates_of(table: np.ndarray, items: Any, noise: np.ndarray) -> np.ndarray:
    """softmax(x W1 + delta), delta = noise * (softplus(x W2) + 0.01)."""
    gate, spread = (parameter.detach().double().numpy() for parameter in (items.gate, items.noise))
    logits = table @ gate + noise * (np.log1p(np.exp(table @ spread)) + 0.01)
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(share / share.sum(axis=1, keepdims=True))


def mixture(items: Any, noise: np.ndarray = np.zeros(8)) -> np.ndarray:  # noqa: B008
    """v = sum over k of g_k * (x - b_k) W_k, item by item and expert by expert."""
    table = vectors()[1:].astype(np.float64)
    shift, weight = (parameter.detach().double().numpy() for parameter in (items.shift, items.projection))
    gates = gates_of(table, items, noise)
    experts = range(len(shift))
    return np.array(
        [sum(g[k] * ((x - shift[k]) @ weight[k]) for k in experts) for g, x in zip(gates, table, strict=True)]
    )


def test_unisrec_is_the_published_mixture_of_eight_experts() -> None:
    items = filled_unisrec()
    assert items.projection.shape == (8, TEXT_DIM, HIDDEN)
    np.testing.assert_allclose(items.weight[1:].detach().numpy(), mixture(items), rtol=1e-5, atol=1e-5)


def test_in_training_the_gates_get_noise_as_wide_as_the_text_says(monkeypatch: pytest.MonkeyPatch) -> None:
    items = filled_unisrec().train()
    monkeypatch.setattr(unisrec_module, "DROPOUT", 0)
    noise = np.linspace(-30, 40, 8)  # one value per expert; a value shared by all would cancel out
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.from_numpy(noise).to(like).expand_as(like))
    for parameter in (items.gate, items.noise):
        parameter.data *= 0.1
    np.testing.assert_allclose(items.weight[1:].detach().numpy(), mixture(items, noise), rtol=1e-4, atol=1e-4)


def test_each_expert_drops_its_own_fifth_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[Tensor] = []
    items = filled_unisrec().train()
    draw = ItemSide._dropout

    def watched(self: ItemSide) -> Any:
        drop = draw(self)

        def keep(x: Tensor, probability: float) -> Tensor:
            dropped.append(drop(x, probability) == 0)
            return x

        return keep

    monkeypatch.setattr(type(items), "_dropout", watched)
    for _ in range(20):
        items.rows()
    masks = torch.stack(dropped)
    assert masks.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert len(masks) == 160 and len({tuple(mask.flatten().tolist()) for mask in masks}) == 160


def test_noise_and_dropout_leave_the_vectors_right_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    items = filled_unisrec()
    want = items.weight.detach()
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    items.train()
    draws = torch.stack([items.weight.detach() for _ in range(150)])
    assert (draws[0] != want).any()
    deviation = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - want).abs() <= 5 * deviation + 1e-6).all()


# sasrec_text: upstream's adaptor


def test_sasrec_text_is_linear_relu_linear_over_300_numbers() -> None:
    items = build("sasrec_text").eval()
    a_few_steps(items)
    first, second = (
        {"w": m.weight.detach().double().numpy(), "b": m.bias.detach().double().numpy()}
        for m in (items.first, items.second)
    )
    assert first["w"].shape == (300, TEXT_DIM)
    hidden = np.maximum(vectors()[1:].astype(np.float64) @ first["w"].T + first["b"], 0)
    expected = hidden @ second["w"].T + second["b"]
    np.testing.assert_allclose(items.weight[1:].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_sasrec_text_drops_a_fifth_before_both_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float]] = []
    items = build("sasrec_text").train()
    drop = lambda self: lambda x, p: asked.append((x.shape[1], p)) or x  # noqa: E731
    monkeypatch.setattr(type(items), "_dropout", drop)
    items.rows()
    assert asked == [(TEXT_DIM, 0.2), (300, 0.2)] and sasrec_text_module.WIDTH == 300


@pytest.mark.parametrize("kind", ["unisrec", "sasrec_text"])
def test_dropout_follows_the_seed_and_is_for_training_alone(kind: str) -> None:
    items = build(kind).train()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(items.weight.detach())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(items.eval().weight, items.weight)
