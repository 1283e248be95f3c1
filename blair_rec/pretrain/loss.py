"""The contrastive loss between contexts and items: which item is this context about?"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    contexts: Tensor,
    items: Tensor,
    temperature: float,
    *,
    hard_negatives: Tensor | None = None,
    same: Tensor | None = None,
    same_hard: Tensor | None = None,
) -> Tensor:
    """Mean cross entropy of each context's own item among all items of the step, by cosine over temperature.

    Source: the objective of BLaIR (Hou et al., arXiv:2403.03952), which is that of supervised SimCSE (Gao et al., EMNLP
    2021); hard negatives, one per pair, are further candidates for every context.

    Shapes: contexts, items, hard_negatives [B, H] float; same, same_hard [B, B] bool, True where item j, or hard
    negative j, must not be a negative of context i (of `same` only where i != j) -> [] float.
    """
    contexts = F.normalize(contexts, dim=1)
    scores = contexts @ F.normalize(items, dim=1).T / temperature
    if same is not None:
        others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
        scores = scores.masked_fill(others, -torch.inf)
    if hard_negatives is not None:
        hard = contexts @ F.normalize(hard_negatives, dim=1).T / temperature
        if same_hard is not None:
            hard = hard.masked_fill(same_hard, -torch.inf)
        scores = torch.cat([scores, hard], dim=1)
    return F.cross_entropy(scores, torch.arange(len(contexts), device=scores.device))


def same_pairs(item_keys: Tensor, context_keys: Tensor) -> Tensor:
    """[B, B] bool: pair j has the same item as pair i, or the same context."""
    by_item = item_keys.unsqueeze(1) == item_keys.unsqueeze(0)
    return by_item | (context_keys.unsqueeze(1) == context_keys.unsqueeze(0))


def gather(tensor: Tensor) -> Tensor:
    """[B, ...] of this process -> [processes * B, ...] of all, in the order of ranks; unchanged with one process.

    Gradients flow only into this process's own part, as in BLaIR's code. Each process computes the whole loss, and the
    gradients of all processes' parts add up to its gradient.
    """
    if processes() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(processes())]
    dist.all_gather(parts, tensor.detach().contiguous())
    parts[dist.get_rank()] = tensor
    return torch.cat(parts)


def processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
