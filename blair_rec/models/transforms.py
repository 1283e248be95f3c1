"""Transforms of text vectors before a model reads them: steps, fitted once, applied to any rows (NumPy, float64).

Every step is fitted on the vectors of the data set's items alone, without users or events. Items that come later go
through the same map. Shapes: n items, E the width of their vectors, r directions with any variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blair_rec import registry
from blair_rec.config.steps import STEPS, Step, read_step, step_name
from blair_rec.errors import ConfigError
from blair_rec.text.unit import unit_rows

RELATIVE_RANK = 1e-10
"""Directions whose variance is below this share of the largest contain rounding errors, not text."""
RELATIVE_LENGTH = 1e-5
"""Vectors shorter than this share of the longest are rounding errors, too, such as the mean vector after centring."""


class Transform:
    """One step. `fit` reads the vectors of the catalogue; `apply` maps any rows.

    The class of another package is called with the value after its name in a config: keys and values as keyword
    arguments, any other value as the only argument (docs/extend.md).
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        """The result of the fit; `apply` and `report` read nothing else."""

    def fit(self, vectors: np.ndarray) -> None:
        """Fit on the vectors of the catalogue, [n, E] float64."""
        raise NotImplementedError

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Map rows, of the catalogue or others, each one alone: [m, E] -> [m, E'] float64."""
        raise NotImplementedError

    def report(self) -> dict[str, float]:
        """Return what the fit found, for the run's record."""
        return {}


class Center(Transform):
    """`center`: subtract the mean vector."""

    def fit(self, vectors: np.ndarray) -> None:
        # The first vector is subtracted before the mean. So a coordinate that is the same for all items becomes exactly
        # 0, not the rounding error of a mean, which whitening would scale up to variance 1.
        first = vectors[:1].copy()
        self.arrays = {"first": first, "mean": (vectors - first).mean(axis=0)}

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        return vectors - self.arrays["first"] - self.arrays["mean"]


class L2(Transform):
    """`l2`: scale every vector to length 1; a vector that is only a rounding error becomes zero."""

    def fit(self, vectors: np.ndarray) -> None:
        self.arrays = {"least": np.array(RELATIVE_LENGTH * np.linalg.norm(vectors, axis=1).max())}

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        return unit_rows(vectors, self.arrays["least"])


class Rescale(Transform):
    """`{rescale: x}`: multiply all by one factor so that the root mean square of the numbers is x; zeros stay zeros."""

    def __init__(self, rms: float) -> None:
        super().__init__()
        self._rms = rms

    def fit(self, vectors: np.ndarray) -> None:
        found = np.sqrt(np.mean(vectors**2))
        self.arrays = {"factor": np.array(self._rms / found if found > 0 else 1.0)}

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        return vectors * self.arrays["factor"]


class Spectral(Center):
    """Base class of the steps that centre the vectors and then scale or drop principal directions.

    Directions without variance become zero, so these steps are exact with fewer items than dimensions, too.
    """

    def fit(self, vectors: np.ndarray) -> None:
        super().fit(vectors)
        directions, variances = _principal(super().apply(vectors))
        self.arrays["rank"], self.arrays["explained_variance"] = np.array(len(variances)), np.array(1.0)
        self.arrays["matrix"] = self.matrix(directions, variances)

    def matrix(self, directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Return the matrix [E, E'] that centred vectors are multiplied by.

        Shapes: directions [r, E] orthonormal, variances [r] descending.
        """
        raise NotImplementedError

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        return super().apply(vectors) @ self.arrays["matrix"]

    def report(self) -> dict[str, float]:
        """Return `rank`, the number of directions with any variance, and `explained_variance`, the share kept."""
        return {"rank": int(self.arrays["rank"]), "explained_variance": float(self.arrays["explained_variance"])}


class PCA(Spectral):
    """`{pca: width}`: scores on the first principal directions; columns beyond the rank of the vectors are zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def matrix(self, directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Return the matrix [E, width]."""
        kept = min(self._width, len(variances))
        if len(variances):
            self.arrays["explained_variance"] = np.array(variances[:kept].sum() / variances.sum())
        return _widened(directions[:kept].T, self._width)


class Whiten(Spectral):
    """`{whiten: zca}` or `{whiten: pca}`: mean 0, covariance 1.

    zca is the whitening nearest to the identity. pca rotates to the principal directions; columns beyond the rank are
    zero.
    Source: Kessy, Lewin and Strimmer, Optimal whitening and decorrelation, The American Statistician 2018.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def matrix(self, directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Return the matrix [E, E]."""
        scaled = directions.T / np.sqrt(variances)
        return scaled @ directions if self._kind == "zca" else _widened(scaled, directions.shape[1])


class Shrink(Spectral):
    """`{shrink: t}`: partial whitening; the variances move towards their mean, the directions stay the same.

    A direction's variance v becomes v^(1 - t) m^t, where m is the mean of the r variances: t near 0 only centres,
    t = 1 is zca whitening to variance m. Source: the attenuated whitening of Mukundan et al., Understanding and
    Improving Kernel Local Descriptors, IJCV 2019 (eigenvalues to the power -t / 2), here with the size kept.
    """

    def __init__(self, degree: float) -> None:
        super().__init__()
        self._degree = degree

    def matrix(self, directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Return the matrix [E, E]."""
        if len(variances) == 0:
            return np.zeros((directions.shape[1],) * 2)
        factors = (variances / variances.mean()) ** (-self._degree / 2)
        return (directions.T * factors) @ directions


@dataclass(frozen=True, eq=False)
class FittedTransforms:
    """Steps in order, each fitted on the output of the steps before it."""

    steps: tuple[Transform, ...]
    report: tuple[dict[str, Any], ...]
    """For each step: its name, its output width, the mean norm before and after it, and what the fit found."""
    notes: tuple[str, ...] = ()
    """Warnings for readers of the results, about how much of the text is left."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of all fits, under names such as '0.mean'; a checkpoint needs nothing else of the transforms."""
        return {
            f"{place}.{name}": array for place, step in enumerate(self.steps) for name, array in step.arrays.items()
        }

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Map any rows, also rows that the fit has not seen: [m, E] -> [m, E'] float64."""
        result = np.asarray(vectors, dtype=np.float64)
        for step in self.steps:
            result = step.apply(result)
        return result


def fit_transforms(
    vectors: np.ndarray, steps: Sequence[Step], found: Mapping[str, np.ndarray] | None = None
) -> tuple[FittedTransforms, np.ndarray]:
    """Fit the steps on a catalogue; return them and the transformed vectors: [n, E] -> [n, E'] float64.

    `found` holds what an earlier fit found (FittedTransforms.arrays). With it nothing is fitted, so the map is exactly
    the earlier one, on any machine.

    Raises:
        ConfigError: a step of another package can't be imported, doesn't take its options, or doesn't return a table.
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
                f"transforms: {step_name(step)} turns {list(before.shape)} into {list(result.shape)}, or into numbers "
                "that are not finite; it has to return one row of finite numbers for each row"
            )
        norms = [float(np.linalg.norm(rows, axis=1).mean()) for rows in (before, result)]
        fitted.append(transform)
        report.append(
            {"step": step_name(step), "width": result.shape[1], "mean_norm": norms, **transform.report()},
        )
    return FittedTransforms(tuple(fitted), tuple(report)), result


def check_steps(steps: Sequence[Step]) -> None:
    """Check that all steps exist and take their options. Raises the same errors as fit_transforms."""
    for step in steps:
        _made(step)


def apply_transforms(vectors: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """Return vectors after these steps, which are fitted on the same vectors: [n, E'] float64."""
    return fit_transforms(vectors, steps)[1]


def center(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors minus their mean vector, [n, E] float64."""
    return apply_transforms(vectors, ["center"])


def pca(vectors: np.ndarray, width: int) -> np.ndarray:
    """Return scores on the first principal directions, [n, width] float64; columns beyond the rank are zero."""
    return apply_transforms(vectors, [{"pca": width}])


def _made(step: Step) -> Transform:
    """Make a step that is not fitted yet. For a step of another package, keys and values are its options.

    Raises:
        ConfigError: it can't be imported, is not a Transform, or doesn't take its options.
        UntrustedCode: as registry.load.
    """
    name, value = read_step(step)
    kind = registry.load_class("transforms", name, Transform, needs=("fit", "apply"))
    if name in STEPS or not isinstance(value, Mapping):
        given, options = ([] if value is None else [value]), {}
    else:
        given, options = [], dict(value)
    if name not in STEPS:
        registry.check_call("transforms", name, kind, len(given), options)
    return kind(*given, **options)


def _widened(matrix: np.ndarray, width: int) -> np.ndarray:
    """Append columns of zeros to [E, r], up to [E, width]."""
    return np.pad(matrix, ((0, 0), (0, width - matrix.shape[1])))


def _principal(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal directions [r, E] with any variance, and their variances [r], largest first.

    The covariance is E x E, so the cost does not grow with the square of the number of items. The largest coordinate
    of a direction fixes its sign; if rounding makes several equally large, the first one does. So the result is the
    same on every machine.
    """
    variances, directions = np.linalg.eigh(centred.T @ centred / max(len(centred), 1))
    variances, directions = variances[::-1], directions[:, ::-1].T
    kept = variances > RELATIVE_RANK * max(variances[0], np.finfo(np.float64).tiny)
    variances, directions = variances[kept], directions[kept]
    sizes = np.abs(directions)
    largest = (sizes >= (1 - 1e-6) * sizes.max(axis=1, keepdims=True)).argmax(axis=1) if len(sizes) else []
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    return directions, variances
