"""The contract of item sides, as a test class to inherit.

Shapes: N item ids with the padding row 0, C of them in the catalogue, H hidden_size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError
from blair_rec.models.items.base import ItemSide, rms
from blair_rec.models.items.build import build_side
from blair_rec.models.transforms import apply_transforms

CATALOGUE, TEXT_DIM, HIDDEN = 31, 12, 6
"""C, E and H of the small example on which contracts are tested."""


def text_vectors(catalogue: int = CATALOGUE) -> np.ndarray:
    """Return text vectors [catalogue, TEXT_DIM] float32 with a mean far from 0; row 0 is the padding."""
    table = np.random.default_rng(3).standard_normal((catalogue, TEXT_DIM)).astype(np.float32) + np.float32(1)
    table[0] = 0
    return table


def replaced_embedding(n_extra: int = 0, std: float = 0.02) -> nn.Embedding:
    """Return an embedding [C + n_extra, H] as a model initialises it."""
    torch.manual_seed(1)
    embedding = nn.Embedding(CATALOGUE + n_extra, HIDDEN, padding_idx=0)
    embedding.weight.data.normal_(0, std)
    embedding.weight.data[0] = 0
    return embedding


def training_sequences() -> TrainingSequences:
    """Return a training split of 40 histories of 2 to 9 events; every item but the last one occurs."""
    generator = np.random.default_rng(8)
    lengths = generator.integers(2, 10, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = generator.integers(1, CATALOGUE - 1, offsets[-1])
    is_target = np.ones(len(items), dtype=np.bool_)
    is_target[offsets[:-1]] = False
    return TrainingSequences(items, offsets, is_target)


def a_few_steps(items: ItemSide, learning_rate: float = 0.05) -> None:
    """Train five steps with Adam, on a loss that depends on every row but the padding."""
    optimizer = torch.optim.Adam(items.parameters(), lr=learning_rate)
    for _ in range(5):
        optimizer.zero_grad()
        (items(torch.arange(items.num_embeddings)) - 1).square().mean().backward()
        optimizer.step()


class ItemsContract:
    """Checks that an item side behaves like the nn.Embedding that it replaces, whatever the kind.

    Set `kind`, and `options` if the constructor takes some. Set `frozen` to False for a kind that trains the text
    vectors themselves. Most tests run twice: without extra rows (such as BERT4Rec's mask token), and with two.
    """

    kind: ClassVar[type[ItemSide]]
    options: ClassVar[Mapping[str, Any]] = {}
    frozen: ClassVar[bool] = True

    def build(self, n_extra: int = 0, std: float = 0.02, seed: int = 5, **how: Any) -> Any:
        """Build the item side in eval mode; `how` takes transforms and control."""
        embedding = replaced_embedding(n_extra, std)
        return build_side(self.kind, self.options, text_vectors(), embedding, seed=seed, **how).eval()

    def built(self) -> list[Any]:
        """Build it without extra rows, and with two."""
        return [self.build(n_extra) for n_extra in (0, 2)]

    def test_forward_agrees_with_weight(self) -> None:
        """In eval mode forward(ids) == weight[ids]."""
        for items in self.built():
            a_few_steps(items)
            ids = torch.randint(0, items.num_embeddings, (4, 3, 5))
            assert torch.equal(items(ids), items.weight[ids])

    def test_some_rows_are_the_same_as_in_all_rows(self) -> None:
        """rows(which) == rows()[which], up to rounding."""
        for items in self.built():
            a_few_steps(items)
            which = torch.tensor([7, 0, 29])
            torch.testing.assert_close(items.rows(which), items.rows()[which])

    def test_shapes_are_those_of_the_embedding(self) -> None:
        """[N, H] float32, and the names of nn.Embedding."""
        for n_extra, items in zip((0, 2), self.built(), strict=True):
            before = replaced_embedding(n_extra)
            assert items.weight.shape == before.weight.shape and items.weight.dtype == torch.float32
            assert items(torch.zeros(2, 7, dtype=torch.int64)).shape == (2, 7, HIDDEN)
            assert items.num_embeddings == before.num_embeddings
            assert items.embedding_dim == before.embedding_dim
            assert items.padding_idx == before.padding_idx

    def test_the_padding_is_zero_and_stays_zero(self) -> None:
        """Before and after training."""
        for items in self.built():
            for _ in range(2):
                assert not items.weight[0].any() and not items(torch.tensor([0, 3]))[0].any()
                a_few_steps(items)

    def test_the_padding_gets_no_gradient(self) -> None:
        """No parameter moves because of it."""
        for items in self.built():
            for row in (items(torch.zeros(5, dtype=torch.int64)), items.weight[0]):
                if row.requires_grad:
                    row.sum().backward()
            for parameter in items.parameters():
                assert parameter.grad is None or not parameter.grad.any()

    def test_it_starts_at_the_size_of_the_embedding_it_replaces(self) -> None:
        """The items' rows have the root mean square of the embedding's rows."""
        for n_extra in (0, 2):
            for std in (0.02, 0.7):
                items, want = self.build(n_extra, std), rms(replaced_embedding(n_extra, std).weight[1:])
                torch.testing.assert_close(rms(items.weight[1:CATALOGUE]), want, rtol=1e-4, atol=0)

    def test_every_row_is_different(self) -> None:
        """Different texts have different vectors."""
        for items in self.built():
            assert torch.pdist(items.weight).min() > 0

    def test_training_moves_every_row_but_the_padding(self) -> None:
        """Training changes every item's vector."""
        for items in self.built():
            before = items.weight.detach().clone()
            a_few_steps(items)
            moved = (items.weight.detach() != before).any(dim=1)
            assert moved.tolist() == [False] + [True] * (items.num_embeddings - 1)

    def test_shared_gives_the_same_values(self) -> None:
        """A table that is computed once has the same rows."""
        for items in self.built():
            ids = torch.tensor([[1, 0], [30, 2]])
            alone = items.weight.detach().clone(), items(ids).detach().clone()
            with items.shared():
                assert torch.equal(items.weight, alone[0]) and torch.equal(items(ids), alone[1])

    def test_shared_gives_the_same_gradients(self) -> None:
        """A table that is computed once gives the same gradients."""
        for items in self.built():
            other, ids = copy.deepcopy(items), torch.tensor([1, 2, 2])
            (items(ids).square().sum() + items.weight.exp().sum()).backward()
            with other.shared():
                (other(ids).square().sum() + other.weight.exp().sum()).backward()
            for (name, alone), shared in zip(items.named_parameters(), other.parameters(), strict=True):
                torch.testing.assert_close(shared.grad, alone.grad, msg=name)

    def test_shared_computes_the_rows_once(self) -> None:
        """`rows` is called once, however many look-ups there are."""
        for items in self.built():
            calls: list[int] = []
            rows = items.rows
            items.rows = lambda *which, calls=calls, rows=rows: calls.append(1) or rows(*which)
            with items.shared():
                items(torch.tensor([1]))
                items(torch.tensor([2]))
                _ = items.weight
            assert len(calls) == 1

    def test_shared_of_some_ids_gives_no_other_items_vector(self) -> None:
        """Another id raises an IndexError; with extra rows, the whole table is shared."""
        for items in self.built():
            for other in (1, 5, 29):
                ids = torch.tensor([2, other])
                alone, refused = items(ids), False
                with items.shared(torch.tensor([7, 2])):
                    try:
                        torch.testing.assert_close(items(ids), alone)
                    except IndexError:
                        refused = True
                assert refused == (items.extra is None)

    def test_shared_of_some_ids_gives_their_values(self) -> None:
        """A table of a few rows has the right vectors."""
        for items in self.built():
            a_few_steps(items)
            ids = torch.tensor([[7, 0], [30, 2]])
            alone = items(ids)
            with items.shared(ids):
                torch.testing.assert_close(items(ids), alone)
                torch.testing.assert_close(items(torch.tensor([2, 2])), alone[1, [1, 1]])

    def test_shared_of_some_ids_gives_the_same_gradients(self) -> None:
        """With whole and with sparse gradients."""
        for items in self.built():
            ids = torch.tensor([1, 2, 2, 0])
            for sparse in (False, True):
                items.zero_grad(set_to_none=True)
                other = copy.deepcopy(items)
                other.sparse = sparse
                items(ids).sin().sum().backward()
                with other.shared(ids):
                    other(ids).sin().sum().backward()
                for (name, alone), some in zip(items.named_parameters(), other.parameters(), strict=True):
                    if alone.grad is None:  # such as parameters of noise, which only training uses
                        assert some.grad is None
                        continue
                    gradient = some.grad.to_dense() if some.grad.is_sparse else some.grad
                    torch.testing.assert_close(gradient, alone.grad, msg=name)

    def test_nothing_old_is_left_after_shared(self) -> None:
        """After the block and a training step, the table is computed again."""
        for items in self.built():
            with items.shared():
                before = items.weight
            a_few_steps(items)
            assert not torch.equal(items.weight, before)

    def test_nothing_old_is_left_after_an_error(self) -> None:
        """The same holds after a look-up that failed."""
        for items in self.built():
            before, failed = items.weight, False
            try:
                with items.shared():
                    items(torch.tensor([items.num_embeddings]))
            except IndexError:
                failed = True
            a_few_steps(items)
            assert failed and not torch.equal(items.weight, before)

    def test_it_survives_a_deep_copy_and_its_own_state(self) -> None:
        """Its state_dict and the text restore it, whatever embedding it replaced."""
        for n_extra, items in zip((0, 2), self.built(), strict=True):
            a_few_steps(items)
            for std in (0.02, 0.9):
                other = self.build(n_extra, std)
                assert not torch.equal(other.weight, items.weight)
                other.load_state_dict(items.state_dict())
                assert torch.equal(other.weight, items.weight)
            assert torch.equal(copy.deepcopy(items).weight, items.weight)

    def test_what_it_counts_is_in_its_state(self) -> None:
        """A trained model is loaded without events. A kind that counts nothing stays as it was."""
        for n_extra, items in zip((0, 2), self.built(), strict=True):
            items.count(training_sequences())
            a_few_steps(items)
            other = self.build(n_extra)
            other.load_state_dict(items.state_dict())
            assert torch.equal(other.weight, items.weight) and not other.weight[0].any()

    def test_vectors_that_are_frozen_stay_bit_for_bit_and_out_of_the_checkpoint(self) -> None:
        """Checkpoints don't need them: they can be made from the store again."""
        for items in self.built() if self.frozen else ():
            steps = self.kind.steps(HIDDEN)
            expected = apply_transforms(text_vectors()[1:], steps).astype(np.float32)
            a_few_steps(items.train())
            np.testing.assert_array_equal(items.table.numpy(), expected)
            assert "table" not in items.state_dict() and "table" not in dict(items.named_parameters())

    def test_a_control_is_not_the_text_and_follows_its_seed(self) -> None:
        """Shuffled or random text: the same seed gives the same vectors, another seed gives others."""
        for control in ("shuffle", "random"):
            first, again, other = (self.build(control=control, seed=seed).table for seed in (5, 5, 6))
            assert torch.equal(first, again)
            assert not torch.allclose(first, other) and not torch.allclose(first, self.build().table)

    def test_what_the_transforms_found_is_kept(self) -> None:
        """The run's record needs it, and so do items that come later."""
        report = self.build(transforms=("center", "l2")).transforms.report
        assert [line["step"] for line in report][:2] == ["center", "l2"]

    def test_an_appended_item_leaves_the_others_as_they_were(self) -> None:
        """This holds if items that came after training can be scored; if not, `cold` says why."""
        items = self.build()
        a_few_steps(items)
        before = items.weight.detach().clone()
        refused = None
        try:
            items.append(text_vectors()[[4, 9]])
        except ConfigError as error:
            refused = str(error)
        assert (refused is None) == (self.kind.cold is None)
        if refused is not None:
            return
        assert items.num_embeddings == CATALOGUE + 2 == len(items.weight)
        assert torch.equal(items.weight[:CATALOGUE], before) and items.weight[CATALOGUE:].any(dim=1).all()
