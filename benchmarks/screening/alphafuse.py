"""AlphaFuse: frozen leading components of the text, and a trained vector in the trailing ones.

Source: Hu et al., AlphaFuse: Learn ID Embeddings for Sequential Recommendation in Null Space of Language Embeddings,
SIGIR 2025 (arXiv 2504.19218), and the authors' code, `models/embedding.py` and `models/backbone_SASRec.py` of
Hugo-Chinn/AlphaFuse, with the settings that its train.py has without arguments (`standardization`, not `cover`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blair_rec.config.steps import Step
from blair_rec.errors import ConfigError
from blair_rec.models.items import ItemSide


class AlphaFuse(ItemSide):
    """z_i + (0, ..., 0, id_i), where z_i are the principal components of text i and id_i is trained.

    z = (x - mean) U, with the H directions U of the largest variance, in falling order. With `standardize` each
    component is divided by its standard deviation. id_i has `null_dim` numbers and is added to the last components; the
    first H - null_dim components stay as they are. The authors start id at zero or at normal numbers; here it starts at
    zero. One factor then gives all rows the root mean square of the embedding that they replace. A new item has
    id = 0.

    Shapes: E text_dim, H hidden_size, n items: table [n, H] the components, ids [n, null_dim], scale [H].
    """

    scale: Tensor
    """[H] float32, the factor of each component."""

    def __init__(self, vectors: Tensor, replaced: nn.Embedding, null_dim: int = 64, standardize: bool = True) -> None:
        """
        Args:
            vectors: [n, H] float32, the principal components.
            replaced: [N, H] as the model initialised it.
            null_dim: how many of the last components get a trained number, 1 to H.
            standardize: whether each component is divided by its standard deviation.

        Raises:
            ConfigError: null_dim is not in this range.
        """
        super().__init__(vectors, replaced)
        if not 1 <= null_dim <= self.embedding_dim:
            raise ConfigError(f"null_dim is {null_dim}; expected a number from 1 to hidden_size, {self.embedding_dim}")
        self.keep_frozen(vectors)
        self.frozen_dim = self.embedding_dim - null_dim
        spread = vectors.std(dim=0, unbiased=False)
        known = spread > 1e-6 * spread.max()  # components without variance are rounding errors, and stay zero
        ones = torch.ones_like(spread)
        factors = torch.where(known, 1 / torch.where(known, spread, ones), 0 * ones) if standardize else ones
        self.register_buffer("scale", factors)
        self.ids = nn.Parameter(torch.zeros(len(vectors), null_dim))
        self.start_at_size(self.scale)

    @staticmethod
    def steps(hidden_size: int) -> tuple[Step, ...]:
        """Return the step to principal components of the model's width."""
        return ({"pca": hidden_size},)

    def rows(self, which: Tensor | None = None) -> Tensor:
        """Return [n, H] float32, or [K, H] for `which` [K]."""
        text, ids = self.some_of(self.table, which) * self.scale, self.some_of(self.ids, which)
        return text + nn.functional.pad(ids, (self.frozen_dim, 0))

    def _append(self, rows: Tensor) -> None:
        super()._append(rows)
        self.ids = nn.Parameter(torch.cat([self.ids.detach(), self.ids.new_zeros(len(rows), self.ids.shape[1])]))
