"""What is done to text vectors before a model sees them: centring, L2, whitening, PCA (NumPy, float64 inside).

Every transform is fitted on the vectors of the data set's items alone; no user or event has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RELATIVE_RANK = 1e-10
"""Directions whose variance is below this share of the largest carry rounding, not text."""


def center(vectors: np.ndarray) -> np.ndarray:
    """[n, E] float64 with the mean vector taken away."""
    # One of the vectors goes first, so that a coordinate that all of them share becomes 0 and not the rounding of a
    # mean, which whitening would blow up to variance 1.
    shifted = vectors - vectors[:1]
    shifted -= shifted.mean(axis=0)
    return shifted


def l2(vectors: np.ndarray) -> np.ndarray:
    """[n, E] float64 at length 1; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def whiten(vectors: np.ndarray) -> np.ndarray:
    """[n, E] float64: ZCA whitening, the rotation-free map to mean 0 and covariance 1.

    Directions without variance stay at zero, so it is exact for fewer items than dimensions, too.
    Source: Kessy, Lewin and Strimmer, Optimal whitening and decorrelation, The American Statistician 2018.
    """
    centred = center(vectors)
    scores, directions, variances = _principal(centred)
    return (scores / np.sqrt(variances)) @ directions


def pca(vectors: np.ndarray, width: int) -> np.ndarray:
    """[n, width] float64: scores on the first principal directions, zeros beyond the rank of the vectors."""
    scores, _, _ = _principal(center(vectors))
    result = np.zeros((len(vectors), width))
    kept = min(width, scores.shape[1])
    result[:, :kept] = scores[:, :kept]
    return result


def apply_transforms(vectors: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """[n, E] float64, after the named transforms in this order."""
    result = np.asarray(vectors, dtype=np.float64)
    for name in names:
        result = TRANSFORMS[name](result)
    return result


TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"center": center, "l2": l2, "whiten": whiten}
"""By the name in the config."""


def _principal(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [n, r], directions [r, E] and variances [r] of the r directions that carry any, largest first.

    The covariance is E x E, so the cost does not grow with the square of the number of items. The sign of a
    direction is fixed by its largest coordinate, which makes the result the same on every machine.
    """
    variances, directions = np.linalg.eigh(centred.T @ centred / max(len(centred), 1))
    variances, directions = variances[::-1], directions[:, ::-1].T
    kept = variances > RELATIVE_RANK * max(variances[0], np.finfo(np.float64).tiny)
    variances, directions = variances[kept], directions[kept]
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    return centred @ directions.T, directions, variances
