"""The item side of a model: the contract of every kind, and the code that all kinds share (plain torch).

Shapes: N item ids with the padding row 0, C of them in the catalogue (the rows after them, such as BERT4Rec's mask
token, are trained extra rows), E text_dim, H hidden_size.

The contract: `forward(ids [...]) -> [..., H]` and `weight -> [N, H]` as in nn.Embedding; in eval mode
forward(ids) == weight[ids]; row 0 is exactly zero in both and gets no gradient; at the start the items' rows have the
RMS of the embedding that they replace, so that scores start in the same range. blair_rec.testing tests the contract.

A kind of your own is called with `vectors` [C - 1, E'], `replaced` (an nn.Embedding [N, H]) and the variant's
`options` by name. Its method `rows` computes its table (docs/extend.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blair_rec.config.steps import Step
from blair_rec.errors import ConfigError
from blair_rec.models.dropout import BitDropout
from blair_rec.models.transforms import FittedTransforms

if TYPE_CHECKING:  # takes RecBole
    from blair_rec.data.sequences import TrainingSequences

NEW_ITEMS = "use items: text, or scorer: last_item, which need only an item's text"
"""Advice in the message of a model that can't score items that came after training."""


class ItemSide(nn.Module):
    """A table of item vectors, computed once for all look-ups of a step; each kind computes it in `rows`."""

    sparse = False
    """Whether parameters with one row per item get sparse gradients, of the rows that were read, as in nn.Embedding."""
    cold: ClassVar[str | None] = None
    """Why an item that came after training can't be scored; None if it can."""
    table: Tensor
    """[C - 1, E'] the transformed text vectors."""
    transforms: FittedTransforms
    """The transforms that turned the store's vectors into the table."""

    def __init__(self, vectors: Tensor, replaced: nn.Embedding) -> None:
        """
        Args:
            vectors: [C - 1, E'] the transformed text vectors of the items, without padding.
            replaced: [N, H] as the model initialised it; it sets the width, the initial RMS and the number of extra
                rows.
        """
        super().__init__()
        self.num_embeddings = replaced.num_embeddings
        self.embedding_dim = replaced.embedding_dim
        self.padding_idx = 0
        with torch.no_grad():
            self._start = float(rms(replaced.weight[1:]))
        n_extra = replaced.num_embeddings - len(vectors) - 1
        self.extra = nn.Parameter(torch.randn(n_extra, self.embedding_dim) * self._start) if n_extra else None
        self._shared: Tensor | None = None
        self._some: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def steps(hidden_size: int) -> tuple[Step, ...]:
        """Return the transforms that this kind needs after those of the config."""
        return ()

    def rows(self, which: Tensor | None = None) -> Tensor:
        """Return the items' vectors [C - 1, H], without padding and extra rows.

        With `which` [K] int64, places from 0, only those rows are returned: [K, H].
        """
        raise NotImplementedError

    def count(self, sequences: TrainingSequences) -> None:
        """Read the training split, once before the first epoch; most kinds need nothing from it.

        What a kind counts belongs in buffers: they are saved and loaded like weights, so a trained model needs no
        events. The parameters have to stay the same objects, because an optimiser may hold them already.
        """

    @property
    def weight(self) -> Tensor:
        """The whole table, [N, H]. The name is that of nn.Embedding, so RecBole's models read it unchanged."""
        if self._shared is not None:
            return self._shared
        rows = self.rows()
        parts = [rows.new_zeros(1, rows.shape[1]), rows]
        if self.extra is not None:
            parts.append(self.extra)
        return torch.cat(parts)

    def forward(self, ids: Tensor) -> Tensor:
        """Look up item vectors: [...] int64 -> [..., H] float32."""
        if self._some is not None:
            known, rows = self._some
            place = torch.searchsorted(known, ids).clamp(max=len(known) - 1)
            # An id that isn't shared would get another item's vector. This is checked on the CPU alone, since the check
            # would wait for a GPU; which ids are looked up doesn't depend on the device.
            if ids.device.type == "cpu" and not torch.equal(known[place], ids):
                raise IndexError(
                    f"looked-up items that are not among the shared ids: {int((known[place] != ids).sum())}"
                )
            return F.embedding(place, rows)
        return F.embedding(ids, self.weight)

    @contextmanager
    def shared(self, ids: Tensor | None = None) -> Iterator[None]:
        """Compute the table only once within this block, which is one training step or one evaluation.

        With `ids` [...] int64 only their rows are computed. On the CPU, looking up another id raises an IndexError. The
        ids may be on the CPU while the table is on a GPU: then their number is known without waiting for the GPU.
        """
        if ids is None or self.extra is not None:
            self._shared = self.weight
        else:
            known = torch.cat([ids.new_zeros(1), ids.flatten()]).unique().to(self.table.device)
            rows = self.rows(known[1:] - 1)
            self._some = known, torch.cat([rows.new_zeros(1, rows.shape[1]), rows])
        try:
            yield
        finally:
            self._shared = self._some = None

    def append(self, vectors: np.ndarray) -> None:
        """Add items that came after training, with ids from N on: [M, E] text vectors as in the store.

        Raises:
            ConfigError: this kind learns items from their events, or the model has extra rows after the items.
        """
        if self.cold is not None:
            raise ConfigError(f"an item that came after training can't be scored: {self.cold}; {NEW_ITEMS}")
        if self.extra is not None:
            raise ConfigError(
                "an item that came after training can't be scored: the model has special rows after those of the items"
            )
        self._append(torch.from_numpy(self.transforms.apply(vectors)).to(self.table))
        self.num_embeddings += len(vectors)

    def _append(self, rows: Tensor) -> None:
        """Append [M, E'] to the table."""
        self.table = torch.cat([self.table, rows])

    def some_of(self, parameter: Tensor, which: Tensor | None) -> Tensor:
        """Return the rows `which` of a parameter [C - 1, ...] that has one row per item; all rows if None."""
        return parameter if which is None else F.embedding(which, parameter, sparse=self.sparse)

    def keep_frozen(self, vectors: Tensor) -> None:
        """Keep [C - 1, E'] as `table`, untrained; checkpoints leave it out: it can be made from the store again."""
        self.register_buffer("table", vectors, persistent=False)

    def start_at_size(self, *scaled: Tensor) -> None:
        """Multiply these parameters by one factor, so that the rows have the RMS of the embedding they replace.

        The rows have to be proportional to the parameters.
        """
        self.eval()
        with torch.no_grad():
            factor = self._start / rms(self.rows()).clamp(min=1e-12)
            for parameter in scaled:
                parameter.mul_(factor)
        self.train()

    def _dropout(self) -> Any:
        """Return a function (x, probability) -> x that applies dropout in training; each call draws a new seed."""
        if not self.training:
            return lambda x, probability: x
        return BitDropout(int(torch.randint(1 << 62, (), device="cpu")))


def rms(x: Tensor) -> Tensor:
    """Return the root mean square of all numbers, a scalar."""
    return x.square().mean().sqrt()
