"""Sparse tables of rules between items: counted pairs, division by degree, products, and pruning.

Shapes: N item ids with the padding row 0. All tables are csr_array [N, N] float64 with sorted columns.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array, vstack

from blair_rec.data.sequences import TrainingSequences
from blair_rec.errors import ConfigError, counted

BLOCK = 4096
"""Rows of a product that are in memory before they are pruned."""


def pairs_within(sequences: TrainingSequences, reach: int, n_items: int) -> csr_array:
    """Return the pairs of a target and each item up to `reach` events before it.

    Each time that item j comes d events after item i adds 1 / d to entry (i, j).
    """
    before = np.arange(len(sequences.items)) - np.repeat(sequences.offsets[:-1], np.diff(sequences.offsets))
    table = csr_array((n_items, n_items))
    for distance in range(1, reach + 1):
        target = np.flatnonzero(sequences.is_target & (before >= distance))
        pairs = sequences.items[target - distance], sequences.items[target]
        table = table + csr_array((np.full(len(target), 1 / distance), pairs), table.shape)
    return table


def divided_by_degree(table: csr_array, source_power: float, target_power: float) -> csr_array:
    """Divide each entry (i, j) by (sum of row i) ^ source_power and by (sum of column j) ^ target_power.

    The table may also have a row for only some of the items.

    Raises:
        ConfigError: the powers are so large that entries become 0 or infinite.
    """
    entries = int(np.count_nonzero(table.data))
    sums = [np.asarray(table.sum(axis=axis), dtype=np.float64) for axis in (1, 0)]
    left, right = (
        diags_array(np.power(np.where(total > 0, total, 1), -float(power)))
        for total, power in zip(sums, (source_power, target_power), strict=True)
    )
    if source_power:  # without a power the numbers stay as they are, to the last bit
        table = csr_array(left @ table)
    if target_power:
        table = csr_array(table @ right)
    if lost := entries - int(np.count_nonzero(np.isfinite(table.data) & (table.data != 0))):
        raise ConfigError(
            f"with source_power {source_power:g} and target_power {target_power:g}, {lost:,} of "
            f"{counted(entries, 'rule')} are too large or too small to be stored; choose smaller powers"
        )
    return table


def pruned_product(left: csr_array, right: csr_array, most: int, without: csr_array | None = None) -> csr_array:
    """Return left @ right with only the `most` largest entries of each row, made BLOCK rows after BLOCK rows.

    Entries that `without` has are removed first; its numbers have to be above 0.
    """
    parts = []
    for begin in range(0, left.shape[0], BLOCK):
        part = csr_array(left[begin : begin + BLOCK] @ right)
        if without is not None:
            part = csr_array(part - part.multiply(without[begin : begin + BLOCK] > 0))
            part.eliminate_zeros()
        parts.append(pruned(part, most))
    return csr_array(vstack(parts, format="csr"))


def pruned(table: csr_array, most: int) -> csr_array:
    """Keep the `most` largest entries of each row; of equal ones those with the lowest column."""
    table.sort_indices()
    row = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    order = np.lexsort((-table.data, row))
    kept = np.sort(order[np.arange(len(order)) - table.indptr[row] < most])
    return csr_array((table.data[kept], (row[kept], table.indices[kept])), table.shape)
