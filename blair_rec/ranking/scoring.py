"""A model and the cases of a split -> how many candidates score above and the same as the true item, and the top-k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.log import LOG_POSITION
from blair_rec.errors import ScoringError
from blair_rec.models.packed import can_pack, last_states
from blair_rec.models.scorer import Scorer
from blair_rec.models.similarity import as_query

CHUNK = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Scores looked at in one go, by kind of device: about what a processor keeps in its caches."""
WRITTEN_OUT = 1 << 25
"""Scores held at once where a model gives them for all items."""
PAIRS = 1 << 15
"""Pairs of a case and an item multiplied at once."""
SPARE = 8
"""Candidates kept beyond the top-k until their order is settled in float64."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the true items of a split ended up among all items.

    `unmasked`: the history stays among the candidates (RecBole's habit); `masked`: it doesn't (RecTools' and
    S3-Rec's). A true item that stands in its own history is no candidate under masking.

    Shapes: B cases, in the order of the split; all int64 but where said.
    """

    user: np.ndarray
    item: np.ndarray
    higher_unmasked: np.ndarray
    """[B] other candidates that score above the true item."""
    equal_unmasked: np.ndarray
    """[B] other candidates that score the same."""
    higher_masked: np.ndarray
    equal_masked: np.ndarray
    target_in_history: np.ndarray
    """[B] bool."""
    history_length: np.ndarray
    """[B] events before the true item."""
    topk_unmasked: np.ndarray
    """[B, k] item ids, best first; 0 where there are fewer candidates."""
    topk_masked: np.ndarray
    """[B, k] item ids, best first; 0 where fewer candidates are left."""


@torch.no_grad()
def rank(model: Scorer, split: TextSequentialDataset, batch_size: int, k: int = 0, first: int = 1) -> Ranks:
    """Score every case of a split against all items, `batch_size` cases at a time.

    With `first` the items from this id on are the candidates; every target has to be one of them.

    Models that score by product meet the items chunk by chunk, so that no row of scores is ever whole; their counts
    are those of float64 arithmetic, whatever the size of a chunk. Other models are asked for as many cases at once
    as `WRITTEN_OUT` holds, and their scores are taken as they give them.

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
    """[B, H] of the rows' histories, ready to meet the items; a model that can be packed computes no padding."""
    if not can_pack(type(model)):
        return model.user_vectors(split[rows].to(model.device))
    return as_query(last_states(model, *_windows(split, rows)), model.blair_temperature)


def _windows(split: TextSequentialDataset, rows: slice) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Items [M] of which row r's window is those from first[r] [B] on, length[r] [B] of them."""
    length = split.inter_feat[split.item_list_length_field][rows]
    if split.log is not None:
        return split.log.item, (split.inter_feat[LOG_POSITION][rows] - length).numpy(), length.numpy()
    _, items = split.histories(rows)  # of benchmark files: the windows and nothing else
    return items, (length.cumsum(0) - length).numpy(), length.numpy()


class Scores(Protocol):
    """The scores of B cases for N items, looked at in parts.

    A candidate scores above the true item if it does so by more than `slack`, and the same if it differs by no more.
    """

    n_items: int
    slack: dict[torch.dtype, Tensor]
    """[B] float64: how far rounding can move two scores apart, for scores in float32 and in float64."""

    def part(self, begin: int, end: int) -> Tensor:
        """[B, end - begin] float32, which may be written into; it holds until the next is asked for."""

    def exact(self, case: Tensor, begin: int, end: int) -> Tensor:
        """[C, end - begin] float64, of some cases."""

    def pairs(self, case: Tensor, item: Tensor) -> Tensor:
        """[P] float64, for pairs of a case and an item."""


