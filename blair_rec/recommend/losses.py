"""What training minimises, given hidden states and item vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blair_rec.errors import TrainingError

CHUNK = 1 << 19
"""Scores held at once: about what a processor keeps in its caches."""


class _FullSoftmax(torch.autograd.Function):
    """Cross entropy over all items, chunk by chunk of targets, each with its gradients while its scores are in cache.

    The [targets, items] scores are never held; the gradient of the mean loss by the scores is
    (softmax - one-hot) / targets, so that the backward pass only scales what the forward pass has found.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, chunk: int) -> Tensor:
        by_hidden, by_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        chosen = hidden.new_empty(len(hidden))
        columns, scores = weight.T, hidden.new_empty(2, min(chunk, len(hidden)), len(weight))
        for begin in range(0, len(hidden), chunk):
            part = slice(begin, begin + chunk)
            some, target = hidden[part], targets[part].unsqueeze(1)
            score, share = scores[:, : len(some)]
            torch.mm(some, columns, out=score)
            torch.softmax(score, 1, out=share)
            chosen[part] = share.gather(1, target).squeeze(1)
            share.scatter_add_(1, target, share.new_full((len(some), 1), -1.0))
            torch.mm(share, weight, out=by_hidden[part])
            by_weight.addmm_(share.T, some)
        ctx.save_for_backward(by_hidden.div_(len(hidden)), by_weight.div_(len(hidden)))
        return -chosen.clamp_(min=torch.finfo(chosen.dtype).tiny).log_().mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, None]:
        by_hidden, by_weight = ctx.saved_tensors
        return by_hidden * gradients[0], None, by_weight * gradients[0], None


def full_softmax(hidden: Tensor, targets: Tensor, weight: Tensor, chunk: int | None = None) -> Tensor:
    """Mean cross entropy of each target among all items; row 0, the padding, is not a candidate.

    The gradients come with the loss, so a second derivative can't be had.

    Shapes: hidden [P, H] float, targets [P] int64 item ids of 1 or more, weight [N, H] -> [] float. `chunk` is the
    number of targets whose scores are held at once; the result does not depend on it but for rounding. A target's
    loss reads 87 (float32) where it is more; its gradient is right all the same.
    """
    chunk = chunk or max(16, CHUNK // len(weight))
    loss: Tensor = _FullSoftmax.apply(hidden, targets - 1, weight[1:], chunk)
    return loss


def check_finite(loss: Tensor, step: int) -> None:
    """Stop at the first loss that is not a number.

    Raises:
        TrainingError: with the step, and what to try.
    """
    if not torch.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss.item()} at step {step}; lower train.learning_rate, or check the vectors"
        )
