"""Pack the sequences of many users into one row of tokens, so no computation is spent on padding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blair_rec.device import moved


@dataclass(frozen=True, eq=False)
class Packed:
    """Windows of sequences, shortest first, packed into one row: token t predicts target t."""

    items: Tensor
    """[P] int64 item ids; within a window oldest first."""
    targets: Tensor
    """[P] int64 item ids, 0 for a token without a target."""
    positions: Tensor
    """[P] int64 position in the window, from 0."""
    lengths: np.ndarray
    """[W] int64 tokens per window, ascending."""
    blocks: tuple[tuple[int, int], ...]
    """(number of windows, slots per window) of every block."""
    token_of_slot: Tensor
    """[S] int64 token of each slot; an empty slot, always after its window's tokens, has token 0."""
    slot_of_token: Tensor
    """[P] int64 slot of each token."""

    def to(self, device: torch.device) -> Packed:
        """Return the same windows on another device, moved in one copy."""
        tensors = (self.items, self.targets, self.positions, self.token_of_slot, self.slot_of_token)
        if self.items.device == device:
            return self
        there = moved(torch.cat(tensors), device).split([len(part) for part in tensors])
        return Packed(there[0], there[1], there[2], self.lengths, self.blocks, there[3], there[4])


GROWTH = {"cpu": 2, "cuda": 8}
"""Kind of device -> ratio of the slots per window in one block to those in the block before.

On a CPU each block costs about thirty torch calls per layer, and an empty slot costs little: with 1.25, SASRec's part
of a training step took 1.2 times as long as with 2 (ml-100k and Beauty, two threads). On a GPU, calls cost more than
slots.
"""


def growth_on(device: torch.device) -> int:
    """Return the `growth` to use in `pack` for a model on this device."""
    return GROWTH.get(device.type, GROWTH["cuda"])


def pack(
    items: Tensor,
    targets: Tensor,
    first: np.ndarray,
    length: np.ndarray,
    new: np.ndarray | None = None,
    growth: int = GROWTH["cpu"],
) -> Packed:
    """Cut windows out of a log of events and pack them.

    Shapes: items, targets [M] int64; first, length, new [W] int64. Window w reads items[first : first + length] and
    predicts targets[first + 1 : first + length + 1], or only the last `new` of them. The result is on the device of
    `items` and `targets`. `growth` changes the blocks, which affects only the speed.
    """
    order = np.argsort(length, kind="stable")
    first, length, new = first[order], length[order], (length if new is None else new)[order]
    ends = np.cumsum(length)
    position = np.arange(ends[-1]) - np.repeat(ends - length, length)
    device = items.device
    event = torch.from_numpy(np.repeat(first, length) + position).to(device)
    known = torch.from_numpy(position < np.repeat(length - new, length)).to(device)
    slots = block_lengths(int(length[-1]), growth)
    slots = slots[np.searchsorted(slots, length)]
    sizes, counts = np.unique(slots, return_counts=True)
    slot_of_token = np.repeat(np.cumsum(slots) - slots, length) + position
    token_of_slot = np.zeros(int(slots.sum()), dtype=np.int64)
    token_of_slot[slot_of_token] = np.arange(len(position))
    return Packed(
        items[event],
        targets[event + 1].masked_fill_(known, 0),
        torch.from_numpy(position).to(device),
        length,
        tuple((int(count), int(size)) for count, size in zip(counts, sizes, strict=True)),
        torch.from_numpy(token_of_slot).to(device),
        torch.from_numpy(slot_of_token).to(device),
    )


def places_in(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for groups of these sizes, one after the other, each member's group and its place there: two [P] int64."""
    group = np.repeat(np.arange(len(lengths)), lengths)
    return group, np.arange(len(group)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def block_lengths(longest: int, growth: int) -> np.ndarray:
    """Return 1, `growth`, growth**2, ..., `longest`: with a growth of 2, fewer slots are empty than filled."""
    return np.minimum(growth ** np.arange(math.ceil(math.log(longest, growth)) + 1), longest)
