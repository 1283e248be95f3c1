"""The item side of a model: the contract of every kind, and the half of it that all of them share (plain torch).

Shapes: N item ids with the padding row 0, C of them in the catalogue (rows beyond, such as BERT4Rec's mask token, are
trained extras), E text_dim, H hidden_size.

The contract: `forward(ids [...]) -> [..., H]` and `weight -> [N, H]` as nn.Embedding has them; in eval mode
forward(ids) == weight[ids]; row 0 is exactly zero in both and gets no gradient; at the start the items' rows have the
RMS of the embedding that they replace, so that scores start in the same range.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blair_rec.config.steps import Step
from blair_rec.errors import ConfigError
from blair_rec.models.dropout import BitDropout
from blair_rec.models.transforms import FittedTransforms

NEW_ITEMS = "use items: text, or scorer: last_item, which know items by their text alone"
"""What a message proposes where a model can't score items that came after training."""


class ItemSide(nn.Module):
    """A table computed once for as many look-ups as a step needs; a kind says how, in `rows`."""

    sparse = False
    """Whether parameters with a row for each item get gradients of the rows that were read alone, as nn.Embedding's."""
    cold: ClassVar[str | None] = None
    """Why an item that came after training can't be scored, or None where it can."""
    table: Tensor
    """[C - 1, E'] what came from the text."""
    transforms: FittedTransforms
    """What made the table out of the store's vectors."""

    def __init__(self, vectors: Tensor, replaced: nn.Embedding) -> None:
        """
        Args:
            vectors: [C - 1, E'] the transformed text vectors of the items, without padding.
            replaced: [N, H] as the model initialised it: gives width, size and the number of extra rows.
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
        """Transforms that this kind needs behind those of the config."""
        return ()

    def rows(self, which: Tensor | None = None) -> Tensor:
        """[C - 1, H]: the items without padding and extras; [K, H] with `which` [K] int64 of them, from 0."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """[N, H], named as in nn.Embedding, so that RecBole's models read it without a line changed."""
        if self._shared is not None:
            return self._shared
        rows = self.rows()
        parts = [rows.new_zeros(1, rows.shape[1]), rows]
        if self.extra is not None:
            parts.append(self.extra)
        return torch.cat(parts)

    def forward(self, ids: Tensor) -> Tensor:
        """[...] int64 -> [..., H] float32."""
        if self._some is not None:
            known, rows = self._some
            place = torch.searchsorted(known, ids).clamp(max=len(known) - 1)
            # It would be given another item's vector. A GPU isn't waited for: which ids are read doesn't depend on it.
            if ids.device.type == "cpu" and not torch.equal(known[place], ids):
                raise IndexError(f"{int((known[place] != ids).sum())} looked-up items are not among the shared ids")
            return F.embedding(place, rows)
        return F.embedding(ids, self.weight)

    @contextmanager
    def shared(self, ids: Tensor | None = None) -> Iterator[None]:
        """Within this block the table is computed once: one training step, or one evaluation.

        With `ids` [...] int64 only their rows are, and a look-up of another one raises an IndexError on the CPU. The
        ids may be on the CPU while the table is on a GPU: how many they are is then known without waiting for it.
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
        """Items that came after training get the ids from N on: [M, E] text vectors as the store has them.

        Raises:
            ConfigError: this kind knows items by their events, or ids from N on mean something else to the model.
        """
        if self.cold is not None:
            raise ConfigError(f"an item that came after training can't be scored: {self.cold}; {NEW_ITEMS}")
        if self.extra is not None:
            raise ConfigError("an item that came after training can't be scored: the model has special rows of its own")
        self._append(torch.from_numpy(self.transforms.apply(vectors)).to(self.table))
        self.num_embeddings += len(vectors)

    def _append(self, rows: Tensor) -> None:
        """[M, E'] behind the table."""
        self.table = torch.cat([self.table, rows])

    def _of(self, parameter: Tensor, which: Tensor | None) -> Tensor:
        """The rows `which` of a parameter [C - 1, ...] that has one for each item; all of them if None."""
        return parameter if which is None else F.embedding(which, parameter, sparse=self.sparse)

    def _keep_frozen(self, vectors: Tensor) -> None:
        # The store can give the [C - 1, E] vectors again, so checkpoints do not carry them.
        self.register_buffer("table", vectors, persistent=False)

    def _start_at_size(self, *scaled: Tensor) -> None:
        """Multiply these parameters by one factor, so that the rows have the RMS of the embedding they replace.

        The rows have to grow as the parameters do.
        """
        self.eval()
        with torch.no_grad():
            factor = self._start / rms(self.rows()).clamp(min=1e-12)
            for parameter in scaled:
                parameter.mul_(factor)
        self.train()

    def _dropout(self) -> Any:
        """(x, probability) -> x, with a share of it zeroed in training; every call of this method draws a new seed."""
        if not self.training:
            return lambda x, probability: x
        return BitDropout(int(torch.randint(1 << 62, (), device="cpu")))


def rms(x: Tensor) -> Tensor:
    """The root of the mean square of all numbers: a scalar."""
    return x.square().mean().sqrt()
