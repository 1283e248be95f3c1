"""Training losses: full softmax over all items, and losses over sampled negatives.

Shapes: P targets, K negatives, N items with the padding row 0, H hidden_size. All losses are means over targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blair_rec import registry
from blair_rec.config.sections import TrainConfig
from blair_rec.errors import TrainingError

CHUNK = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Scores held together in float32, by kind of device: about the size of a CPU's caches; 1 GiB on a GPU."""
SHORT = 1 << 23
"""Gradients of scores held together in a lower precision, 16 MB. The items' gradient is summed over all of them in one
product, because each sum goes through the whole table."""


class _FullSoftmax(torch.autograd.Function):
    """Cross entropy over all items in chunks of targets. Gradients are computed while a chunk's scores are in cache.

    For any number of targets and items, only CHUNK scores are held, and SHORT of their gradients if these are rounded.
    The gradient of the mean loss with respect to the scores is (softmax - one-hot) / targets, so the backward pass
    only scales what the forward pass has computed.
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
    """Return the mean cross entropy of each target among all items; row 0, the padding, is not a candidate.

    The gradients are computed with the loss, so there is no second derivative.

    Shapes: hidden [P, H] float, targets [P] int64 item ids of 1 or more, weight [N, H] -> [] float. `chunk` is the
    number of targets whose scores are held together; it changes the result only by rounding. With `counts` [P] bool
    the mean is over the targets where it is True; the others may be any item, or 0. The loss of a single target is cut
    off at 87 (float32); its gradient is still right.

    With `precision` torch.bfloat16 the inputs of the matrix products, and the probabilities between the products, are
    rounded to 8 significant bits. The reported loss then has a relative error of about 1e-4, and more if it is near 0.
    On a CPU with AVX512-BF16 the loss of 2048 targets over 12,000 items (H of 64, two threads, torch 2.13) took 0.4 to
    0.7 times as long as in float32. The gradients were off by 0.2% (norm of the difference over norm). On a CPU without
    AVX512-BF16, bfloat16 is slower than float32.
    """
    return softmax_over_rows(hidden, (targets - 1).clamp(min=0), weight[1:], chunk, precision, counts)


def softmax_over_rows(
    hidden: Tensor,
    rows: Tensor,
    weight: Tensor,
    chunk: int | None = None,
    precision: torch.dtype | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Return the mean cross entropy of each row number [P] int64 among all rows of `weight`; see full_softmax."""
    precision = precision or hidden.dtype
    held = CHUNK.get(hidden.device.type, CHUNK["cuda"])
    if hidden.device.type != "cpu":
        held = held * 4 // precision.itemsize
    chunk = chunk or max(16, held // len(weight))
    return _FullSoftmax.apply(hidden, rows, weight, chunk, precision, counts)


def sampled_scores(
    hidden: Tensor, targets: Tensor, negatives: Tensor, vectors: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return each target's own score, and the scores of the negatives; -inf where a negative is the target itself.

    Only the rows of targets and negatives are looked up, in one call.

    Shapes: hidden [P, H], targets [P] and negatives [K] int64 item ids, `vectors` [M] -> [M, H]; -> [P], [P, K].
    """
    rows = vectors(torch.cat([targets, negatives]))
    own, others = hidden * rows[: len(targets)], hidden @ rows[len(targets) :].T
    return own.sum(-1), others.masked_fill(targets.unsqueeze(1) == negatives, -math.inf)


def sampled_softmax(own: Tensor, others: Tensor, log_counts: Tensor | None = None) -> Tensor:
    """Return the mean cross entropy of each target among itself and the negatives.

    `log_counts` [K] is the logarithm of how often each negative is drawn on average; it corrects the negatives' scores.
    The sum in the softmax is then an unbiased estimate of the sum over all items (importance sampling: Bengio and
    Senecal, Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language Model, 2008). The
    target is always included, so its own score needs no correction.

    Shapes: own [P], others [P, K], as `sampled_scores` gives them -> [].
    """
    if log_counts is not None:
        others = others - log_counts
    total = torch.logaddexp(own, torch.logsumexp(others, 1))
    return (total - own).mean()


def gbce(own: Tensor, others: Tensor, n_items: int, t: float) -> Tensor:
    """Return the generalised binary cross entropy: the probability of each target is raised to the power of beta.

    If a share a of all other items is drawn, beta is 1 - t (1 - a). At t = 0 this is plain binary cross entropy; at
    t = 1 the scores are calibrated as if all other items were negatives. It assumes negatives drawn uniformly.
    Source: Petrov and Macdonald, gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative
    Sampling, RecSys 2023.

    Shapes: own [P], others [P, K], as `sampled_scores` gives them; n_items without the padding -> [].
    """
    drawn = others.shape[1]
    share = min(1.0, drawn / max(1, n_items - 1))
    beta = 1 - t * (1 - share)
    return ((F.softplus(-own) * beta).sum() + F.softplus(others).sum()) / (len(own) * (drawn + 1))


def bpr(own: Tensor, others: Tensor) -> Tensor:
    """Bayesian personalised ranking: return the mean of -log sigmoid(target's score - negative's score) over all pairs.

    Source: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009.

    Shapes: own [P], others [P, K], as `sampled_scores` gives them -> [].
    """
    return F.softplus(others - own.unsqueeze(1)).mean()


SampledLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Called with own [P] and others [P, K], as `sampled_scores` gives them, and log_counts [K] -> the mean loss []."""


def sampled_loss(train: TrainConfig, n_items: int) -> SampledLoss:
    """Return the loss over negatives that a train section asks for; n_items doesn't count the padding.

    A loss of another package is a function (own, others, **loss_options) -> [], the mean over the targets.

    Raises:
        ConfigError: it can't be imported, or doesn't take its options; UntrustedCode: as registry.load.
        TrainingError: raised by the returned loss, if the function doesn't return a single number.
    """
    loss, options = registry.load("losses", train.loss), dict(train.loss_options)
    if train.loss == "sampled_softmax":
        return lambda own, others, log_counts: sampled_softmax(own, others, log_counts if train.log_q else None)
    if train.loss == "gbce":
        return lambda own, others, log_counts: gbce(own, others, n_items, train.gbce_t)
    registry.check_call("losses", train.loss, loss, 2, options)

    def checked(own: Tensor, others: Tensor, log_counts: Tensor) -> Tensor:
        value = loss(own, others, **options)
        if not isinstance(value, Tensor) or value.ndim != 0:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TrainingError(f"the loss {train.loss} returns {shape}, not one number; return the mean over targets")
        return value

    return checked


def check_finite(loss: float, step: int) -> None:
    """Check that a loss is finite.

    Raises:
        TrainingError: it isn't; the message names the step and what to try.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {step}; lower train.learning_rate, or put the model's own settings "
            "(`recbole`) back to their defaults; if that doesn't help, check the text vectors"
        )
