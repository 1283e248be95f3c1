"""What is done to text vectors before a model sees them: steps, fitted once and applied to any rows (NumPy, float64).

Every step is fitted on the vectors of the data set's items alone; no user or event has a part in it. Items that come
later go through the same map. Shapes: n items, E their width, r directions that carry any variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blair_rec import registry
from blair_rec.config.steps import STEPS, Step, read_step, step_name
from blair_rec.errors import ConfigError

RELATIVE_RANK = 1e-10
"""Directions whose variance is below this share of the largest carry rounding, not text."""
RELATIVE_LENGTH = 1e-5
"""So do vectors that are shorter than this share of the longest, such as the mean of all vectors once it is centred."""


class Transform:
    """One step. `fit` looks at the vectors of the catalogue; `apply` maps any rows.

    A step of another package is made with what stands behind its name in a config: keys and values by name, anything
    else as it is (docs/extend.md).
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        """What the fit found: all that `apply` and `report` read."""

    def fit(self, vectors: np.ndarray) -> None:
        """[n, E] float64."""
        raise NotImplementedError

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """[m, E] -> [m, E'] float64, one row from one row: those of the catalogue, or others."""
        raise NotImplementedError

    def report(self) -> dict[str, float]:
        """What the fit found, for the run's record."""
        return {}


class Center(Transform):
    """`center`: the mean vector is taken away."""

    def fit(self, vectors: np.ndarray) -> None:
        """[n, E] float64."""
        # One of the vectors goes first, so that a coordinate that all of them share becomes 0 and not the rounding of
        # a mean, which whitening would blow up to variance 1.
        first = vectors[:1].copy()
        self.arrays = {"first": first, "mean": (vectors - first).mean(axis=0)}

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """[m, E] -> [m, E]."""
        return vectors - self.arrays["first"] - self.arrays["mean"]


class L2(Transform):
    """`l2`: every vector at length 1; what is no more than rounding becomes zero."""

    def fit(self, vectors: np.ndarray) -> None:
        """[n, E] float64."""
        self.arrays = {"least": np.array(RELATIVE_LENGTH * np.linalg.norm(vectors, axis=1).max())}

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """[m, E] -> [m, E]."""
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > self.arrays["least"])


class Rescale(Transform):
    """`{rescale: x}`: one factor for all, so that the root mean square of the numbers is x; all zeros stay zeros."""

    def __init__(self, rms: float) -> None:
        super().__init__()
        self._rms = rms

    def fit(self, vectors: np.ndarray) -> None:
        """[n, E] float64."""
        found = np.sqrt(np.mean(vectors**2))
        self.arrays = {"factor": np.array(self._rms / found if found > 0 else 1.0)}

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """[m, E] -> [m, E]."""
        return vectors * self.arrays["factor"]


