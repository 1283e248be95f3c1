"""LambdaMART by LightGBM: fitted with held-out folds, written as LightGBM's text.

Shapes: P pairs of a case and a candidate, G cases, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from blair_rec.errors import CheckpointError, TrainingError
from blair_rec.extras import need

THREADS, FEW = 2, 200_000
"""Threads that fit trees: one for FEW pairs or less, because more threads would only wait for each other. The numbers
are fixed, so that the trees don't depend on the number of cores."""
ALONE = 10_000
"""Up to this many pairs are scored by one thread. The number of threads changes no score."""
FOLDS = 5
MOST_CANDIDATES = 10_000
"""The most candidates of a case that LightGBM can order."""
MISSING_IS_NAN = 2
"""The kind of missing values in LightGBM's `decision_type`, bits 2 and 3: learnt from NaN in the training data."""
TREES_FILE = "trees.txt"
"""The file of a run that holds its trees."""
ROUNDS, PATIENCE = 500, 25
"""The most trees, and how many of them may bring no gain on the held-out folds before fitting stops."""
PARAMETERS: dict[str, Any] = {
    "objective": "lambdarank",
    "metric": "ndcg",
    "eval_at": [10],
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 50,
    "lambda_l2": 1.0,
    "lambdarank_truncation_level": 50,
    "max_bin": 127,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


class Trees:
    """A fitted LambdaMART."""

    def __init__(self, text: str) -> None:
        """
        Args:
            text: LightGBM's own format.

        Raises:
            CheckpointError: LightGBM can't read it.
        """
        import lightgbm

        self.text = text
        try:
            self._booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise CheckpointError(f"the trees of a second stage can't be read: {error}") from None

    @property
    def count(self) -> int:
        """Number of trees."""
        return int(self._booster.num_trees())

    @cached_property
    def leaves(self) -> int:
        """Number of leaves of all trees."""
        return sum(int(line.partition("=")[2]) for line in self.text.splitlines() if line.startswith("num_leaves="))

    @property
    def gains(self) -> np.ndarray:
        """[F] float64: by how much the splits of each feature reduced the loss, in total."""
        return np.asarray(self._booster.feature_importance("gain"), dtype=np.float64)

    @cached_property
    def never_missing(self) -> set[int]:
        """The columns of splits in which no value was missing while the trees were fitted."""
        found: set[int] = set()
        column: list[int] = []
        for line in self.text.splitlines():
            name, _, values = line.partition("=")
            if name == "split_feature":
                column = [int(value) for value in values.split()]
            elif name == "decision_type":
                kinds = [int(value) >> 2 & 3 for value in values.split()]
                found.update(one for one, kind in zip(column, kinds, strict=True) if kind != MISSING_IS_NAN)
        return found

    def scores(self, features: np.ndarray, behind: Mapping[int, float] = MappingProxyType({})) -> np.ndarray:
        """Return the sum of the trees' leaves: [P, F] float32 -> [P] float64.

        Args:
            behind: for columns of top lists, the value of an item behind the list. It takes the place of NaN where the
                trees have never seen a missing value, because LightGBM would read 0.
        """
        if len(features) == 0:
            return np.zeros(0)
        for column in set(behind) & self.never_missing:
            if (missing := np.isnan(features[:, column])).any():
                features = features.copy()
                features[missing, column] = behind[column]
        threads = THREADS if len(features) > ALONE else 1
        return np.asarray(self._booster.predict(features, num_threads=threads), dtype=np.float64)


def need_trees() -> None:
    """Check that LightGBM can be imported.

    Raises:
        MissingExtra: it is not installed, or can't be loaded.
    """
    need("lightgbm", "rerank", "a second stage (rerank)")


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 of trees, to check that the file of a run is unchanged."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_candidates(most: int) -> None:
    """Check the largest number of candidates of a case.

    Raises:
        TrainingError: it is above MOST_CANDIDATES.
    """
    if most > MOST_CANDIDATES:
        raise TrainingError(
            f"a case of the second stage has {most:,} candidates, but LightGBM orders at most {MOST_CANDIDATES:,}; "
            "lower its key `candidates`"
        )


class FittedTrees(NamedTuple):
    """Trees fitted on all cases, and those that served to measure them."""

    trees: Trees
    by_fold: tuple[Trees, ...]
    """For each fold the trees that were fitted on the other folds, as many as in `trees`."""


def fit_trees(features: np.ndarray, relevant: np.ndarray, size: np.ndarray, fold: np.ndarray) -> FittedTrees:
    """Fit LambdaMART. Their number is the one with the best mean NDCG@10 over the held-out folds.

    Args:
        features: [P, F] float32, case by case.
        relevant: [P] bool: whether the candidate is the case's target.
        size: [G] int64, candidates of each case.
        fold: [G] int64, the fold of each case, from 0.

    Raises:
        TrainingError: a case has more than MOST_CANDIDATES candidates.
    """
    import lightgbm

    check_candidates(int(size.max(initial=0)))
    settings = {**PARAMETERS, "num_threads": THREADS if len(features) > FEW else 1}
    data = lightgbm.Dataset(features, relevant.astype(np.int8), group=size, params=settings)
    fold_of_pair = np.repeat(fold, size)
    folds = [(np.flatnonzero(fold_of_pair != one), np.flatnonzero(fold_of_pair == one)) for one in np.unique(fold)]
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    found: Any = lightgbm.cv(settings, data, ROUNDS, folds=folds, callbacks=[stop], return_cvbooster=True)
    best = found["cvbooster"].best_iteration
    whole = lightgbm.train(settings, data, best)
    by_fold = [Trees(part.model_to_string(num_iteration=best)) for part in found["cvbooster"].boosters]
    return FittedTrees(Trees(whole.model_to_string()), tuple(by_fold))
