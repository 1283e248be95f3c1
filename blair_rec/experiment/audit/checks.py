"""Check choices that a figure depends on: ties, order of histories, masking, and the way of splitting."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blair_rec.config.comparison import CompareConfig
from blair_rec.config.names import ProtocolName
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.data.shuffled import shuffled_histories
from blair_rec.errors import DatasetError
from blair_rec.evaluate.significance import Interval
from blair_rec.experiment.audit.facts import DAY
from blair_rec.experiment.audit.scoring import (
    CHECK_CELLS,
    FittedScorers,
    case_values,
    changes,
    fit_scorers,
    ranked,
    sample,
    sampled,
)
from blair_rec.experiment.audit.source import Asked, AuditData, read_again
from blair_rec.lines.dates import UNITS, unit_of

FIRST_SHARE, SECOND_SHARE = 0.8, 0.9
"""Proposed cut-off times leave about these shares of all events before them."""


@dataclass(frozen=True)
class Change:
    """A scorer's metric before and after a change of the data or of the split."""

    before: float
    after: float
    relative: float | None
    """after / before - 1; None if before is 0."""
    ci95: Interval | None
    """95% interval of `relative` over users; None if the cases differ, or with too few users."""


@dataclass(frozen=True)
class TieCheck:
    """Ties in time, and what their order decides."""

    neighbours: int
    """Pairs of successive events of a user."""
    tied: int
    """Pairs of successive events with tied times."""
    tests: int
    tied_tests: int
    """Test targets with the time of the event before: the order of ties decides which of the two is the target."""
    changes: Mapping[str, Change]
    """By scorer: from stored to shuffled ties, on the same users."""
    cases: int
    """Number of test cases that were ranked."""


@dataclass(frozen=True)
class OrderCheck:
    """How much the order of histories matters: each scorer with the items of test histories in random order."""

    changes: Mapping[str, Change]
    cases: int


@dataclass(frozen=True)
class CutoffCheck:
    """Cut-off times for all users, and the scorers under them."""

    valid_from: str | float
    test_from: str | float
    training: int
    """Training events."""
    tests: int
    """Test cases."""
    users: int
    """Users with a test case."""
    unseen: int
    """Test targets without a training event."""
    changes: Mapping[str, Change]
    """By scorer: from the split of the audit to cut-off times; the test cases differ."""
    cases: int


