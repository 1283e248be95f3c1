"""A world whose next item lies where exactly one of two scorers is high, and these two scorers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from worlds import write_log

from blair_rec.data.sequences import TrainingSequences
from blair_rec.ranking.scorers import Counted
from blair_rec.text.store.embeddings import EmbeddingStore
from blair_rec.text.store.writer import write_store

N, USERS, LENGTH = 60, 260, 5
FIRST, SECOND = (1, 2, 3, 4, 5, 6), (3, 4, 5, 6, 7, 8)
"""How far behind the last item (by number) the items are that each scorer puts first."""
ONLY = (1, 2, 7, 8)
"""How far the next item is: where one of the scorers is high, but not both."""


class Steps(Counted):
    """Scores 1 for the items that are some steps behind the last item of the history, 0 for all others."""

    STEPS: tuple[int, ...] = ()
    scores_by_product = False

    def __init__(self, n_items: int, item_seq: str, item_seq_len: str) -> None:
        super().__init__(n_items, item_seq, item_seq_len)
        self.register_buffer("nothing", torch.zeros(1))

    def count(self, sequences: TrainingSequences) -> None:
        """Count nothing."""

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return scores [B, N]."""
        last = self.last_items(interaction)
        scores = torch.zeros(len(last), self.n_items, device=self.device)
        for step in self.STEPS:
            scores.scatter_(1, (1 + (last - 1 + step) % (self.n_items - 1)).unsqueeze(1), 1.0)
        return scores


class FirstHalf(Steps):
    """The first scorer."""

    STEPS = FIRST


class SecondHalf(Steps):
    """The second scorer."""

    STEPS = SECOND


def two_halves_at(folder: Path, seed: int = 0) -> Path:
    """The data set. Items are named by number, in the order in which they appear, so names and ids are the same."""
    random = np.random.default_rng(seed)
    rows = [[*range(1, N + 1)]]
    for _ in range(USERS):
        row = random.integers(1, N + 1, LENGTH).tolist()
        for _ in range(2):  # the last two events are for validation and test
            row.append(1 + (row[-1] - 1 + int(random.choice(ONLY))) % N)
        rows.append(row)
    events = [(f"u{user}", f"i{item}", time) for user, row in enumerate(rows) for time, item in enumerate(row)]
    written = write_log(folder / "halves", events)
    titles = ["item_id:token\ttitle:token_seq", *(f"i{item}\tthing {item}" for item in range(1, N + 1))]
    (written / "halves.item").write_text("\n".join(titles) + "\n", encoding="utf-8")
    return written


def circle_store(path: Path) -> EmbeddingStore:
    """Text vectors on a circle, in the order of the items: their cosine says how far apart two items are."""
    angle = 2 * np.pi * np.arange(1, N + 1) / N
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    return write_store(
        path,
        [f"i{item}" for item in range(1, N + 1)],
        vectors,
        textless=(),
        encoder={"name": "made up", "asked_for": "made up", "revision": None, "pooling": "mean", "max_length": 8},
        template={"name": "plain", "version": 1, "fields": ["title"]},
        text_sha256="0" * 64,
    )
