"""What training minimises: full softmax over all items, and losses over some drawn at random.

Shapes: P targets, K drawn items, N items with the padding row 0, H hidden_size. All losses are means over targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blair_rec.errors import TrainingError

CHUNK = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Scores held at once in float32, by kind of device: about what a processor keeps in its caches; 1 GiB on a GPU."""
SHORT = 1 << 23
"""Their gradients held at once in a shorter precision, 16 MB: what the items' gradient is summed over in one product,
because each sum goes through the whole table."""


class _FullSoftmax(torch.autograd.Function):
    """Cross entropy over all items, chunk by chunk of targets, each with its gradients while its scores are in cache.

    However many targets and items there are, CHUNK scores are held, and SHORT of their gradients where these are
    rounded. The gradient of the mean loss by the scores is (softmax - one-hot) / targets, so that the backward pass
    only scales what the forward pass has found.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, chunk: int, precision: torch.dtype, counts: Any
    ) -> Tensor:
        states, vectors = hidden.to(precision), weight.to(precision)
        by_hidden, by_weight = torch.empty_like(states), torch.zeros_like(weight)
        chosen, ones = states.new_empty(len(hidden)), states.new_ones(len(hidden))
        full = precision == hidden.dtype
        held = min(chunk if full else max(chunk, SHORT // len(weight) // chunk * chunk), len(hidden))
        scores = states.new_empty(held, len(weight))
        own = torch.arange(len(hidden), device=targets.device) % chunk * len(weight) + targets
        for first in range(0, len(hidden), held):
            some = states[first : first + held]
            for begin in range(0, len(some), chunk):
                part = slice(first + begin, first + min(begin + chunk, len(some)))
                score = scores[begin : begin + part.stop - part.start]
                torch.mm(states[part], vectors.T, out=score)
                torch.softmax(score, 1, out=score)
                torch.take(score, own[part], out=chosen[part])
                score.view(-1).index_add_(0, own[part], ones[part], alpha=-1)
                torch.mm(score, vectors, out=by_hidden[part])
            some = some if counts is None else some * counts[first : first + held, None]
            if full:
                by_weight.addmm_(scores[: len(some)].T, some)
            else:
                by_weight += scores[: len(some)].T @ some
        by_hidden, chosen = by_hidden.to(hidden.dtype), chosen.to(hidden.dtype)
        losses = chosen.clamp_(min=torch.finfo(chosen.dtype).tiny).log_().neg_()
        if counts is None:
            ctx.save_for_backward(by_hidden.div_(len(hidden)), by_weight.div_(len(hidden)))
            return losses.mean()
        n_targets = counts.sum()
        ctx.save_for_backward(by_hidden.mul_(counts[:, None] / n_targets), by_weight.div_(n_targets))
        return (losses * counts).sum() / n_targets

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, None, None, None]:
        by_hidden, by_weight = ctx.saved_tensors
        return by_hidden * gradients[0], None, by_weight * gradients[0], None, None, None


def full_softmax(
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    chunk: int | None = None,
    precision: torch.dtype | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Mean cross entropy of each target among all items; row 0, the padding, is not a candidate.

    The gradients come with the loss, so a second derivative can't be had.

    Shapes: hidden [P, H] float, targets [P] int64 item ids of 1 or more, weight [N, H] -> [] float. `chunk` is the
    number of targets whose scores are held at once; the result does not depend on it but for rounding. With
    `counts` [P] bool the mean is over some of the targets; the others may be any item, or 0. A target's
    loss reads 87 (float32) where it is more; its gradient is right all the same.

    With `precision` torch.bfloat16 the products are made of numbers rounded to 8 bits, and so are the shares between
    them: the loss that is read is off by some 1e-4, where it is near 0 by more of itself. On a processor with
    AVX512-BF16 the loss of 2048 targets over 12,000 items (H of 64, two threads, torch 2.13) took 0.4 to 0.7 times as
    long; the gradients were off by 0.2% (norm of the difference over norm). On a processor without it, it is slower
    than float32.
    """
    precision = precision or hidden.dtype
    held = CHUNK.get(hidden.device.type, CHUNK["cuda"])
    if hidden.device.type != "cpu":
        held = held * 4 // precision.itemsize
    chunk = chunk or max(16, held // len(weight))
    loss: Tensor = _FullSoftmax.apply(hidden, (targets - 1).clamp(min=0), weight[1:], chunk, precision, counts)
    return loss


def sampled_scores(
    hidden: Tensor, targets: Tensor, negatives: Tensor, vectors: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Each target's own score, and those of the drawn items; -inf where a drawn item is the target itself.

    Only the rows of targets and drawn items are looked up, all at once.

    Shapes: hidden [P, H], targets [P] and negatives [K] int64 item ids, `vectors` [M] -> [M, H]; -> [P], [P, K].
    """
    rows = vectors(torch.cat([targets, negatives]))
    own, others = hidden * rows[: len(targets)], hidden @ rows[len(targets) :].T
    return own.sum(-1), others.masked_fill(targets.unsqueeze(1) == negatives, -math.inf)


def sampled_softmax(own: Tensor, others: Tensor, log_counts: Tensor | None = None) -> Tensor:
    """Mean cross entropy of each target among itself and the drawn items.

    With `log_counts` [K], the logarithm of how often each is drawn on average, the drawn items' scores are corrected
    by it. The sum in the softmax is then an unbiased estimate of that over all items (importance sampling: Bengio and
    Senecal, Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language Model, 2008). The
    target is always there, so nothing is to be corrected in its own score.

    Shapes: own [P], others [P, K], as `sampled_scores` gives them -> [].
    """
    if log_counts is not None:
        others = others - log_counts
    total = torch.logaddexp(own, torch.logsumexp(others, 1))
    return (total - own).mean()


def gbce(own: Tensor, others: Tensor, n_items: int, t: float) -> Tensor:
    """Generalised binary cross entropy: the probability of each target to the power of beta.

    With a share a of all other items drawn, beta is 1 - t (1 - a): at t = 0 this is plain binary cross entropy, at
    t = 1 the scores are calibrated as if all items were there. For items drawn uniformly.
    Source: Petrov and Macdonald, gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative
    Sampling, RecSys 2023.

    Shapes: own [P], others [P, K], as `sampled_scores` gives them; n_items without the padding -> [].
    """
    drawn = others.shape[1]
    share = min(1.0, drawn / max(1, n_items - 1))
    beta = 1 - t * (1 - share)
    return ((F.softplus(-own) * beta).sum() + F.softplus(others).sum()) / (len(own) * (drawn + 1))


def bpr(own: Tensor, others: Tensor) -> Tensor:
    """Bayesian personalised ranking: minus log sigmoid of a target's score less a drawn item's, over all pairs.

    Source: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009.

    Shapes: own [P], others [P, K], as `sampled_scores` gives them -> [].
    """
    return F.softplus(others - own.unsqueeze(1)).mean()


def check_finite(loss: float, step: int) -> None:
    """Stop at the first loss that is not a number.

    Raises:
        TrainingError: with the step, and what to try.
    """
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss} at step {step}; lower train.learning_rate, or check the vectors")