@dataclass(frozen=True)
class Checks:
    """All checks. A check is None where it has no object, and `skipped` says why."""

    ties: TieCheck | None
    order: OrderCheck
    cutoffs: CutoffCheck | None
    skipped: tuple[str, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class Given:
    """The input of all checks."""

    asked: Asked
    found: AuditData
    fitted: FittedScorers
    vectors: NDArray[np.float32] | None
    """[N, E] text vectors by item id."""
    transforms: list[str]
    metric: str
    protocol: ProtocolName
    rows: NDArray[np.int64]
    """[Q] the test cases that are ranked again: a sample of those of the main figures."""
    before: Mapping[str, NDArray[np.float64]]
    """By scorer: [Q] the metric of these cases in the main figures."""

    @property
    def part(self) -> TextSequentialDataset:
        """The test cases that are ranked again."""
        return sampled(self.found.test, self.rows)

    @property
    def user(self) -> NDArray[np.int64]:
        """[Q] their users."""
        users: NDArray[np.int64] = self.found.test.inter_feat[self.found.test.uid_field].numpy()[self.rows]
        return users

    def value(self, model: Any, split: TextSequentialDataset) -> NDArray[np.float64]:
        """[cases] the metric of a scorer on every case of a split."""
        return case_values(ranked(model, split), self.metric, self.protocol)


def check_all(given: Given) -> Checks:
    """Run all checks.

    Raises:
        ScoringError: scores that are not finite; the errors of reading the data again.
    """
    skipped = []
    ties = tie_check(given)
    if ties is None and given.found.data.train.log is None:
        skipped.append("benchmark files hold no times, so ties and cut-off times were not examined")
    elif given.found.time is None and given.asked.has_times:
        skipped.append(
            "the times only number the events of each user, so leaks over time, ties, item ages and cut-off times were "
            "not examined"
        )
    cutoffs = None
    if given.found.time is not None:
        if given.asked.config.split is not None:
            skipped.append("the data is split by cut-off times already, so none are proposed")
        else:
            cutoffs = cutoff_check(given)
            if cutoffs is None:
                skipped.append("no cut-off times are proposed, because they would leave a part without cases")
    return Checks(ties, order_check(given), cutoffs, tuple(skipped))


def tie_check(given: Given) -> TieCheck | None:
    """Fit and rank all scorers with the other order of ties; None without tied times."""
    train = given.found.data.train
    if not train.tied_neighbours or given.found.time is None:
        return None
    config = given.asked.config
    other: CompareConfig = config.changed(ties="stored" if config.ties == "shuffled" else "shuffled")
    there_found = read_again(given.asked, other)
    there = _values(given, _refitted(given, there_found), there_found, given.rows)
    stored, shuffled = (there, given.before) if config.ties == "shuffled" else (given.before, there)
    return TieCheck(
        neighbours=train.neighbours,
        tied=train.tied_neighbours,
        tests=given.found.leaks.tests,
        tied_tests=given.found.leaks.tied or 0,
        changes=_paired(shuffled, stored, given.user),
        cases=len(given.rows),
    )


def order_check(given: Given) -> OrderCheck:
    """Rank all scorers with the items of test histories in random order."""
    shuffled = shuffled_histories(given.part)
    after = {name: given.value(model, shuffled) for name, model in given.fitted.models.items()}
    return OrderCheck(_paired(after, given.before, given.user), len(given.rows))


def cutoff_check(given: Given) -> CutoffCheck | None:
    """Propose cut-off times, and rank all scorers with them; None if they leave a part without cases."""
    assert given.found.time is not None
    cutoffs = propose(given.found.time)
    if cutoffs is None:
        return None
    try:
        config = given.asked.config.changed(split=dict(zip(("valid_from", "test_from"), cutoffs, strict=True)))
        there_found = read_again(given.asked, config)
    except DatasetError:
        return None
    rows = sample(there_found.test, CHECK_CELLS)
    after = _values(given, _refitted(given, there_found), there_found, rows)
    means = {name: (float(given.before[name].mean()), float(after[name].mean())) for name in after}
    leaks = there_found.leaks
    return CutoffCheck(
        valid_from=cutoffs[0],
        test_from=cutoffs[1],
        training=leaks.training,
        tests=leaks.tests,
        users=leaks.users - leaks.without_test,
        unseen=leaks.unseen,
        changes={name: Change(b, a, a / b - 1 if b > 0 else None, None) for name, (b, a) in means.items()},
        cases=len(rows),
    )


def propose(time: NDArray[np.float64]) -> tuple[str, str] | tuple[float, float] | None:
    """Cut-off times with about 80% of the events before the first and 90% before the second; None if there are none.

    They are days such as '2014-03-01' if the unit of the times [M] is known and the events cover enough days, and
    numbers in the unit of the data if not.
    """
    unit = unit_of(float(time.min()), float(time.max()))
    quantiles = np.quantile(time, [FIRST_SHARE, SECOND_SHARE], method="higher")
    if unit is not None:
        day = DAY * UNITS[unit]
        first, second = (int(at // day) for at in quantiles)
        if time.min() < first * day < second * day <= time.max():
            epoch = datetime.date(1970, 1, 1)
            days = [(epoch + datetime.timedelta(days=one)).isoformat() for one in (first, second)]
            return days[0], days[1]
    known = np.unique(time)
    if len(known) < 3:
        return None
    at = np.clip(np.searchsorted(known, quantiles), [1, 2], [len(known) - 2, len(known) - 1])
    at[1] = max(at[1], at[0] + 1)
    times = [float(one) for one in known[at]]
    if all(one.is_integer() for one in times):
        return int(times[0]), int(times[1])
    return times[0], times[1]


def _refitted(given: Given, found: AuditData) -> FittedScorers:
    """The same scorers on other splits of the same data; item ids are the same."""
    return fit_scorers(found.data, given.vectors, given.transforms, tuple(given.fitted.models))


def _values(
    given: Given, fitted: FittedScorers, found: AuditData, rows: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    part = sampled(found.test, rows)
    return {name: given.value(model, part) for name, model in fitted.models.items()}


def _paired(
    after: Mapping[str, NDArray[np.float64]], before: Mapping[str, NDArray[np.float64]], user: NDArray[np.int64]
) -> dict[str, Change]:
    names = [name for name in before if name in after]
    found = changes([after[name] for name in names], [before[name] for name in names], user)
    return {
        name: Change(float(before[name].mean()), float(after[name].mean()), *pair)
        for name, pair in zip(names, found, strict=True)
    }
