"""Adam, which is also fast for tables of which a step reads few rows, and the schedule of its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class RowAdam(torch.optim.Adam):
    """torch's fused Adam; of a parameter with a sparse gradient, only the rows in the gradient are updated.

    Plain Adam spends most of its time on rows that the step didn't read: their moments decay and move these rows for a
    while. Here they don't move, as in torch.optim.SparseAdam, so a step costs the same for 500,000 items as for 5,000.
    The bias correction counts all steps, whichever rows they read.
    """

    def __init__(self, parameters: Any, learning_rate: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
        # A hook, because torch would call the hooks twice if a `step` of this class called Adam's.
        self.register_step_pre_hook(self._move_sparse)

    @torch.no_grad()
    def _move_sparse(self, *_: Any) -> None:
        """Before each step, update the parameters with sparse gradients; then drop these, so the step skips them."""
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
        state["step"] = state["step"].cpu() + 1  # read in each step; loading a state may have moved it to the GPU
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
    """Sets the learning rate of an optimiser for the first step, and then after each step by a hook.

    The rate rises over `warmup_steps` to `height`. Then it stays there (constant) or falls along a cosine to 0 at the
    end of `total_steps` (Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017).
    """

    optimizer: torch.optim.Optimizer
    height: float
    warmup_steps: int
    schedule: str
    total_steps: int
    steps: int = 0
    """Steps taken so far; a checkpoint needs nothing else of this class."""

    def __post_init__(self) -> None:
        self.go_on_from(self.steps)
        self.optimizer.register_step_post_hook(lambda *_: self.go_on_from(self.steps + 1))

    def go_on_from(self, steps: int) -> None:
        """Set the rate for the step after this many steps."""
        self.steps = steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.height * self.share(steps + 1)

    def share(self, step: int) -> float:
        """Return the share of `height` at a step; steps count from 1."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        done = (step - 1 - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return (1 + math.cos(math.pi * min(1.0, done))) / 2
