"""SASRec as usually written in PyTorch, padded and without blair_rec: the peer of gpu.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PaddedSASRec(nn.Module):
    """Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018): every sequence padded to one length.

    Shapes: B sequences, L window, N items with the padding row 0, H width.
    """

    def __init__(self, n_items: int, window: int, width: int, inner: int, layers: int, heads: int, dropout: float):
        super().__init__()
        self.items = nn.Embedding(n_items, width, padding_idx=0)
        self.positions = nn.Embedding(window, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, heads, inner, dropout, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, items: Tensor) -> Tensor:
        """[B, L] int64, padded behind -> [B, L, H]."""
        x = self.items(items) + self.positions(torch.arange(items.shape[1], device=items.device))
        mask = nn.Transformer.generate_square_subsequent_mask(items.shape[1], device=items.device)
        hidden: Tensor = self.encoder(self.dropout(self.norm(x)), mask=mask, is_causal=True)
        return hidden


class PaddedTraining:
    """Train it by epochs: the last L events of each user, Adam, cross-entropy over all items."""

    def __init__(
        self, items: np.ndarray, offsets: np.ndarray, n_items: int, device: torch.device, **shape: int
    ) -> None:
        """items [M] int64 and offsets [S + 1] int64 of the training sequences, as TrainingSequences has them."""
        window = shape["window"]
        self.rows = np.zeros((len(offsets) - 1, window + 1), dtype=np.int64)
        for row, (begin, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
            kept = items[max(begin, end - window - 1) : end]
            self.rows[row, : len(kept)] = kept
        self.rows = self.rows[self.rows[:, 1] > 0]
        self.n_targets = int((self.rows[:, 1:] > 0).sum())
        self.device = device
        self.model = PaddedSASRec(n_items, **shape, dropout=0.5).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def batches(self, users: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets [users, L] int64 on the device."""
        rows = torch.from_numpy(self.rows[np.random.default_rng(0).permutation(len(self.rows))])
        for part in rows.split(users):
            part = part.to(self.device)
            yield part[:, :-1], part[:, 1:]

    def epoch(self, users: int, only_targets: bool) -> float:
        """Train one epoch, `users` sequences per step; return its mean loss.

        With `only_targets` no scores are computed for padding. Without it they are, and the loss ignores them.
        """
        self.model.train()
        total = 0.0
        for items, targets in self.batches(users):
            hidden = self.model(items)
            if only_targets:
                hidden, targets = hidden[targets > 0], targets[targets > 0]
            scores = hidden @ self.model.items.weight.T
            loss = F.cross_entropy(scores.flatten(0, -2), targets.flatten(), ignore_index=0)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total
