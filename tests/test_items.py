"""The item side of a model: one contract for every kind, and what each kind promises beyond it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blair_rec.errors import ConfigError
from blair_rec.recommend.items import Items, TextInitItems, TextItems, build_items
from blair_rec.recommend.transforms import apply_transforms, pca

CATALOGUE = 31  # item ids with the padding
TEXT_DIM = 12
HIDDEN = 6


def vectors(catalogue: int = CATALOGUE) -> np.ndarray:
    """[catalogue, TEXT_DIM] float32; row 0 is the padding."""
    table = np.random.default_rng(3).standard_normal((catalogue, TEXT_DIM)).astype(np.float32) + np.float32(1)
    table[0] = 0
    return table


def replaced(n_extra: int = 0, std: float = 0.02) -> nn.Embedding:
    """The embedding that a model made for itself."""
    torch.manual_seed(1)
    embedding = nn.Embedding(CATALOGUE + n_extra, HIDDEN, padding_idx=0)
    embedding.weight.data.normal_(0, std)
    embedding.weight.data[0] = 0
    return embedding


def rms(rows: Tensor | np.ndarray) -> float:
    """Root of the mean square."""
    return float(torch.as_tensor(np.array(rows.tolist())).square().mean().sqrt())


def build(kind: str, n_extra: int = 0, std: float = 0.02, **given: Any) -> Items:
    """The item side of this kind in the place of a model's own embedding."""
    transforms, control, seed = given.get("transforms", ()), given.get("control"), given.get("seed", 5)
    return build_items(kind, vectors(), transforms, control, replaced(n_extra, std), seed=seed)


