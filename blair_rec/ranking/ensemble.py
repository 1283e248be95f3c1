"""Finished variants -> one: scores normalised per user and averaged, with weights that validation chooses.

A member's scores become z-scores over all items, user by user. The mean shifts all items of a user alike and leaves
the order as it is; the standard deviation decides how much a member counts for this user. It is taken over all items,
the history among them, so that an item's score doesn't depend on whether the history is masked: the masked ranking is
the other one with the history taken out. A member that scores all items alike for a user adds nothing there.

Shapes: K members, B cases, N item ids with the padding row 0, D the members' vectors side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import ScoringError
from blair_rec.models.scorer import Scorer, refuse_new_items
from blair_rec.models.transforms import FittedTransforms

CONSTANT = 1e-6
"""Scores that differ by less than this share of their size differ by rounding alone."""
LOWEST = -1e30
"""The score of what is no candidate: a number, so that no weight makes anything but a very low one of it."""
CELLS, WEIGHTINGS = 1 << 16, 8
"""Scores of a member, and weightings of them, that are mixed at once."""
WHOLE = 20
"""Weights are chosen in twentieths."""
HELD = 1 << 29
"""Scores kept from one look at the validation split to the next, 2 GiB; what is beyond is computed anew each time."""

Shares = tuple[int, ...]
"""A weighting: what each member has of WHOLE."""


class Ensemble(nn.Module):
    """The weighted mean of its members' z-scores. Its weights are all that is saved: members have runs of their own."""

    weights: Tensor
    fitted_transforms: FittedTransforms | None = None
    """Those of the members are saved with them."""

    def __init__(self, members: Sequence[Scorer], weights: Sequence[float] | None = None) -> None:
        """`members` are models and baselines over the same items; `weights` [K] are equal if not given."""
        super().__init__()
        self.members = tuple(members)  # a tuple, so that their weights are not saved once more
        equal = [1 / len(self.members)] * len(self.members)
        self.register_buffer("weights", torch.tensor(weights or equal, dtype=torch.float32))
        self.ITEM_SEQ, self.ITEM_SEQ_LEN = self.members[0].ITEM_SEQ, self.members[0].ITEM_SEQ_LEN
        self.device = self.members[0].device

    def eval(self) -> Ensemble:
        """As torch's; the members, too."""
        for member in self.members:
            member.eval()
        return super().eval()

    def shared_items(self) -> AbstractContextManager[Any]:
        """As Scorer's, for all members."""
        stack = ExitStack()
        for member in self.members:
            stack.enter_context(member.shared_items())
        return stack

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """[B, N] float32; the column of the padding means nothing."""
        return torch.einsum("k,kbn->bn", self.weights.to(self.device), self.member_scores(interaction))

    def member_scores(self, interaction: Any) -> Tensor:
        """[K, B, N] float32 z-scores.

        Raises:
            ScoringError: a member's scores that are not finite.
        """
        return torch.stack([standardised(member.full_sort_predict(interaction)) for member in self.members])

    @property
    def scores_by_product(self) -> bool:
        """Whether all members do, so that `user_vectors @ item_matrix.T` ranks as the ensemble does."""
        return all(member.scores_by_product for member in self.members)

    def item_matrix(self) -> Tensor:
        """[N, D]: the members' item vectors side by side."""
        return torch.cat([member.item_matrix().float() for member in self.members], dim=1)

    def user_vectors(self, interaction: Any) -> Tensor:
        """[B, D]: the members' user vectors, each times its weight over the standard deviation of its scores.

        The products with `item_matrix` are the ensemble's scores but for the members' means, which are the same for all
        items of a user: items are ordered exactly alike, while products of different users don't compare. The
        deviation follows from the covariance C of a member's item vectors as sqrt(u' C u), so that no item has to be
        scored. Normalisations that are not linear in the scores (by rank, by the largest) can't be had this way.
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
        """As Scorer's.

        Raises:
            ConfigError: always: append them to the members before they are put together.
        """
        refuse_new_items("Ensemble is made of the items that it was given at first")

    @cached_property
    def _spreads(self) -> list[tuple[Tensor, Tensor]]:
        """Of each member: the covariance [H, H] float64 of its item vectors, and the length [] of the longest."""
        tables = [member.item_matrix()[1:].double() for member in self.members]
        covariances = [torch.cov(table.T, correction=0).reshape(table.shape[1], -1) for table in tables]
        return [(c, table.norm(dim=1).max().float()) for c, table in zip(covariances, tables, strict=True)]


def standardised(scores: Tensor) -> Tensor:
    """[B, N] at mean 0 and standard deviation 1 over the items of each row; 0 where they are all alike.

    Raises:
        ScoringError: scores that are not finite.
    """
    items = scores[:, 1:].float()
    if not_finite := int((~torch.isfinite(items)).any(dim=1).sum()):
        raise ScoringError(f"{not_finite} of {len(items)} cases have scores that are not finite, so no mean")
    deviation, mean = torch.std_mean(items, dim=1, keepdim=True, correction=0)
    result = torch.zeros_like(scores, dtype=torch.float32)
    result[:, 1:] = (items - mean) * _inverse(deviation, items.abs().amax(dim=1, keepdim=True))
    return result


def _inverse(deviation: Tensor, size: Tensor) -> Tensor:
    """1 / deviation, and 0 where it is but rounding of scores of this size."""
    return torch.where(deviation > CONSTANT * size, 1 / deviation, 0)


def simplex(members: int) -> list[Shares]:
    """Weightings in shares of WHOLE: tenths for two or three members, fifths for more; the most equal ones first."""
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
    """The weightings in which one member has given `step` of its share to another one."""
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
    measure: Callable[[np.ndarray, np.ndarray, np.ndarray | None], float],
    batch_size: int,
) -> tuple[tuple[float, ...], float]:
    """The weighting whose ranks on a split `measure` best, and what it reaches.

    First the best of `simplex`, among equals the most equal one; then up the hill from there, by the best of the
    `neighbours` for as long as one is better, in tenths and in twentieths.

    Args:
        masked: whether the history is taken out of the candidates.
        measure: of (higher [cases], equal [cases], miss [cases] or None), as in evaluate.metrics.
    """

    scored, miss = _Scored(ensemble, split, masked, batch_size), _in_history(split) if masked else None

    def best_of(grid: list[Shares]) -> tuple[Shares, float]:
        weightings = torch.tensor(grid, dtype=torch.float32, device="cpu") / WHOLE
        higher, equal = _counts(scored, len(split), weightings)
        values = [measure(*counts, miss) for counts in zip(higher, equal, strict=True)]
        best = int(np.argmax(values))
        return grid[best], values[best]

    ensemble.eval()
    with ensemble.shared_items():
        chosen, value = best_of(simplex(len(ensemble.members)))
        for step in (WHOLE // 10, WHOLE // 20):
            while near := neighbours(chosen, step):
                candidate, reached = best_of(near)
                if reached <= value:
                    break
                chosen, value = candidate, reached
    return tuple(share / WHOLE for share in chosen), value


class _Scored:
    """The cases of a split, batch by batch: (cases, the members' scores of them, their true items), some of it kept.

    The members score where they are; what is held and mixed of their scores is on the CPU.

    Shapes: [B] places in the split, [K, B, N] z-scores, LOWEST where there is no candidate, [B] item ids.
    """

    def __init__(self, ensemble: Ensemble, split: TextSequentialDataset, masked: bool, batch_size: int) -> None:
        self.ensemble, self.split, self.masked = ensemble, split, masked
        self.cases = torch.arange(len(split), device="cpu").split(batch_size)
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
        out = torch.zeros(scores.shape[1:], dtype=torch.bool, device="cpu")  # what is no candidate
        out[:, 0] = True
        if self.masked:
            row, item = self.history
            begin, end = np.searchsorted(row.numpy(), [int(cases[0]), int(cases[-1]) + 1])
            out[row[begin:end] - cases[0], item[begin:end]] = True
        case, item = torch.arange(len(cases), device="cpu"), interaction[self.split.iid_field].cpu()
        out[case, item] = False  # a true item is always there, to be compared with
        return scores.masked_fill_(out, LOWEST), item


def _in_history(split: TextSequentialDataset) -> np.ndarray:
    """[cases] bool: whether the true item stands in its own history, and so is no candidate where that is masked."""
    row, item = split.histories()
    found = np.zeros(len(split), dtype=bool)
    found[row[item == split.inter_feat[split.iid_field][row]].numpy()] = True
    return found


def _counts(scored: _Scored, n_cases: int, weightings: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """How many items score higher than the true one and how many the same: [W, cases], of `weightings` [W, K].

    What is mixed of a batch's scores stays in a cache.
    """
    higher, equal = (np.zeros((len(weightings), n_cases), dtype=np.int64) for _ in range(2))
    for cases, scores, item in scored:
        for some in torch.arange(len(cases), device="cpu").split(max(1, CELLS // scores.shape[2])):
            cells = scores[:, some].flatten(1)
            for which in torch.arange(len(weightings), device="cpu").split(WEIGHTINGS):
                mixed = (weightings[which] @ cells).view(len(which), len(some), -1)
                own = mixed.gather(2, item[some].expand(len(which), -1).unsqueeze(2)).numpy()
                place = np.ix_(which.numpy(), cases[some].numpy())
                # NumPy counts bits twice as fast as torch adds them up.
                higher[place] = np.count_nonzero(mixed.numpy() > own, axis=2)
                equal[place] = np.count_nonzero(mixed.numpy() == own, axis=2) - 1
    return higher, equal
