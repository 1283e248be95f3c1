"""Cross entropy over all items in chunks, inside the loss of RecBole's own models.

RecBole multiplies the states with all items' vectors, and gives the scores to the cross entropy. Together the scores
are much larger than a CPU's caches. Here the product is put off until the cross entropy asks for it, which then uses
our softmax in chunks. The result differs only by rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from blair_rec.training.losses import softmax_over_rows

PLAIN = {
    "weight": None,
    "size_average": None,
    "ignore_index": -100,
    "reduce": None,
    "reduction": "mean",
    "label_smoothing": 0.0,
}
"""Options of the cross entropy that our softmax computes."""


class _Scores:
    """The product of states [B, H] and item vectors [N, H], not computed yet."""

    def __init__(self, states: Tensor, vectors: Tensor) -> None:
        self.states, self.vectors = states, vectors

    def __truediv__(self, temperature: float) -> _Scores:
        return _Scores(self.states / temperature, self.vectors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.computed(), name)

    def computed(self) -> Tensor:
        """Return the scores [B, N]."""
        return self.states @ self.vectors.T

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute the scores for any other function of torch than those that CatalogueSoftmax replaces."""
        return func(*[each.computed() if isinstance(each, cls) else each for each in args], **(kwargs or {}))


class CatalogueSoftmax(TorchFunctionMode):
    """Within this block, a cross entropy over the product with all items' vectors is computed in chunks."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self._n_items = n_items

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.matmul and [each.ndim for each in args] == [2, 2] and args[1].shape[1] == self._n_items:
            return _Scores(args[0], args[1].T)
        if func is F.cross_entropy and isinstance(args[0], _Scores) and {**PLAIN, **kwargs} == PLAIN:
            return softmax_over_rows(args[0].states, args[1], args[0].vectors)
        return func(*args, **kwargs)
