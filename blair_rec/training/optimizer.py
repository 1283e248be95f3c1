"""Adam, for tables of which a step reads few rows, too, and the course of its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class RowAdam(torch.optim.Adam):
    """torch's fused Adam; of a parameter whose gradient is sparse, only the rows in it are moved.

    What a step of Adam does to a table is spent on rows that it didn't read: their moments fade, and carry them on
    for a while. Left out, as in torch.optim.SparseAdam, a step costs as much for 500,000 items as for 5,000. The
    bias correction counts all steps, whichever rows they read.
    """

    def __init__(self, parameters: Any, learning_rate: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
        # Not a step of its own that calls Adam's: torch would call the hooks of both.
        self.register_step_pre_hook(self._move_sparse)

    @torch.no_grad()
    def _move_sparse(self, *_: Any) -> None:
        """Before each step: what has a sparse gradient is moved, and has none for the step itself."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._move_rows(parameter, group)
                    parameter.grad = None

    def _move_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device="cpu")
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] = state["step"].cpu() + 1  # a number, read in each step; torch moves it with what it loads
        assert parameter.grad is not None
        gradient = parameter.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        (first, second), step = group["betas"], state["step"].item()
        mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - first)
        square = state["exp_avg_sq"].index_select(0, rows).mul_(second).addcmul_(values, values, value=1 - second)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        root = square.div_(1 - second**step).sqrt_().add_(group["eps"])
        parameter.index_add_(0, rows, mean.div_(root), alpha=-group["lr"] / (1 - first**step))


@dataclass
class LearningRate:
    """The learning rate of an optimiser, set for the first step and after each one for the next, whoever asks for it.

    It rises over `warmup_steps` to `height` and stays there (constant) or falls along a cosine to nothing at the end
    of `total_steps` (Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017).
    """

    optimizer: torch.optim.Optimizer
    height: float
    warmup_steps: int
    schedule: str
    total_steps: int
    steps: int = 0
    """Taken so far: all that a checkpoint has to hold."""

    def __post_init__(self) -> None:
        self.go_on_from(self.steps)
        self.optimizer.register_step_post_hook(lambda *_: self.go_on_from(self.steps + 1))

    def go_on_from(self, steps: int) -> None:
        """Set the rate for the step behind so many."""
        self.steps = steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.height * self.share(steps + 1)

    def share(self, step: int) -> float:
        """Of the height, at a step that counts from 1."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        done = (step - 1 - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return (1 + math.cos(math.pi * min(1.0, done))) / 2
