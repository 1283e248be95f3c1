"""The test cases of each slice by its definition; the slices of one kind add up to all."""

from __future__ import annotations

import numpy as np
import pytest
from fake_runs import fake_ranks
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.evaluate.runs.run_files import RunRanks
from blair_rec.evaluate.slices import slices

CASES = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 40), st.booleans()), min_size=2, max_size=30)


def ranks_of(cases: list[tuple[int, int, bool]]) -> RunRanks:
    count, length, repeated = (np.array(column) for column in zip(*cases, strict=True))
    return RunRanks(
        **fake_ranks(
            cases=len(cases), target_count=count, history_length=length, target_in_history=repeated.astype(bool)
        )
    )


@given(CASES)
def test_every_case_is_in_one_slice_of_each_kind(cases):
    found = slices(ranks_of(cases))
    for kind in ("popularity", "history", "repetition"):
        total = sum(part.cases.astype(int) for part in found if part.by == kind)
        assert (total == 1).all()


@given(CASES)
def test_slices_hold_what_they_say(cases):
    by_name = {part.name: part for part in slices(ranks_of(cases))}
    lengths = sorted(length for _, length, _ in cases)
    for place, (count, length, repeated) in enumerate(cases):
        popularity = "cold" if count == 0 else "tail" if count <= 5 else "head"
        assert by_name[popularity].cases[place]
        assert by_name["repeated" if repeated else "new"].cases[place]
        # The cuts are rounded down, so at least a third is short and at most a third is long.
        assert by_name["short"].cases[place] == (length <= int(np.quantile(lengths, 1 / 3)))
        assert by_name["long"].cases[place] == (length > int(np.quantile(lengths, 2 / 3)))


def test_thirds_are_thirds_where_lengths_differ_and_labels_name_the_bounds():
    found = {part.name: part for part in slices(ranks_of([(1, length, False) for length in range(1, 31)]))}
    assert [found[name].cases.sum() for name in ("short", "medium", "long")] == [10, 10, 10]
    assert found["short"].label == "short histories (up to 10 events)"
    assert found["medium"].label == "medium histories (11 to 20 events)"
    assert found["long"].label == "long histories (more than 20 events)"
    assert found["tail"].label == "tail items (1 to 5 training events)"


@pytest.mark.parametrize("length", [1, 7])
def test_histories_of_one_length_are_all_short(length):
    found = {part.name: part.cases.sum() for part in slices(ranks_of([(1, length, False)] * 9))}
    assert (found["short"], found["medium"], found["long"]) == (9, 0, 0)
