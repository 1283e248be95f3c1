"""Averages of finished variants: scores normalised per user, with weights chosen on the validation split.

For each user, a member's scores become z-scores over all items. Subtracting the mean keeps the order of a user's items;
the standard deviation decides how much a member counts for this user. Both are taken over all items, including the
history, so an item's score doesn't depend on whether the history is masked: the masked ranking is the unmasked one
without the history. A member that gives all items the same score adds nothing for this user.

Shapes: K members, B cases, N item ids with the padding row 0, D the members' vectors side by side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import ScoringError, unusable_scores
from blair_rec.models.scorer import Scorer, refuse_new_items
from blair_rec.models.transforms import FittedTransforms

CONSTANT = 1e-6
"""Scores that differ by less than this share of their size differ only by rounding."""
LOWEST = -1e30
"""The score of items that aren't candidates. It is finite, because an infinite score times a weight of 0 is NaN."""
CELLS, WEIGHTINGS = 1 << 16, 8
"""Number of scores of a member, and number of weightings, that are averaged together."""
ROWS = 8
"""Cases whose scores a CPU standardises together, so that they fit into its cache."""
WHOLE = 20
"""Weights are multiples of 1 / WHOLE, that is of 1/20."""
FEW = 100
"""Up to this many weightings of the simplex are measured on all cases; more of them are measured on a part."""
ENOUGH = 2000
"""The least number of cases in a part: with fewer, chance decides, and measuring all cases takes little time."""
HELD = 1 << 29
"""Scores kept between two passes over the validation split, 2 GiB; the rest is computed again in each pass."""

Shares = tuple[int, ...]
"""A weighting: each member's part of WHOLE."""
Weights = tuple[float, ...]
"""A weighting as shares of 1."""
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]
"""Called with (higher [cases], equal [cases], miss [cases] or None), as in evaluate.metrics."""


class Ensemble(nn.Module):
    """The weighted mean of its members' z-scores. Only its weights are saved: members are saved in their own runs."""

    weights: Tensor
    fitted_transforms: FittedTransforms | None = None
    """None, because the members' transforms are saved with the members."""

    def __init__(self, members: Sequence[Scorer], weights: Sequence[float] | None = None) -> None:
        """`members` are models and baselines over the same items; `weights` [K] are equal if not given."""
        super().__init__()
        self.members = tuple(members)  # a tuple, so that torch doesn't save their weights a second time
        equal = [1 / len(self.members)] * len(self.members)
        self.register_buffer("weights", torch.tensor(weights or equal, dtype=torch.float32))
        self.ITEM_SEQ, self.ITEM_SEQ_LEN = self.members[0].ITEM_SEQ, self.members[0].ITEM_SEQ_LEN
        self.device = self.members[0].device

    def eval(self) -> Ensemble:
        """Like torch's `eval`, for the members, too."""
        for member in self.members:
            member.eval()
        return super().eval()

    def shared_items(self) -> AbstractContextManager[Any]:
        """See Scorer.shared_items; for all members."""
        stack = ExitStack()
        for member in self.members:
            stack.enter_context(member.shared_items())
        return stack

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return scores [B, N] float32; ignore column 0, the padding."""
        return torch.einsum("k,kbn->bn", self.weights.to(self.device), self.member_scores(interaction))

    def member_scores(self, interaction: Any) -> Tensor:
        """Return the members' z-scores, [K, B, N] float32.

        Raises:
            ScoringError: a member's scores that are not finite.
        """
        return torch.stack([standardised(member.full_sort_predict(interaction)) for member in self.members])

    @property
    def scores_by_product(self) -> bool:
        """Whether all members score by product, so that `user_vectors @ item_matrix.T` ranks as the ensemble does."""
        return all(member.scores_by_product for member in self.members)

    def item_matrix(self) -> Tensor:
        """Return the members' item vectors side by side, [N, D]."""
        return torch.cat([member.item_matrix().float() for member in self.members], dim=1)

    def user_vectors(self, interaction: Any) -> Tensor:
        """Return the members' user vectors side by side, [B, D], each times weight / standard deviation of its scores.

        The products with `item_matrix` are the ensemble's scores without the members' means, which are the same for all
        items of a user. So each user's items are ordered exactly as by the ensemble, but products of different users
        can't be compared. The deviation is sqrt(u' C u), where C is the covariance of a member's item vectors, so no
        item has to be scored. Normalisations that are not linear in the scores (by rank, by the largest) can't be
        written this way.
        """
        parts = []
        for member, weight, (covariance, longest) in zip(
            self.members, self.weights.to(self.device), self._spreads, strict=True
        ):
            user = member.user_vectors(interaction).float()
            wide = user.double()
            deviation = ((wide @ covariance) * wide).sum(dim=1, keepdim=True).clamp(min=0).sqrt().float()
            parts.append(user * weight * _inverse(deviation, longest * user.norm(dim=1, keepdim=True)))
        return torch.cat(parts, dim=1)

    def append_items(self, vectors: np.ndarray) -> None:
        """See Scorer.append_items.

        Raises:
            ConfigError: always; append items to the members before the ensemble is built.
        """
        refuse_new_items("Ensemble can only score the items that it was built with")

    @cached_property
    def _spreads(self) -> list[tuple[Tensor, Tensor]]:
        """For each member: the covariance [H, H] float64 of its item vectors, and the length [] of the longest."""
        tables = [member.item_matrix()[1:].double() for member in self.members]
        covariances = [torch.cov(table.T, correction=0).reshape(table.shape[1], -1) for table in tables]
        return [(c, table.norm(dim=1).max().float()) for c, table in zip(covariances, tables, strict=True)]


