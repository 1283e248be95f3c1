"""Text vectors of length 1."""

from __future__ import annotations

import numpy as np


def unit_rows(vectors: np.ndarray, least: float | np.ndarray = 0.0) -> np.ndarray:
    """Divide each row by its length: [n, E] floats -> the same shape and dtype.

    A row becomes zero if its length is not above `least`; so a zero row stays zero. Lengths are computed in the dtype
    of `vectors`: in float32, a row shorter than about 1e-22 counts as zero.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > least)
    return unit