class Spectral(Center):
    """Base of the steps that centre and then treat each principal direction in its own way.

    Directions without variance end at zero, so all of them are exact for fewer items than dimensions, too.
    """

    def fit(self, vectors: np.ndarray) -> None:
        """[n, E] float64."""
        super().fit(vectors)
        directions, variances = _principal(super().apply(vectors))
        self.arrays["rank"], self.arrays["explained_variance"] = np.array(len(variances)), np.array(1.0)
        self.arrays["matrix"] = self.matrix(directions, variances)

    def matrix(self, directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """[E, E'] that centred vectors are multiplied by.

        Shapes: directions [r, E] orthonormal, variances [r] descending.
        """
        raise NotImplementedError

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """[m, E] -> [m, E']."""
        return super().apply(vectors) @ self.arrays["matrix"]

    def report(self) -> dict[str, float]:
        """rank: directions that carry any variance; explained_variance: the share of it that is kept."""
        return {"rank": int(self.arrays["rank"]), "explained_variance": float(self.arrays["explained_variance"])}


class PCA(Spectral):
    """`{pca: width}`: scores on the first principal directions, zeros beyond the rank of the vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def matrix(self, directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """[E, width]."""
        kept = min(self._width, len(variances))
        if len(variances):
            self.arrays["explained_variance"] = np.array(variances[:kept].sum() / variances.sum())
        return _widened(directions[:kept].T, self._width)


class Whiten(Spectral):
    """`{whiten: zca}` or `{whiten: pca}`: mean 0, covariance 1.

    zca is the map nearest to the identity, pca turns to the principal directions and leaves zeros beyond the rank.
    Source: Kessy, Lewin and Strimmer, Optimal whitening and decorrelation, The American Statistician 2018.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def matrix(self, directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """[E, E]."""
        scaled = directions.T / np.sqrt(variances)
        return scaled @ directions if self._kind == "zca" else _widened(scaled, directions.shape[1])


class Shrink(Spectral):
    """`{shrink: t}`: whitening by degrees; the spectrum is drawn towards its mean, directions stay where they are.

    A direction's variance v becomes v^(1 - t) m^t, where m is the mean of the r variances: t near 0 only centres,
    t = 1 is zca whitening to variance m. Source: the attenuated whitening of Mukundan et al., Understanding and
    Improving Kernel Local Descriptors, IJCV 2019 (eigenvalues to the power -t / 2), here with the size kept.
    """

    def __init__(self, degree: float) -> None:
        super().__init__()
        self._degree = degree

    def matrix(self, directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """[E, E]."""
        if len(variances) == 0:
            return np.zeros((directions.shape[1],) * 2)
        factors = (variances / variances.mean()) ** (-self._degree / 2)
        return (directions.T * factors) @ directions


@dataclass(frozen=True, eq=False)
class FittedTransforms:
    """Steps in order, each fitted on what the ones before it made of the catalogue."""

    steps: tuple[Transform, ...]
    report: tuple[dict[str, Any], ...]
    """Of each step: its name, the width it leaves, the mean norm before and after, and what the fit found."""
    notes: tuple[str, ...] = ()
    """What a reader of results has to know of what is left of the text."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What the fits found, as '0.mean': all that a checkpoint has to carry."""
        return {
            f"{place}.{name}": array for place, step in enumerate(self.steps) for name, array in step.arrays.items()
        }

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """[m, E] -> [m, E'] float64: rows that the fit has not seen, through the same map."""
        result = np.asarray(vectors, dtype=np.float64)
        for step in self.steps:
            result = step.apply(result)
        return result


def fit_transforms(
    vectors: np.ndarray, steps: Sequence[Step], found: Mapping[str, np.ndarray] | None = None
) -> tuple[FittedTransforms, np.ndarray]:
    """The steps fitted on a catalogue, and what they make of it: [n, E] -> [n, E'] float64.

    With what an earlier fit `found` (FittedTransforms.arrays) nothing is fitted: the map is that one, on any machine.

    Raises:
        ConfigError: a step from outside that can't be imported, doesn't take its options, or gives what is no table.
        UntrustedCode: as registry.load.
    """
    result = np.asarray(vectors, dtype=np.float64)
    fitted, report = [], []
    for place, step in enumerate(steps):
        transform = _made(step)
        if found is None:
            transform.fit(result)
        else:
            own = f"{place}."
            transform.arrays = {key.removeprefix(own): found[key] for key in found if key.startswith(own)}
        before, result = result, transform.apply(result)
        if result.ndim != 2 or len(result) != len(before) or not np.isfinite(result).all():
            raise ConfigError(
                f"transforms: {step_name(step)} makes {list(result.shape)} of {list(before.shape)}, or numbers that "
                "are not finite; it has to give one row of finite numbers for each row"
            )
        norms = [float(np.linalg.norm(rows, axis=1).mean()) for rows in (before, result)]
        fitted.append(transform)
        report.append(
            {"step": step_name(step), "width": result.shape[1], "mean_norm": norms, **transform.report()},
        )
    return FittedTransforms(tuple(fitted), tuple(report)), result


def check_steps(steps: Sequence[Step]) -> None:
    """Whether all steps are there and take their options. Raises as fit_transforms does."""
    for step in steps:
        _made(step)


def apply_transforms(vectors: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """[n, E'] float64: vectors after these steps, fitted on themselves."""
    return fit_transforms(vectors, steps)[1]


def center(vectors: np.ndarray) -> np.ndarray:
    """[n, E] float64 with the mean vector taken away."""
    return apply_transforms(vectors, ["center"])


def pca(vectors: np.ndarray, width: int) -> np.ndarray:
    """[n, width] float64: scores on the first principal directions, zeros beyond the rank of the vectors."""
    return apply_transforms(vectors, [{"pca": width}])


def _made(step: Step) -> Transform:
    """The step before it is fitted. One from outside may be given keys and values, which are its options.

    Raises:
        ConfigError: it can't be imported, is no Transform, or doesn't take its options.
        UntrustedCode: as registry.load.
    """
    name, value = read_step(step)
    kind = registry.load_class("transforms", name, Transform)
    if name in STEPS or not isinstance(value, Mapping):
        given, options = ([] if value is None else [value]), {}
    else:
        given, options = [], dict(value)
    if name not in STEPS:
        registry.check_call("transforms", name, kind, len(given), options)
    transform: Transform = kind(*given, **options)
    return transform


def _widened(matrix: np.ndarray, width: int) -> np.ndarray:
    """[E, r] with columns of zeros up to [E, width]."""
    return np.pad(matrix, ((0, 0), (0, width - matrix.shape[1])))


def _principal(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions [r, E] and variances [r] of the r directions that carry any, largest first.

    The covariance is E x E, so the cost does not grow with the square of the number of items. The sign of a
    direction is fixed by its largest coordinate, the first of those that rounding can't tell apart, which makes the
    result the same on every machine.
    """
    variances, directions = np.linalg.eigh(centred.T @ centred / max(len(centred), 1))
    variances, directions = variances[::-1], directions[:, ::-1].T
    kept = variances > RELATIVE_RANK * max(variances[0], np.finfo(np.float64).tiny)
    variances, directions = variances[kept], directions[kept]
    sizes = np.abs(directions)
    largest = (sizes >= (1 - 1e-6) * sizes.max(axis=1, keepdims=True)).argmax(axis=1) if len(sizes) else []
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    return directions, variances