def standardised(scores: Tensor) -> Tensor:
    """Return scores [B, N] with mean 0 and standard deviation 1 over the items of each row; 0 if all are the same.

    Raises:
        ScoringError: scores that are not finite.
    """
    result = torch.empty_like(scores, dtype=torch.float32)
    not_finite = torch.zeros((), dtype=torch.int64, device=scores.device)
    rows = ROWS if scores.device.type == "cpu" else max(1, len(scores))
    for part, out in zip(scores.split(rows), result.split(rows), strict=True):
        items = part[:, 1:].float()
        size = torch.maximum(items.amax(dim=1, keepdim=True), -items.amin(dim=1, keepdim=True))
        not_finite += (~torch.isfinite(size)).sum()
        deviation, mean = torch.std_mean(items, dim=1, keepdim=True, correction=0)
        out[:, 0] = 0
        torch.sub(items, mean, out=out[:, 1:])
        out[:, 1:] *= _inverse(deviation, size)
    if not_finite:
        raise ScoringError(unusable_scores(int(not_finite), len(scores), "case", kind="not finite"))
    return result


def standardised_lists(scores: Tensor) -> Tensor:
    """Return the scores [B, N] of top lists with mean 0 and standard deviation 1 over the listed items of each row.

    Items with NaN are not listed, and keep it.

    Raises:
        ScoringError: infinite scores.
    """
    listed = ~scores[:, 1:].isnan()
    given = scores[:, 1:].double().masked_fill(~listed, 0)
    if infinite := int(given.isinf().any(dim=1).sum()):
        raise ScoringError(unusable_scores(infinite, len(scores), "case", kind="not finite"))
    length = listed.sum(dim=1, keepdim=True).clamp(min=1)
    off = (given - given.sum(dim=1, keepdim=True) / length).masked_fill(~listed, 0)
    deviation = ((off**2).sum(dim=1, keepdim=True) / length).sqrt()
    result = torch.zeros_like(scores, dtype=torch.float32)
    z = off * _inverse(deviation, given.abs().amax(dim=1, keepdim=True))
    result[:, 1:] = z.float().masked_fill(~listed, torch.nan)
    return result


def _inverse(deviation: Tensor, size: Tensor) -> Tensor:
    """Return 1 / deviation; 0 where the deviation is only a rounding error of scores of this size."""
    return torch.where(deviation > CONSTANT * size, 1 / deviation, 0)


