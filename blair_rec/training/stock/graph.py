"""The graph of a history's items, for a whole group at once; RecBole builds it row by row in Python.

Shapes: G rows of a group, W slots of a history.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def graph_of(history: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_get_slice` of RecBole's SRGNN and GCSAN returns for histories [G, W], padded after their items.

    Returns:
        The node of each slot [G, W] int64; shares of incoming and outgoing edges [G, W, 2 W]; the item of each node
        [G, W] int64, ascending, with 0 for nodes that a row doesn't have.
    """
    items = history.cpu().numpy()
    rows = np.arange(len(items))[:, None]
    order = items.argsort(1)
    ascending = items[rows, order]
    node = np.zeros_like(items)
    node[:, 1:] = (ascending[:, 1:] != ascending[:, :-1]).cumsum(1)
    node_items, node_of_slot = np.zeros_like(items), np.empty_like(items)
    node_items[rows, node] = ascending
    node_of_slot[rows, order] = node
    edges = np.zeros((*items.shape, items.shape[1]))
    row, slot = np.nonzero((items[:, 1:] != 0).cumprod(1))
    edges[row, node_of_slot[row, slot], node_of_slot[row, slot + 1]] = 1
    incoming = edges / edges.sum(1, keepdims=True).clip(min=1)
    outgoing = edges / edges.sum(2, keepdims=True).clip(min=1)
    shares = np.concatenate([incoming.transpose(0, 2, 1), outgoing], 2)
    nodes, both, found = (torch.from_numpy(each).to(history.device) for each in (node_of_slot, shares, node_items))
    return nodes, both.to(dtype), found
