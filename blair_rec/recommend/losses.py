"""What training minimises, given hidden states and item vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blair_rec.errors import TrainingError


def full_softmax(hidden: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Mean cross entropy of each target among all items; row 0, the padding, is not a candidate.

    Shapes: hidden [P, H] float, targets [P] int64 item ids of 1 or more, weight [N, H] -> [] float.
    """
    return F.cross_entropy(hidden @ weight[1:].T, targets - 1)


def check_finite(loss: Tensor, step: int) -> None:
    """Stop at the first loss that is not a number.

    Raises:
        TrainingError: with the step, and what to try.
    """
    if not torch.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss.item()} at step {step}; lower train.learning_rate, or check the vectors"
        )
