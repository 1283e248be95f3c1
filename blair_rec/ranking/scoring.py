"""Rank the targets of a split: how many candidates score above or tie with each target, and the top-k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.log import LOG_POSITION
from blair_rec.errors import ScoringError, unusable_scores
from blair_rec.models.packed import can_pack, last_states
from blair_rec.models.scorer import Scorer
from blair_rec.models.similarity import as_query

CHUNK = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Scores processed together, by kind of device; on a CPU about the size of its caches."""
WRITTEN_OUT = 1 << 25
"""Scores held together if a model returns them for all items."""
PAIRS = 1 << 15
"""Pairs of a case and an item multiplied together."""
SPARE = 8
"""Candidates kept in addition to the top-k, until float64 decides their order."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of a split's targets among all items.

    `unmasked`: the history stays among the candidates (as in RecBole). `masked`: it is removed (as in RecTools and
    S3-Rec). A target in its own history is not a candidate under masking.

    Shapes: B cases, in the order of the split; int64 where no other type is given.
    """

    user: np.ndarray
    item: np.ndarray
    higher_unmasked: np.ndarray
    """[B] number of other candidates that score above the target."""
    equal_unmasked: np.ndarray
    """[B] number of other candidates that tie with the target."""
    higher_masked: np.ndarray
    equal_masked: np.ndarray
    target_in_history: np.ndarray
    """[B] bool."""
    history_length: np.ndarray
    """[B] number of events before the target."""
    topk_unmasked: np.ndarray
    """[B, k] item ids, best first; 0 where there are fewer candidates."""
    topk_masked: np.ndarray
    """[B, k] item ids, best first; 0 where fewer candidates are left."""

    def counts(self, protocol: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return higher, equal and miss of every case: the arguments of the functions in `evaluate.metrics`."""
        if protocol == "masked":
            return self.higher_masked, self.equal_masked, self.target_in_history
        return self.higher_unmasked, self.equal_unmasked, np.zeros_like(self.target_in_history)


@torch.no_grad()
def rank(model: Scorer, split: TextSequentialDataset, batch_size: int, k: int = 0, first: int = 1) -> Ranks:
    """Rank every case of a split among all items, `batch_size` cases at a time.

    With `first`, only the items from this id on are candidates. Every target has to be one of them.

    For models that score by product, scores are computed for one chunk of items after another, so a whole row of scores
    never exists. The counts are those of float64 arithmetic, whatever the size of a chunk. Other models score as many
    cases together as `WRITTEN_OUT` allows, and their scores are used as they are.

    Raises:
        ScoringError: scores that are not a number, or not one per item.
    """
    model.eval()
    parts: list[dict[str, Tensor]] = []
    with model.shared_items():
        items = ItemMatrix(model.item_matrix().float()) if model.scores_by_product else None
        if items is None:
            batch_size = max(1, min(batch_size, WRITTEN_OUT // split.item_num))
        for begin in range(0, len(split), batch_size):
            rows = slice(begin, begin + batch_size)
            scores: Scores
            if items is None:
                given = model.full_sort_predict(split[rows].to(model.device)).float()
                scores = GivenScores(given, type(model).__name__, split.item_num)
            else:
                scores = Products(states(model, split, rows).float(), items)
            user, target = (
                split.inter_feat[name][rows].to(model.device) for name in (split.uid_field, split.iid_field)
            )
            row, item = (pairs.to(model.device) for pairs in split.histories(rows))
            parts.append({"user": user, "item": target, **_rank(scores, target, row, item, k, first)})
    return Ranks(**{name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]})


def states(model: Any, split: TextSequentialDataset, rows: slice) -> Tensor:
    """Return the states [B, H] of the rows' histories, for the product with the items.

    A model that can be packed computes no padding.
    """
    if not can_pack(type(model)):
        return model.user_vectors(split[rows].to(model.device))
    return as_query(last_states(model, *_windows(split, rows)), model.blair_temperature)


def _windows(split: TextSequentialDataset, rows: slice) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return items [M], first [B] and length [B]: row r's window is items[first[r] : first[r] + length[r]]."""
    length = split.inter_feat[split.item_list_length_field][rows]
    if split.log is not None:
        return split.log.item, (split.inter_feat[LOG_POSITION][rows] - length).numpy(), length.numpy()
    _, items = split.histories(rows)  # benchmark files hold the windows and nothing else
    return items, (length.cumsum(0) - length).numpy(), length.numpy()


class Scores(Protocol):
    """The scores of B cases for N items, computed in parts.

    A candidate scores above the target if its score is higher by more than `slack`. It ties with the target if the two
    scores differ by at most `slack`.
    """

    n_items: int
    slack: dict[torch.dtype, Tensor]
    """[B] float64: how far rounding can move two scores apart, for scores in float32 and in float64."""

    def part(self, begin: int, end: int) -> Tensor:
        """Return [B, end - begin] float32 scores, which may be overwritten; the next call overwrites them, too."""

    def exact(self, case: Tensor, begin: int, end: int) -> Tensor:
        """Return [C, end - begin] float64 scores of some cases."""

    def pairs(self, case: Tensor, item: Tensor) -> Tensor:
        """Return [P] float64 scores of pairs of a case and an item."""


class ItemMatrix:
    """Vectors of all items, [N, H] float32, and the length of the longest."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors
        self.longest = norms(vectors).max()


class Products:
    """Scores that are products of the cases' vectors, [B, H] float32, with the vectors of all items."""

    def __init__(self, cases: Tensor, items: ItemMatrix) -> None:
        self.cases, self.items, self.n_items = cases, items.vectors, len(items.vectors)
        largest = norms(cases) * items.longest
        if wrong := int((~torch.isfinite(largest.float())).sum()):
            raise ScoringError(unusable_scores(wrong, len(cases), "case"))
        # The largest rounding error of a product of H terms, in any order of summation (Higham, Accuracy and Stability
        # of Numerical Algorithms, 3.1), plus a little for the rounding of norms and bounds. The order matters because
        # parts of different sizes may be summed in different orders. Each term may also be rounded to 0.
        terms = cases.shape[1] + 4
        self.slack = {
            dtype: terms * (torch.finfo(dtype).eps / 2 * largest + torch.finfo(dtype).tiny)
            for dtype in (torch.float32, torch.float64)
        }
        self._held = cases.new_empty(0)

    def part(self, begin: int, end: int) -> Tensor:
        size = len(self.cases) * (end - begin)
        if len(self._held) < size:
            self._held = self.cases.new_empty(size)
        return torch.mm(self.cases, self.items[begin:end].T, out=self._held[:size].view(len(self.cases), -1))

    def exact(self, case: Tensor, begin: int, end: int) -> Tensor:
        return self.cases[case].double() @ self.items[begin:end].double().T

    def pairs(self, case: Tensor, item: Tensor) -> Tensor:
        some = zip(case.split(PAIRS), item.split(PAIRS), strict=True)
        return torch.cat([(self.cases[cases].double() * self.items[items].double()).sum(1) for cases, items in some])


def norms(vectors: Tensor) -> Tensor:
    """Return the norm of each row, [R, H] -> [R] float64. Float32 would round the squares of small numbers to 0."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)


class GivenScores:
    """Scores as a model returns them: [B, N] float32."""

    def __init__(self, scores: Tensor, model_name: str, n_items: int) -> None:
        if scores.dim() != 2 or scores.shape[1] != n_items:
            raise ScoringError(f"{model_name} gave scores of shape {tuple(scores.shape)} for {n_items} items")
        if wrong := int(torch.isnan(scores.amax(1)).sum()):
            raise ScoringError(unusable_scores(wrong, len(scores), "case"))
        self.scores, self.n_items = scores, n_items
        self.slack = dict.fromkeys((torch.float32, torch.float64), scores.new_zeros(len(scores), dtype=torch.float64))

    def part(self, begin: int, end: int) -> Tensor:
        return self.scores[:, begin:end]

    def exact(self, case: Tensor, begin: int, end: int) -> Tensor:
        return self.scores[case, begin:end].double()

    def pairs(self, case: Tensor, item: Tensor) -> Tensor:
        return self.scores[case, item].double()


def _rank(scores: Scores, target: Tensor, row: Tensor, item: Tensor, k: int, first: int = 1) -> dict[str, Tensor]:
    """Return counts and top-k of one batch; target: [B] item ids; row, item: [P] histories as pairs (case, item).

    Only the items from `first` on are candidates. A top-k needs all of them: `first` has to be 1 then.
    """
    own = scores.pairs(torch.arange(len(target), device=target.device), target)
    seen = torch.unique(row * scores.n_items + item)
    seen_row, seen_item = seen // scores.n_items, seen % scores.n_items
    seen_score = scores.pairs(seen_row, seen_item)
    best = Best(len(target), min(k, scores.n_items - 1), seen_row, seen_item) if k else None

    above, same = torch.zeros_like(target), torch.full_like(target, -1)  # the target doesn't tie with itself
    width = max(1, CHUNK.get(target.device.type, CHUNK["cuda"]) // len(target))
    for begin in range(first, scores.n_items, width):  # item 0, the padding, is not a candidate
        end = min(begin + width, scores.n_items)
        part = scores.part(begin, end)
        above_here, same_here = count(part, own, scores.slack[part.dtype])
        close = torch.nonzero(same_here).squeeze(1)  # float32 can't decide: at the target, rarely elsewhere
        if len(close):
            exact = scores.exact(close, begin, end)
            above_here[close], same_here[close] = count(exact, own[close], scores.slack[exact.dtype][close])
        above += above_here
        same += same_here
        if best is not None:
            best.look_at(part, begin)

    others = (seen_item != target[seen_row]) & (seen_item >= first)
    above_seen, same_seen = count(seen_score[:, None], own[seen_row], scores.slack[seen_score.dtype][seen_row])
    result = {
        "higher_unmasked": above,
        "equal_unmasked": same,
        "higher_masked": above.index_add(0, seen_row, -above_seen * others),
        "equal_masked": same.index_add(0, seen_row, -same_seen * others),
        "target_in_history": torch.zeros_like(target, dtype=torch.bool).index_fill_(
            0, seen_row[seen_item == target[seen_row]], True
        ),
        "history_length": torch.bincount(row, minlength=len(target)),
    }
    if best is None:
        nothing = target.new_zeros(len(target), 0)
        return {**result, "topk_unmasked": nothing, "topk_masked": nothing}
    left_row, left_item = best.candidates()
    left = (left_row, left_item, scores.pairs(left_row, left_item))
    row, item, score = (torch.cat(both) for both in zip(left, (seen_row, seen_item, seen_score), strict=True))
    result["topk_masked"] = first_of_each(*left, len(target), best.k)
    result["topk_unmasked"] = first_of_each(row, item, score, len(target), best.k)
    return result


def count(scores: Tensor, own: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
    """Count the scores of each row that are more than `slack` above its own score, and those within `slack` of it.

    Shapes: scores [B, n], own and slack [B] float64 -> two of [B] int64.
    """
    low, high = ((own + bound).to(scores.dtype).unsqueeze(1) for bound in (-slack, slack))
    flags = torch.empty_like(scores)  # as numbers, since torch sums these several times as fast as booleans
    above = torch.gt(scores, high, out=flags).sum(1).long()
    return above, torch.ge(scores, low, out=flags).sum(1).long() - above


class Best:
    """Keeps the best candidates of each case so far, without the history, and a few more than k."""

    def __init__(self, n_cases: int, k: int, seen_row: Tensor, seen_item: Tensor) -> None:
        """seen_row, seen_item: [P] the histories, as pairs of a case and an item."""
        self.k, self.kept = k, k + SPARE
        order = torch.argsort(seen_item)
        self._seen_row, self._seen_item = seen_row[order], seen_item[order]
        self._floor = torch.full((n_cases,), -torch.inf, device=seen_row.device)
        """[B] the score that a candidate has to exceed."""
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []
        """Pairs of a case and an item, and their scores: the best so far, and those found since."""

    def look_at(self, part: Tensor, begin: int) -> None:
        """Take the scores [B, n] float32 of the items from `begin` on; those of the history are overwritten."""
        ends = torch.tensor([begin, begin + part.shape[1]], device=part.device)
        here = slice(*torch.searchsorted(self._seen_item, ends).tolist())
        part[self._seen_row[here], self._seen_item[here] - begin] = -torch.inf
        better = torch.nonzero(part.amax(1) > self._floor).squeeze(1)
        part = part[better]
        if self._found:
            row, column = torch.nonzero(part > self._floor[better, None], as_tuple=True)
        else:  # nothing to compare with yet
            columns = part.topk(min(self.kept, part.shape[1]), dim=1).indices
            row, column = torch.nonzero(columns >= 0)[:, 0], columns.flatten()
        self._found.append((better[row], column + begin, part[row, column]))
        if len(self._found) == 1 or sum(len(row) for row, _, _ in self._found) > 3 * self.kept * len(self._floor):
            self._settle()

    def _settle(self) -> None:
        row, item, score = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        order, nth = best_first(row, item, score, len(self._floor))
        last = order[nth == self.kept - 1]
        self._floor[row[last]] = score[last]
        order = order[nth < self.kept]
        self._found = [(row[order], item[order], score[order])]

    def candidates(self) -> tuple[Tensor, Tensor]:
        """Return the candidates as pairs of a case and an item: ([P], [P])."""
        self._settle()
        ((row, item, score),) = self._found
        return row[score > -torch.inf], item[score > -torch.inf]


def best_first(row: Tensor, item: Tensor, score: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Return the order of pairs, and each pair's place in its row, from 0.

    Pairs are sorted by row, then by score with the highest first; tied scores are sorted by item id.

    Shapes: [P] -> [P], [P].
    """
    order = torch.argsort(item)
    order = order[torch.argsort(score[order], descending=True, stable=True)]
    order = order[torch.argsort(row[order], stable=True)]
    size = torch.bincount(row, minlength=n_rows)
    place = torch.arange(len(row), device=row.device) - torch.repeat_interleave(torch.cumsum(size, 0) - size, size)
    return order, place


def first_of_each(row: Tensor, item: Tensor, score: Tensor, n_rows: int, k: int) -> Tensor:
    """Return the k best items of each row, best first, 0 if a row has fewer: [P], [P], [P] -> [n_rows, k]."""
    order, place = best_first(row, item, score, n_rows)
    order, place = order[place < k], place[place < k]
    result = item.new_zeros(n_rows, k)
    result[row[order], place] = item[order]
    return result
