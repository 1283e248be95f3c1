"""The item side of a model: what stands where RecBole's item embedding stood (plain torch).

Shapes: N item ids with the padding row 0, C of them in the catalogue (rows beyond, such as BERT4Rec's mask token, are
trained extras), E text_dim, H hidden_size.

The contract of every kind: `forward(ids [...]) -> [..., H]` and `weight -> [N, H]` as nn.Embedding has them; in eval
mode forward(ids) == weight[ids]; row 0 is exactly zero in both and gets no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blair_rec.errors import ConfigError
from blair_rec.recommend.transforms import apply_transforms, pca


class Items(nn.Module):
    """Shared half of the contract: a table computed once for as many look-ups as a step needs."""

    def __init__(self, n_items: int, n_extra: int, hidden_size: int, rms: float) -> None:
        super().__init__()
        self.num_embeddings = n_items + n_extra
        self.embedding_dim = hidden_size
        self.padding_idx = 0
        self.extra = nn.Parameter(torch.randn(n_extra, hidden_size) * rms) if n_extra else None
        self._shared: Tensor | None = None

    def rows(self) -> Tensor:
        """[C - 1, H]: the items without padding and extras."""
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
        return F.embedding(ids, self.weight)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Within this block the table is computed once: one training step, or one evaluation."""
        self._shared = self.weight
        try:
            yield
        finally:
            self._shared = None


class TextItems(Items):
    """`text`: a two-layer MLP over the frozen, transformed text vectors.

    Its output starts at the RMS of the embedding that it replaces, so that scores start in the same range.
    Source: the MLP over whitened text of WhitenRec (Zhang et al., Are ID Embeddings Necessary?, ICDE 2024).
    """

    table: Tensor

    def __init__(self, vectors: Tensor, hidden_size: int, rms: float, n_extra: int = 0) -> None:
        super().__init__(len(vectors) + 1, n_extra, hidden_size, rms)
        # The store can give the [C - 1, E] vectors again, so checkpoints do not carry them.
        self.register_buffer("table", vectors, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(vectors.shape[1], hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size)
        )
        with torch.no_grad():
            scale = rms / self.rows().square().mean().sqrt().clamp(min=1e-12)
            for parameter in self.mlp[2].parameters():
                parameter.mul_(scale)

    def rows(self) -> Tensor:
        """[C - 1, H]."""
        rows: Tensor = self.mlp(self.table)
        return rows


class TextInitItems(Items):
    """`text_init`: a trained table that starts at the principal components of the text vectors.

    All components share one scale, so that similar texts stay similar, and the table starts at the RMS of the
    embedding that it replaces.
    """

    def __init__(self, initial: Tensor, rms: float, n_extra: int = 0) -> None:
        super().__init__(len(initial) + 1, n_extra, initial.shape[1], rms)
        scale = rms / initial.square().mean().sqrt().clamp(min=1e-12)
        self.table = nn.Parameter(initial * scale)

    def rows(self) -> Tensor:
        """[C - 1, H]."""
        return self.table


def build_items(
    kind: str,
    vectors: np.ndarray,
    transforms: tuple[str, ...],
    control: str | None,
    replaced: nn.Embedding,
    *,
    seed: int,
) -> Items:
    """The item side of a variant, by its name in the config, in the place of `replaced`.

    Args:
        vectors: [C, E] text vectors by item id, row 0 is padding.
        replaced: [N, H] as the model initialised it; gives width, RMS and the number of extra rows.
        control: shuffle permutes the items' rows, random draws Gaussian rows of the same size.
        seed: of the control.

    Raises:
        ConfigError: an unknown kind.
    """
    rows = np.asarray(vectors[1:], dtype=np.float64)
    generator = np.random.default_rng(seed)
    if control == "shuffle":
        rows = rows[generator.permutation(len(rows))]
    elif control == "random":
        rows = generator.standard_normal(rows.shape) * np.sqrt(np.mean(rows**2))
    rows = apply_transforms(rows, transforms)
    hidden_size, n_extra = replaced.embedding_dim, replaced.num_embeddings - len(vectors)
    with torch.no_grad():
        rms = float(replaced.weight[1:].square().mean().sqrt())
    if kind == "text":
        return TextItems(torch.from_numpy(rows).float(), hidden_size, rms, n_extra)
    if kind == "text_init":
        return TextInitItems(torch.from_numpy(pca(rows, hidden_size)).float(), rms, n_extra)
    raise ConfigError(f"items is {kind!r}; known: id, text, text_init")
