"""How a second stage counts what is higher than the target, against a loop over cases."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blair_rec.ranking.rerank.fitting import PooledCases


@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=6), masked=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_counts_are_those_of_a_loop_over_cases(sizes: list[int], masked: bool, seed: int) -> None:
    """A size of 0 is a case whose target is not a candidate."""
    rng = np.random.default_rng(seed)
    case = np.repeat(np.arange(len(sizes)), sizes)
    is_target = np.zeros(len(case), dtype=bool)
    for number, size in enumerate(sizes):
        if size:
            is_target[np.flatnonzero(case == number)[rng.integers(size)]] = True
    in_history = rng.random(len(case)) < 0.4
    nothing = np.zeros(len(sizes), dtype=np.int64)
    cases = PooledCases(
        case=case,
        is_target=is_target,
        in_history=in_history,
        features=np.zeros((len(case), 1), dtype=np.float32),
        user=nothing,
        item=nothing,
        history_length=nothing,
        target_in_history=nothing > 0,
        sizes={True: 1.0, False: 1.0},
        n_items=50,
    )
    reached = is_target & ~in_history if masked else is_target
    assert cases.recall(masked) == len(set(case[reached].tolist())) / len(sizes)
    keys = rng.integers(0, 3, (2, len(case)))
    higher, equal = cases.counts(masked, *keys)
    for number, size in enumerate(sizes):
        expected = (48, 0)
        if size:
            mine = np.flatnonzero(case == number)
            target = next(tuple(keys[:, place]) for place in mine if is_target[place])
            others = [
                tuple(keys[:, place]) for place in mine if not is_target[place] and not (masked and in_history[place])
            ]
            expected = sum(other > target for other in others), sum(other == target for other in others)
        assert (higher[number], equal[number]) == expected