class ItemMatrix:
    """Vectors of all items, [N, H] float32, and the length of the longest."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors
        self.longest = norms(vectors).max()


class Products:
    """Scores that are products of vectors: [B, H] float32 of cases with those of all items."""

    def __init__(self, cases: Tensor, items: ItemMatrix) -> None:
        self.cases, self.items, self.n_items = cases, items.vectors, len(items.vectors)
        largest = norms(cases) * items.longest
        if wrong := int((~torch.isfinite(largest.float())).sum()):
            raise ScoringError(f"{wrong} of {len(cases)} cases have scores that are not a number")
        # What a product of H terms can be off by, in whatever order it is summed (Higham, Accuracy and Stability of
        # Numerical Algorithms, 3.1), and some more for the rounding of norms and bounds; a part of another size may
        # be summed in another order.
        off = {dtype: (cases.shape[1] + 4) * torch.finfo(dtype).eps / 2 for dtype in (torch.float32, torch.float64)}
        self.slack = {dtype: share * largest + torch.finfo(dtype).tiny for dtype, share in off.items()}
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
    """[R, H] -> [R] float64, a few rounding errors of float32 off."""
    return torch.linalg.vector_norm(vectors, dim=1).double()


class GivenScores:
    """Scores as a model gives them: [B, N] float32."""

    def __init__(self, scores: Tensor, model_name: str, n_items: int) -> None:
        if scores.dim() != 2 or scores.shape[1] != n_items:
            raise ScoringError(f"{model_name} gave scores of shape {tuple(scores.shape)} for {n_items} items")
        if wrong := int(torch.isnan(scores.amax(1)).sum()):
            raise ScoringError(f"{wrong} of {len(scores)} cases have scores that are not a number")
        self.scores, self.n_items = scores, n_items
        self.slack = dict.fromkeys((torch.float32, torch.float64), scores.new_zeros(len(scores), dtype=torch.float64))

    def part(self, begin: int, end: int) -> Tensor:
        return self.scores[:, begin:end]

    def exact(self, case: Tensor, begin: int, end: int) -> Tensor:
        return self.scores[case, begin:end].double()

    def pairs(self, case: Tensor, item: Tensor) -> Tensor:
        return self.scores[case, item].double()


def _rank(scores: Scores, target: Tensor, row: Tensor, item: Tensor, k: int, first: int = 1) -> dict[str, Tensor]:
    """Counts and top-k of one batch: target [B] item ids; histories as pairs, row [P] of a case and item [P].

    Candidates are the items from `first` on; a top-k of fewer than all can't be asked for.
    """
    own = scores.pairs(torch.arange(len(target), device=target.device), target)
    seen = torch.unique(row * scores.n_items + item)
    seen_row, seen_item = seen // scores.n_items, seen % scores.n_items
    seen_score = scores.pairs(seen_row, seen_item)
    best = Best(len(target), min(k, scores.n_items - 1), seen_row, seen_item) if k else None

    above, same = torch.zeros_like(target), torch.full_like(target, -1)  # the true item is no candidate
    width = max(1, CHUNK.get(target.device.type, CHUNK["cuda"]) // len(target))
    for begin in range(first, scores.n_items, width):  # nor is item 0, the padding
        end = min(begin + width, scores.n_items)
        part = scores.part(begin, end)
        above_here, same_here = count(part, own, scores.slack[part.dtype])
        close = torch.nonzero(same_here).squeeze(1)  # where float32 can't tell: at the true item, and rarely elsewhere
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
    """How many scores of a row are more than `slack` above its own one, and how many no further from it.

    Shapes: scores [B, n], own and slack [B] float64 -> two of [B] int64.
    """
    low, high = ((own + bound).to(scores.dtype).unsqueeze(1) for bound in (-slack, slack))
    flags = torch.empty_like(scores)  # as numbers, since torch sums these several times as fast as booleans
    above = torch.gt(scores, high, out=flags).sum(1).long()
    return above, torch.ge(scores, low, out=flags).sum(1).long() - above


class Best:
    """The best candidates of each case so far, without the history, and a few more than are asked for."""

    def __init__(self, n_cases: int, k: int, seen_row: Tensor, seen_item: Tensor) -> None:
        """seen_row, seen_item: [P] the histories, as pairs of a case and an item."""
        self.k, self.kept = k, k + SPARE
        order = torch.argsort(seen_item)
        self._seen_row, self._seen_item = seen_row[order], seen_item[order]
        self._floor = torch.full((n_cases,), -torch.inf, device=seen_row.device)
        """[B]: what a candidate has to score more than."""
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []
        """Pairs of a case and an item, and their scores: the best so far, and those found since."""

    def look_at(self, part: Tensor, begin: int) -> None:
        """Scores [B, n] float32 of the items from `begin` on; those of the history are overwritten."""
        ends = torch.tensor([begin, begin + part.shape[1]], device=part.device)
        here = slice(*torch.searchsorted(self._seen_item, ends).tolist())
        part[self._seen_row[here], self._seen_item[here] - begin] = -torch.inf
        better = torch.nonzero(part.amax(1) > self._floor).squeeze(1)
        part = part[better]
        if self._found:
            row, column = torch.nonzero(part > self._floor[better, None], as_tuple=True)
        else:  # nothing to compare with
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
        """Pairs of a case and an item: ([P], [P])."""
        self._settle()
        ((row, item, score),) = self._found
        return row[score > -torch.inf], item[score > -torch.inf]


def best_first(row: Tensor, item: Tensor, score: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """The order of pairs row by row, highest score first, the lowest item among equals; and each one's place, from 0.

    Shapes: [P] -> [P], [P].
    """
    order = torch.argsort(item)
    order = order[torch.argsort(score[order], descending=True, stable=True)]
    order = order[torch.argsort(row[order], stable=True)]
    size = torch.bincount(row, minlength=n_rows)
    place = torch.arange(len(row), device=row.device) - torch.repeat_interleave(torch.cumsum(size, 0) - size, size)
    return order, place


def first_of_each(row: Tensor, item: Tensor, score: Tensor, n_rows: int, k: int) -> Tensor:
    """The k best items of each row, best first; 0 where a row has fewer: [P], [P], [P] -> [n_rows, k]."""
    order, place = best_first(row, item, score, n_rows)
    order, place = order[place < k], place[place < k]
    result = item.new_zeros(n_rows, k)
    result[row[order], place] = item[order]
    return result
