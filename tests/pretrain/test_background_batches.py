"""Batches that are made in the background."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from blair_rec.errors import PairsError
from blair_rec.pretrain.trainer import COMING, InBackground


def test_a_batch_is_made_by_another_thread_while_the_caller_goes_on() -> None:
    may_end = threading.Event()

    def collate(pairs: Any) -> dict[str, torch.Tensor]:
        assert may_end.wait(10)
        return {"thread": torch.tensor(threading.get_ident()), "pairs": torch.tensor(pairs)}

    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = InBackground(collate, thread)([1, 2])[COMING]  # type: ignore[arg-type, list-item]
        assert not coming.done()
        may_end.set()
        batch = coming.result(timeout=10)
    assert batch["pairs"].tolist() == [1, 2] and batch["thread"].item() != threading.get_ident()


def test_an_error_of_the_collator_reaches_the_caller() -> None:
    def collate(pairs: Any) -> dict[str, torch.Tensor]:
        raise PairsError("line 7 is broken")

    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = InBackground(collate, thread)([])[COMING]  # type: ignore[arg-type]
        with pytest.raises(PairsError, match="line 7 is broken"):
            coming.result(timeout=10)
