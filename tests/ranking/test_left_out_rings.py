"""The scorer that only benchmarks measure, rings of co-occurrence, against brute force."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rules import FIELDS, HISTORIES, sequences_of

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from left_out_rings import Rings

ITEMS = 6


@settings(max_examples=25, deadline=None)
@given(HISTORIES, st.sampled_from([0, 0.5, 1]))
def test_rings_are_hops_in_the_graph_and_each_item_is_in_its_nearest_one(
    histories: list[list[int]], power: float
) -> None:
    n_items = ITEMS + 1
    edges = np.zeros((n_items, n_items))
    for history in histories:
        for begin, one in enumerate(history):
            for distance, other in enumerate(history[begin + 1 : begin + 11], start=1):
                if one != other:
                    edges[one, other] += 1 / distance
                    edges[other, one] += 1 / distance
    degree = edges.sum(axis=1)
    scale = np.array([total**-power if total else 0 for total in degree])
    near = edges * scale[:, None] * scale
    expected = np.zeros((n_items, n_items))
    for start in range(n_items):
        hops, mass = {start: 0}, np.eye(n_items)[start]
        for hop, weight in enumerate((0.5, 2.0, 3.0), start=1):
            mass = np.array([sum(mass[one] * near[one, to] for one in range(n_items)) for to in range(n_items)])
            ring = [to for to in range(n_items) if mass[to] > 0 and to not in hops]
            hops.update(dict.fromkeys(ring, hop))
            mass = np.array([mass[to] if to in ring else 0 for to in range(n_items)])
            expected[start] += weight * mass
    scorer = Rings(n_items, *FIELDS, first=0.5, second=2.0, third=3.0, power=power)
    np.testing.assert_allclose(scorer.table(sequences_of(histories)).toarray(), expected, rtol=1e-9, atol=1e-12)
