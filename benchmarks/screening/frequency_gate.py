"""A gate between a trained vector and the text, which sees how often an item occurs in training.

This form is ours. `items: id_text` with `fusion: gate` has a gate that sees both vectors, but no frequency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.errors import ConfigError
from blair_rec.models.items import ItemSide

if TYPE_CHECKING:
    from blair_rec.data.sequences import TrainingSequences


class FrequencyGate(ItemSide):
    """g_i * id_i + (1 - g_i) * MLP(x_i), with g_i = sigmoid(a f_i + b).

    f_i = log(1 + c_i) - mean_j log(1 + c_j), where c_i is the number of training events of item i. a and b are trained:
    one number each (`gate: scalar`), or one for each of the H dimensions (`gate: dimension`). a starts at `slope`, b at
    0, so that an item of average frequency is half text. MLP(x) = B gelu(A x + a') + b', as in `items: text`. One
    factor gives the rows the root mean square of the embedding that they replace, for g = 1/2. A new item has c = 0 and
    id = 0.

    Shapes: E text_dim, H hidden_size, n items: table [n, E], ids [n, H], frequency [n], a and b [1] or [H].
    """

    frequency: Tensor
    """[n] float32, f; zero until `count`."""
    unseen: Tensor
    """f of an item without events, a scalar."""

    def __init__(self, vectors: Tensor, replaced: nn.Embedding, gate: str = "scalar", slope: float = 0.0) -> None:
        """
        Args:
            vectors: [n, E] float32 text vectors.
            replaced: [N, H] as the model initialised it.
            gate: scalar or dimension.
            slope: where a starts.

        Raises:
            ConfigError: another gate.
        """
        super().__init__(vectors, replaced)
        if gate not in ("scalar", "dimension"):
            raise ConfigError(f"gate is {gate!r}; expected scalar or dimension")
        self.keep_frozen(vectors)
        width = self.embedding_dim
        self.mlp = nn.Sequential(nn.Linear(vectors.shape[1], width), nn.GELU(), nn.Linear(width, width))
        self.ids = nn.Parameter(replaced.weight[1 : len(vectors) + 1].detach().clone())
        gates = 1 if gate == "scalar" else width
        self.slope, self.shift = nn.Parameter(torch.full((gates,), slope)), nn.Parameter(torch.zeros(gates))
        self.register_buffer("frequency", torch.zeros(len(vectors)))
        self.register_buffer("unseen", torch.zeros(()))
        self.start_at_size(self.ids, *self.mlp[2].parameters())

    def count(self, sequences: TrainingSequences) -> None:
        """Count the events of each item in the training sequences."""
        counts = np.bincount(sequences.items, minlength=len(self.frequency) + 1)[1:]
        logs = np.log1p(counts)
        self.frequency.copy_(torch.from_numpy(logs - logs.mean()))
        self.unseen.fill_(-logs.mean())

    def rows(self, which: Tensor | None = None) -> Tensor:
        """Return [n, H] float32, or [K, H] for `which` [K]."""
        text: Tensor = self.mlp(self.some_of(self.table, which))
        frequency = self.frequency if which is None else self.frequency[which]
        gate = torch.sigmoid(self.slope * frequency.unsqueeze(1) + self.shift)
        return torch.lerp(text, self.some_of(self.ids, which), gate.expand_as(text))

    def _append(self, rows: Tensor) -> None:
        super()._append(rows)
        self.frequency = torch.cat([self.frequency, self.unseen.expand(len(rows))])
        self.ids = nn.Parameter(torch.cat([self.ids.detach(), self.ids.new_zeros(len(rows), self.embedding_dim)]))