def simplex(members: int) -> list[Shares]:
    """Return all weightings in tenths for two or three members, in fifths for more; the most equal ones first."""
    steps = 10 if members <= 3 else 5

    def shares(left: int, parts: int) -> Iterator[Shares]:
        if parts == 1:
            yield (left,)
        else:
            for first in range(left + 1):
                yield from ((first, *rest) for rest in shares(left - first, parts - 1))

    grid = sorted(shares(steps, members), key=lambda share: (sum(part**2 for part in share), share))
    return [tuple(part * (WHOLE // steps) for part in share) for share in grid]


def neighbours(shares: Shares, step: int) -> list[Shares]:
    """Return the weightings in which one member gives `step` of its share to another one."""
    found = []
    for giver, taker in itertools.permutations(range(len(shares)), 2):
        if shares[giver] >= step:
            moved = list(shares)
            moved[giver] -= step
            moved[taker] += step
            found.append(tuple(moved))
    return found


@torch.no_grad()
def choose_weights(
    ensemble: Ensemble,
    split: TextSequentialDataset,
    masked: bool,
    measure: Measure,
    batch_size: int,
) -> tuple[Weights, float]:
    """Return the weighting with the highest `measure` on a split, and this measure.

    The search starts at the best weighting of `simplex`; of tied ones it takes the most equal one. From there it climbs
    to the best of the `neighbours` as long as one is better, first in steps of 1/10, then of 1/20. With five members or
    more the start is chosen on every n-th case, so that many weightings cost no more than a few.

    Args:
        masked: whether the history is removed from the candidates.
        measure: what the weights maximise.
    """

    places = torch.arange(len(split), device="cpu")
    scored = _Scored(ensemble, split, masked, places.split(batch_size))
    miss = split.targets_in_history() if masked else None

    def values_on(some: _Scored, step: int, grid: list[Weights]) -> list[float]:
        counts = _counts(some, len(places[::step]), step, torch.tensor(grid, dtype=torch.float32, device="cpu"))
        of_cases = None if miss is None else miss[::step]
        return [measure(one, other, of_cases) for one, other in zip(*counts, strict=True)]

    step = max(1, min(math.ceil(len(simplex(len(ensemble.members))) / FEW), len(split) // ENOUGH))
    part = _Scored(ensemble, split, masked, places[::step].contiguous().split(batch_size))
    start = None if step == 1 else lambda grid: values_on(part, step, grid)
    ensemble.eval()
    with ensemble.shared_items():
        return climbed(lambda grid: values_on(scored, 1, grid), len(ensemble.members), start)


Values = Callable[[list[Weights]], list[float]]
"""The values of several weightings."""


def climbed(values_of: Values, members: int, start: Values | None = None) -> tuple[Weights, float]:
    """Return the weighting with the highest value, and this value: see choose_weights for the search.

    Args:
        start: values that choose the start; those of `values_of` if not given.
    """

    def best_of(grid: list[Shares], values_of: Values = values_of) -> tuple[Shares, float]:
        values = values_of([tuple(share / WHOLE for share in shares) for shares in grid])
        best = int(np.argmax(values))
        return grid[best], values[best]

    chosen, value = best_of(simplex(members), start or values_of)
    if start is not None:
        chosen, value = best_of([chosen])
    for step in (WHOLE // 10, WHOLE // 20):
        while near := neighbours(chosen, step):
            candidate, reached = best_of(near)
            if reached <= value:
                break
            chosen, value = candidate, reached
    return tuple(share / WHOLE for share in chosen), value


class _Scored:
    """Iterates over a split in batches: (cases, the members' scores, targets). Some scores are kept for the next pass.

    The members score on their own device. Their scores are kept and averaged on the CPU.

    Shapes: [B] places in the split, [K, B, N] z-scores (LOWEST for items that aren't candidates), [B] item ids.
    """

    def __init__(
        self, ensemble: Ensemble, split: TextSequentialDataset, masked: bool, batches: Sequence[Tensor]
    ) -> None:
        """`batches` are places in the split, ascending."""
        self.ensemble, self.split, self.masked = ensemble, split, masked
        self.cases = batches
        self.history = split.histories()
        self.room = HELD
        self.held: dict[int, tuple[Tensor, Tensor]] = {}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for number, cases in enumerate(self.cases):
            scores, item = self.held.get(number) or self._score(cases)
            if number not in self.held and scores.numel() <= self.room:
                self.room -= scores.numel()
                self.held[number] = scores, item
            yield cases, scores, item

    def _score(self, cases: Tensor) -> tuple[Tensor, Tensor]:
        interaction = self.split[cases]
        scores = self.ensemble.member_scores(interaction.to(self.ensemble.device)).cpu()
        out = torch.zeros(scores.shape[1:], dtype=torch.bool, device="cpu")  # items that aren't candidates
        out[:, 0] = True
        if self.masked:
            row, item = self.history
            begin, end = np.searchsorted(row.numpy(), [int(cases[0]), int(cases[-1]) + 1])
            place = torch.searchsorted(cases, row[begin:end])
            mine = cases[place] == row[begin:end]  # `cases` may be a part of those between the first and the last one
            out[place[mine], item[begin:end][mine]] = True
        case, item = torch.arange(len(cases), device="cpu"), interaction[self.split.iid_field].cpu()
        out[case, item] = False  # the target keeps its score, which the others are compared with
        return scores.masked_fill_(out, LOWEST), item


def _counts(scored: _Scored, n_cases: int, step: int, weightings: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Count the items that score higher than the target and those tied with it, for `weightings` [W, K]: [W, cases].

    The cases of `scored` are every `step`-th place of the split, `n_cases` in all. Scores are averaged in parts that
    fit into the CPU's cache.
    """
    higher, equal = (np.zeros((len(weightings), n_cases), dtype=np.int64) for _ in range(2))
    for cases, scores, item in scored:
        for some in torch.arange(len(cases), device="cpu").split(max(1, CELLS // scores.shape[2])):
            cells = scores[:, some].flatten(1)
            for which in torch.arange(len(weightings), device="cpu").split(WEIGHTINGS):
                mixed = (weightings[which] @ cells).view(len(which), len(some), -1)
                own = mixed.gather(2, item[some].expand(len(which), -1).unsqueeze(2)).numpy()
                place = np.ix_(which.numpy(), cases[some].numpy() // step)
                # NumPy counts booleans twice as fast as torch sums them.
                higher[place] = np.count_nonzero(mixed.numpy() > own, axis=2)
                equal[place] = np.count_nonzero(mixed.numpy() == own, axis=2) - 1
    return higher, equal
