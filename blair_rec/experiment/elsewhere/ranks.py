"""Ranks of targets in the lists of another system: an item that a list lacks is a miss for every metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blair_rec.config.names import ProtocolName
from blair_rec.errors import SourceError, agreed, counted
from blair_rec.experiment.elsewhere.cases import IN_WORDS, Cases
from blair_rec.experiment.elsewhere.lists import Lists, places


@dataclass(frozen=True, eq=False)
class ListRanks:
    """The ranks of all targets under one protocol. Shapes: B cases."""

    higher: np.ndarray
    """[B] int64: candidates above the target; all others where the list lacks the target."""
    equal: np.ndarray
    """[B] int64: candidates tied with the target."""
    topk: np.ndarray
    """[B, k] int64 item ids, 0 where the list is shorter."""
    depth: int
    """Items in the longest list: metrics up to this cutoff can be measured."""


def rank_lists(cases: Cases, lists: Lists, protocol: ProtocolName, k: int) -> ListRanks:
    """Rank the targets; under the masked protocol the items of the history are removed from the lists.

    Args:
        k: items kept in `topk`.
    """
    others = np.full(len(cases), cases.n_items - 2, dtype=np.int64)
    if protocol == "masked":
        lists = without_history(cases, lists)
        others -= cases.history_sizes - cases.target_in_history
    case, item, score = lists.case, lists.item, lists.score
    own = np.full(len(cases), np.nan)
    hit = item == cases.target[case]
    own[case[hit]] = score[hit]
    above, same = score > own[case], score == own[case]  # both False where the target is not listed
    higher = np.bincount(case[above], minlength=len(cases)).astype(np.int64)
    equal = np.bincount(case[same], minlength=len(cases)).astype(np.int64) - 1
    listed = ~np.isnan(own)
    place = places(case)
    topk = np.zeros((len(cases), min(k, cases.n_items - 1)), dtype=np.int64)
    shown = place < topk.shape[1]
    topk[case[shown], place[shown]] = item[shown]
    return ListRanks(
        np.where(listed, higher, others),
        np.where(listed, equal, 0),
        topk,
        int(lists.lengths(len(cases)).max(initial=0)),
    )


def without_history(cases: Cases, lists: Lists) -> Lists:
    """The lists without the items of the history."""
    return lists.only(~cases.in_history(lists.case, lists.item))


def list_notes(cases: Cases, first: Lists | None, masked: Lists | None, k: int) -> list[str]:
    """Count what a reader has to know: users without a list, short lists, none with its target, masked lists.

    Args:
        first: the lists of `from`; None to look at those of `from_masked` alone.
        masked: the lists of `from_masked`; None if `first` serves both protocols.
        k: the largest cutoff of the metrics.

    Raises:
        SourceError: all lists are shorter than the largest cutoff.
    """
    notes = []
    for one in (one for one in (first, masked) if one is not None):
        name = one.path.name
        if one.skipped:
            users = counted(one.skipped, "user")
            notes.append(f"{name}: the lists of {users} without a {IN_WORDS[cases.part]} case were skipped")
        if empty := int((one.lengths(len(cases)) == 0).sum()):
            of_all = f"{empty:,} of {cases.called(len(cases))}"
            notes.append(f"{name} has no list for {of_all}: their targets count as misses")
    notes += _short(cases, first, "unmasked", k) if first is not None else []
    last = masked or first
    notes += _short(cases, last, "masked", k) if last is not None else []
    for one in (one for one in (first, masked) if one is not None):
        if not (one.item == cases.target[one.case]).any():
            part = IN_WORDS[cases.part]
            notes.append(f"{one.path.name}: no list has its target; make sure that they are for the {part} cases")
    if masked is not None and (listed := int(cases.in_history(masked.case, masked.item).sum())):
        notes.append(f"{masked.path.name} lists {counted(listed, 'item')} of the history, which masking removes")
    if first is not None and len(cases.history_pairs) and not cases.in_history(first.case, first.item).any():
        notes.append(
            f"{first.path.name} lists no item of any history, so its system may have masked them: then the unmasked "
            "figures are too high, and the lists belong under from_masked (`verify --masked`)"
        )
    return notes


def _short(cases: Cases, lists: Lists, protocol: str, k: int) -> list[str]:
    """A note on lists that are shorter than the largest cutoff."""
    name, full = lists.path.name, np.full(len(cases), cases.n_items - 1)
    if protocol == "masked":
        full, before = full - cases.history_sizes, lists
        lists = without_history(cases, lists)
        given = before.lengths(len(cases))
    else:
        given = lists.lengths(len(cases))
    lengths = lists.lengths(len(cases))
    if (depth := int(lengths.max(initial=0))) < k:
        more = (
            "" if protocol == "unmasked" else " after the history is removed, so give k and the history, or from_masked"
        )
        raise SourceError(
            f"{lists.path}: the metrics need lists of {counted(k, 'item')} ({protocol}), and the longest has "
            f"{depth}{more}; give longer lists, or choose metrics with a smaller cutoff"
        )
    short = (given > 0) & (lengths < np.minimum(k, full))
    if not short.any():
        return []
    return [
        f"{name}: {int(short.sum()):,} of {counted(int((given > 0).sum()), 'list')} {agreed(int(short.sum()), 'are')} "
        f"shorter than {counted(k, 'item')} ({protocol}): a target that is not in them counts as a miss"
    ]
