"""Centring, L2, whitening and PCA of text vectors, against scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg
from sklearn.decomposition import PCA

from blair_rec.recommend.transforms import TRANSFORMS, apply_transforms, center, l2, pca, whiten

Shape = tuple[int, int]


def anisotropic(n: int, width: int, seed: int = 0) -> np.ndarray:
    """[n, width] vectors as encoders give them: a large mean, few strong directions."""
    random = np.random.default_rng(seed)
    return random.standard_normal((n, width)) * np.geomspace(1, 0.05, width) @ random.standard_normal(
        (width, width)
    ) + 5 * random.standard_normal(width)


def covariance(vectors: np.ndarray) -> np.ndarray:
    """[E, E], over n as the transforms have it."""
    return np.cov(vectors, rowvar=False, bias=True).reshape(vectors.shape[1], vectors.shape[1])


shapes = st.tuples(st.integers(1, 12), st.integers(1, 8))
degenerate = {
    "fewer items than dimensions": anisotropic(4, 9),
    "constant columns": np.hstack([anisotropic(30, 4), np.full((30, 3), 0.1)]),
    "items that occur twice": np.repeat(anisotropic(5, 8), 2, axis=0),
    "one vector for all items": np.tile(np.random.default_rng(0).standard_normal(6), (43, 1)),
    "one item": anisotropic(1, 5),
    "nothing but zeros": np.zeros((6, 4)),
    "one dimension": anisotropic(9, 1),
}


def test_center_takes_the_mean_away_and_nothing_else() -> None:
    vectors = anisotropic(50, 6)
    np.testing.assert_allclose(center(vectors).mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(center(vectors) - center(vectors)[0], vectors - vectors[0], atol=1e-12)


def test_l2_gives_length_one_and_leaves_zero_vectors_alone() -> None:
    vectors = anisotropic(20, 6)
    vectors[3] = 0
    result = l2(vectors)
    np.testing.assert_allclose(np.delete(np.linalg.norm(result, axis=1), 3), 1)
    assert not result[3].any()
    assert (np.sum(result * vectors, axis=1) >= 0).all()


@pytest.mark.parametrize("shape", [(200, 10), (40, 40), (15, 30)])
@pytest.mark.parametrize("width", [1, 4, 10])
def test_pca_is_scikit_learns_up_to_sign(shape: Shape, width: int) -> None:
    vectors = anisotropic(*shape)
    theirs = PCA(width, svd_solver="full").fit_transform(vectors)
    ours = pca(vectors, width)
    np.testing.assert_allclose(ours * np.sign(np.sum(ours * theirs, axis=0)), theirs, rtol=1e-6, atol=1e-8)


def test_pca_beyond_the_rank_is_zero() -> None:
    result = pca(anisotropic(4, 9), 7)
    assert result.shape == (4, 7)
    assert np.abs(result[:, :3]).max(axis=0).min() > 0.1
    assert not result[:, 3:].any()


def test_whitening_gives_mean_zero_and_covariance_one() -> None:
    result = whiten(anisotropic(300, 8))
    np.testing.assert_allclose(result.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(covariance(result), np.eye(8), atol=1e-8)


def test_whitening_is_the_inverse_root_of_the_covariance() -> None:
    vectors = anisotropic(300, 8)
    expected = (vectors - vectors.mean(axis=0)) @ linalg.inv(linalg.sqrtm(covariance(vectors)))
    np.testing.assert_allclose(whiten(vectors), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", degenerate)
def test_whitening_leaves_out_exactly_the_directions_without_variance(case: str) -> None:
    vectors = degenerate[case]
    result = whiten(vectors)
    centred = vectors - vectors[0]  # equal vectors are equal to the last bit here
    rank = np.linalg.matrix_rank(centred - centred.mean(axis=0), tol=1e-9)
    values = np.linalg.eigvalsh(covariance(result)) if len(result) > 1 else np.zeros(vectors.shape[1])
    np.testing.assert_allclose(np.sort(values)[::-1], [1.0] * rank + [0.0] * (vectors.shape[1] - rank), atol=1e-6)


@pytest.mark.parametrize("case", degenerate)
def test_pca_of_degenerate_vectors_keeps_all_distances(case: str) -> None:
    vectors = degenerate[case]
    result = pca(vectors, 20)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.testing.assert_allclose(np.linalg.norm(result[:, None] - result[None], axis=2), apart, atol=1e-6)


@pytest.mark.parametrize("case", degenerate)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_no_transform_makes_numbers_that_are_not_finite(case: str, name: str) -> None:
    result = TRANSFORMS[name](degenerate[case])
    assert result.shape == degenerate[case].shape and result.dtype == np.float64
    assert np.isfinite(result).all()


@given(shapes, st.integers(0, 99))
def test_equal_vectors_stay_equal(shape: Shape, seed: int) -> None:
    vectors = np.repeat(anisotropic(*shape, seed=seed), 2, axis=0)
    for name in TRANSFORMS:
        result = TRANSFORMS[name](vectors)
        np.testing.assert_allclose(result[::2], result[1::2], atol=1e-9)


@given(st.integers(2, 60), st.integers(0, 99))
def test_vectors_that_are_all_the_same_say_nothing(n: int, seed: int) -> None:
    vectors = np.tile(anisotropic(1, 6, seed=seed), (n, 1))
    assert not center(vectors).any() and not whiten(vectors).any() and not pca(vectors, 3).any()


@pytest.mark.parametrize("name", ["whiten", "pca"])
def test_the_order_of_the_items_does_not_matter(name: str) -> None:
    vectors = anisotropic(60, 7)
    order = np.random.default_rng(1).permutation(60)
    transform = whiten if name == "whiten" else (lambda given: pca(given, 5))
    np.testing.assert_allclose(transform(vectors[order]), transform(vectors)[order], rtol=1e-6, atol=1e-8)


def test_the_same_vectors_give_the_same_bits() -> None:
    vectors = anisotropic(80, 16).astype(np.float32)
    for names in (("center",), ("whiten",), ("center", "l2"), ("whiten", "l2")):
        assert apply_transforms(vectors, names).tobytes() == apply_transforms(vectors.copy(), names).tobytes()
    assert pca(vectors, 4).tobytes() == pca(vectors.copy(), 4).tobytes()


def test_transforms_are_applied_in_the_order_named() -> None:
    vectors = anisotropic(30, 5)
    np.testing.assert_array_equal(apply_transforms(vectors, ("center", "l2")), l2(center(vectors)))
    np.testing.assert_array_equal(apply_transforms(vectors, ("l2", "center")), center(l2(vectors)))
    assert np.abs(l2(center(vectors)) - center(l2(vectors))).max() > 0.01


def test_no_transform_gives_the_vectors_in_float64_and_changes_none_in_place() -> None:
    vectors = anisotropic(10, 4).astype(np.float32)
    before = vectors.copy()
    result = apply_transforms(vectors, ())
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, before)
    apply_transforms(vectors, ("center", "whiten", "l2"))
    np.testing.assert_array_equal(vectors, before)