def a_few_steps(items: Items) -> None:
    """Adam on a loss that every row but the padding's takes part in."""
    optimizer = torch.optim.Adam(items.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        (items(torch.arange(items.num_embeddings)) - 1).square().mean().backward()
        optimizer.step()


class ItemsContract:
    """What stands where nn.Embedding stood behaves as it did; a kind inherits these tests."""

    kind: str
    n_extra = 0

    @pytest.fixture
    def items(self) -> Items:
        return build(self.kind, self.n_extra).eval()

    def test_forward_agrees_with_weight(self, items: Items) -> None:
        a_few_steps(items)
        ids = torch.randint(0, items.num_embeddings, (4, 3, 5))
        assert torch.equal(items(ids), items.weight[ids])

    def test_shapes_are_those_of_the_embedding(self, items: Items) -> None:
        before = replaced(self.n_extra)
        assert items.weight.shape == before.weight.shape and items.weight.dtype == torch.float32
        assert items(torch.zeros(2, 7, dtype=torch.int64)).shape == (2, 7, HIDDEN)
        assert items.num_embeddings == before.num_embeddings
        assert items.embedding_dim == before.embedding_dim
        assert items.padding_idx == before.padding_idx

    def test_the_padding_is_zero_and_stays_zero(self, items: Items) -> None:
        for _ in range(2):
            assert not items.weight[0].any() and not items(torch.tensor([0, 3]))[0].any()
            a_few_steps(items)

    def test_the_padding_gets_no_gradient(self, items: Items) -> None:
        items(torch.zeros(5, dtype=torch.int64)).sum().backward()
        items.weight[0].sum().backward()
        for parameter in items.parameters():
            assert parameter.grad is None or not parameter.grad.any()

    def test_it_starts_at_the_size_of_the_embedding_it_replaces(self) -> None:
        for std in (0.02, 0.7):
            items = build(self.kind, self.n_extra, std)
            want = rms(replaced(self.n_extra, std).weight[1:])
            assert rms(items.weight[1:CATALOGUE]) == pytest.approx(want, rel=1e-4)

    def test_every_row_is_another(self, items: Items) -> None:
        assert torch.pdist(items.weight).min() > 0

    def test_training_moves_every_row_but_the_padding(self, items: Items) -> None:
        before = items.weight.detach().clone()
        a_few_steps(items)
        moved = (items.weight.detach() != before).any(dim=1)
        assert moved.tolist() == [False] + [True] * (items.num_embeddings - 1)

    def test_shared_gives_the_same_values(self, items: Items) -> None:
        ids = torch.tensor([[1, 0], [30, 2]])
        alone = items.weight.detach().clone(), items(ids).detach().clone()
        with items.shared():
            assert torch.equal(items.weight, alone[0]) and torch.equal(items(ids), alone[1])

    def test_shared_gives_the_same_gradients(self, items: Items) -> None:
        other = copy.deepcopy(items)
        ids = torch.tensor([1, 2, 2])
        (items(ids).square().sum() + items.weight.exp().sum()).backward()
        with other.shared():
            (other(ids).square().sum() + other.weight.exp().sum()).backward()
        for (name, alone), shared in zip(items.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(shared.grad, alone.grad, msg=name)

    def test_shared_computes_the_rows_once(self, items: Items, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        rows = items.rows
        monkeypatch.setattr(items, "rows", lambda: calls.append(1) or rows())
        with items.shared():
            items(torch.tensor([1]))
            items(torch.tensor([2]))
            _ = items.weight
        assert len(calls) == 1

    def test_nothing_old_is_left_after_shared(self, items: Items) -> None:
        with items.shared():
            a = items.weight
        a_few_steps(items)
        assert not torch.equal(items.weight, a)

    def test_nothing_old_is_left_after_an_error(self, items: Items) -> None:
        before = items.weight
        with pytest.raises(IndexError, match="out of range"), items.shared():
            items(torch.tensor([items.num_embeddings]))
        a_few_steps(items)
        assert not torch.equal(items.weight, before)

    def test_it_survives_a_deep_copy_and_its_own_state(self, items: Items) -> None:
        a_few_steps(items)
        other = build(self.kind, self.n_extra).eval()
        assert not torch.equal(other.weight, items.weight)
        other.load_state_dict(items.state_dict())
        assert torch.equal(other.weight, items.weight)
        assert torch.equal(copy.deepcopy(items).weight, items.weight)

    def test_the_same_seed_gives_the_same_control_and_another_seed_another(self) -> None:
        for control in ("shuffle", "random"):
            first, again, other = (self.text_of(build(self.kind, control=control, seed=seed)) for seed in (5, 5, 6))
            assert torch.equal(first, again)
            assert not torch.allclose(first, other)

    def test_a_control_is_not_the_text(self) -> None:
        for control in ("shuffle", "random"):
            assert not torch.allclose(self.text_of(build(self.kind, control=control)), self.text_of(build(self.kind)))

    def text_of(self, items: Any) -> Tensor:
        """The table that came from the text."""
        table: Tensor = items.table.detach()
        return table


class TestTextItems(ItemsContract):
    kind = "text"


class TestTextItemsWithExtraRows(ItemsContract):
    kind = "text"
    n_extra = 2


class TestTextInitItems(ItemsContract):
    kind = "text_init"


class TestTextInitItemsWithExtraRows(ItemsContract):
    kind = "text_init"
    n_extra = 2


@pytest.mark.parametrize("kind", ["text", "text_init"])
def test_extra_rows_start_at_the_same_size_and_are_trained(kind: str) -> None:
    items = build(kind, n_extra=400)
    before = items.weight[CATALOGUE:].detach().clone()
    assert rms(before) == pytest.approx(rms(replaced(400).weight[1:]), rel=0.1)
    optimizer = torch.optim.SGD(items.parameters(), lr=1.0)
    items(torch.tensor([CATALOGUE])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(items.weight[CATALOGUE], before[0] - 1)
    torch.testing.assert_close(items.weight[CATALOGUE + 1 :], before[1:])


def test_text_keeps_the_vectors_as_they_came_whatever_is_trained() -> None:
    items = build("text")
    assert torch.equal(items.table, torch.from_numpy(vectors()[1:]))
    a_few_steps(items)
    assert torch.equal(items.table, torch.from_numpy(vectors()[1:]))


def test_text_does_not_carry_the_frozen_table_in_its_state() -> None:
    items = build("text")
    assert all(CATALOGUE - 1 not in tensor.shape for tensor in items.state_dict().values())
    assert "table" not in items.state_dict()


def test_text_init_starts_at_the_principal_components_all_on_one_scale() -> None:
    expected = pca(vectors()[1:].astype(np.float64), HIDDEN)
    expected *= rms(replaced().weight[1:]) / rms(expected)
    np.testing.assert_allclose(build("text_init").weight[1:].detach().numpy(), expected, rtol=1e-4, atol=1e-7)


def test_text_init_trains_the_table_and_nothing_else() -> None:
    assert [name for name, _ in build("text_init").named_parameters()] == ["table"]
    assert build("text_init").state_dict().keys() == {"table"}


def test_text_init_of_vectors_narrower_than_the_model_fills_up_with_zeros() -> None:
    narrow = vectors()[:, :3]
    items = build_items("text_init", narrow, (), None, replaced(), seed=0)
    assert items.weight.shape == (CATALOGUE, HIDDEN)
    assert (items.weight[1:, :3].abs().amax(dim=0) > 0).all() and not items.weight[:, 3:].any()


def test_transforms_come_before_anything_is_learned() -> None:
    expected = apply_transforms(vectors()[1:], ("center", "l2"))
    np.testing.assert_allclose(build("text", transforms=("center", "l2")).table.numpy(), expected, atol=1e-7)


def test_the_padding_row_has_no_part_in_the_transforms() -> None:
    centred = build("text", transforms=("center",)).table
    np.testing.assert_allclose(centred.mean(dim=0).numpy(), 0, atol=1e-6)


def test_shuffle_gives_every_item_the_text_of_one_other() -> None:
    shuffled = build("text", control="shuffle").table.numpy()
    order = np.lexsort(shuffled.T), np.lexsort(vectors()[1:].T)
    np.testing.assert_array_equal(shuffled[order[0]], vectors()[1:][order[1]])
    assert (shuffled != vectors()[1:]).any(axis=1).mean() > 0.8


def test_random_has_the_size_of_the_text_and_nothing_else_of_it() -> None:
    table = np.random.default_rng(0).standard_normal((3000, TEXT_DIM)).astype(np.float32) * np.float32(4)
    items: Any = build_items("text", table, (), "random", nn.Embedding(3000, HIDDEN), seed=0)
    assert rms(items.table) == pytest.approx(rms(table[1:]), rel=0.02)
    assert abs(np.corrcoef(items.table.numpy().ravel(), table[1:].ravel())[0, 1]) < 0.05


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match="items is 'texts'; known: id, text, text_init"):
        build("texts")


def test_the_classes_are_those_the_config_names() -> None:
    assert isinstance(build("text"), TextItems) and isinstance(build("text_init"), TextInitItems)
