"""Centring, L2, PCA, whitening, shrinkage and size of text vectors, against scikit-learn, SciPy and plain SVDs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg
from sklearn.decomposition import PCA

from blair_rec.config.steps import STEPS, Step, step_name
from blair_rec.models.transforms import apply_transforms, center, fit_transforms, pca

Shape = tuple[int, int]

EVERY_STEP: list[Step] = [
    "center",
    "l2",
    {"pca": 3},
    {"pca": 20},
    "whiten",
    {"whiten": "pca"},
    {"shrink": 0.5},
    {"shrink": 1.0},
    {"rescale": 2.0},
]


def l2(vectors: np.ndarray) -> np.ndarray:
    """The step alone."""
    return apply_transforms(vectors, ["l2"])


def whiten(vectors: np.ndarray) -> np.ndarray:
    """The step alone."""
    return apply_transforms(vectors, ["whiten"])


def rank_of(vectors: np.ndarray) -> int:
    """Directions that carry any variance."""
    return int(np.linalg.matrix_rank(vectors - vectors.mean(axis=0), tol=1e-9))


def test_every_step_of_the_config_is_tried_here() -> None:
    assert {step_name(step).partition(":")[0] for step in EVERY_STEP} == set(STEPS)


def anisotropic(n: int, width: int, seed: int = 0) -> np.ndarray:
    """[n, width] vectors as encoders give them: a large mean, few strong directions."""
    random = np.random.default_rng(seed)
    return random.standard_normal((n, width)) * np.geomspace(1, 0.05, width) @ random.standard_normal(
        (width, width)
    ) + 5 * random.standard_normal(width)


def covariance(vectors: np.ndarray) -> np.ndarray:
    """[E, E] covariance, divided by n as in the transforms."""
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
@pytest.mark.parametrize("step", EVERY_STEP, ids=step_name)
def test_no_transform_makes_numbers_that_are_not_finite(case: str, step: Step) -> None:
    result = apply_transforms(degenerate[case], [step])
    width = step["pca"] if isinstance(step, dict) and "pca" in step else degenerate[case].shape[1]
    assert result.shape == (len(degenerate[case]), width) and result.dtype == np.float64
    assert np.isfinite(result).all()


@given(shapes, st.integers(0, 99))
def test_equal_vectors_stay_equal(shape: Shape, seed: int) -> None:
    vectors = np.repeat(anisotropic(*shape, seed=seed), 2, axis=0)
    for step in EVERY_STEP:
        result = apply_transforms(vectors, [step])
        np.testing.assert_allclose(result[::2], result[1::2], atol=1e-9)


@given(shapes, st.integers(0, 99), st.lists(st.sampled_from(EVERY_STEP), max_size=4))
def test_rows_that_come_later_go_through_the_map_that_was_fitted(shape: Shape, seed: int, steps: list[Step]) -> None:
    """Rows of the catalogue give the same result alone and with others, and other rows don't change the fit."""
    vectors = anisotropic(*shape, seed=seed)
    fitted, result = fit_transforms(vectors, steps)
    scale = 1 + np.abs(result).max()
    np.testing.assert_allclose(fitted.apply(vectors), result, atol=1e-9 * scale)
    company = np.vstack([vectors[-1:], 100 * anisotropic(3, shape[1], seed=seed + 1)])
    np.testing.assert_allclose(fitted.apply(company)[0], result[-1], atol=1e-7 * scale)
    np.testing.assert_allclose(fitted.apply(vectors), result, atol=1e-9 * scale)


@given(shapes, st.integers(0, 99), st.lists(st.sampled_from(EVERY_STEP), max_size=4))
def test_what_a_fit_has_found_is_enough_to_map_in_the_same_way(shape: Shape, seed: int, steps: list[Step]) -> None:
    vectors, others = anisotropic(*shape, seed=seed), anisotropic(3, shape[1], seed=seed + 1)
    fitted, result = fit_transforms(vectors, steps)
    again, mapped = fit_transforms(others, steps, fitted.arrays)
    assert mapped.tobytes() == fitted.apply(others).tobytes()
    assert again.apply(vectors).tobytes() == result.tobytes()
    told = [{**line, "mean_norm": 0} for line in fitted.report]
    assert [{**line, "mean_norm": 0} for line in again.report] == told


@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_does_not_choose_the_sign_of_a_direction(sign: int) -> None:
    """Two coordinates of the direction are equally large: the first one decides, whatever rounding does."""
    along = np.array([1.0, 0.0, sign * (1 + 1e-12)])
    for one in (along, along[::-1]):
        scores = pca(np.linspace(-1, 1, 9)[:, None] * one, 1)[:, 0]
        assert scores[-1] * one[0] > 0


@given(shapes, st.integers(0, 99))
def test_every_spectral_step_agrees_with_the_singular_values(shape: Shape, seed: int) -> None:
    """Against U, s, V of the centred vectors in float64; directions without variance are zero in all of them."""
    vectors = anisotropic(*shape, seed=seed)
    u, s, v = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    kept = s > 1e-5 * max(s[0], 1e-300) if rank_of(vectors) else np.zeros(len(s), dtype=bool)
    u, s, v = u[:, kept], s[kept], v[kept]
    n, variances = len(vectors), s**2 / len(vectors)
    expected: dict[str, np.ndarray] = {
        "whiten": np.sqrt(n) * u @ v,
        "shrink: 0.5": u * np.sqrt(n * np.sqrt(variances * variances.mean())) @ v if len(s) else 0 * vectors,
        "shrink: 1.0": u * np.sqrt(n * variances.mean()) @ v if len(s) else 0 * vectors,
    }
    steps: list[Step] = ["whiten", {"shrink": 0.5}, {"shrink": 1.0}]
    for step in steps:
        wanted = expected[step_name(step)]
        np.testing.assert_allclose(apply_transforms(vectors, [step]), wanted, atol=1e-6 * (1 + np.abs(wanted).max()))
    turned = apply_transforms(vectors, [{"whiten": "pca"}])
    signs = np.sign(np.sum(turned[:, : len(s)] * u, axis=0))
    np.testing.assert_allclose(turned[:, : len(s)], np.sqrt(n) * u * signs, atol=1e-6 * n)
    assert not turned[:, len(s) :].any()


@pytest.mark.parametrize("degree", [0.01, 0.3, 0.7, 1.0])
def test_shrinkage_moves_variances_towards_their_mean_and_rotates_nothing(degree: float) -> None:
    vectors = anisotropic(300, 8)
    before, after = covariance(vectors), covariance(apply_transforms(vectors, [{"shrink": degree}]))
    values, directions = np.linalg.eigh(before)
    np.testing.assert_allclose(after @ directions, directions * values ** (1 - degree) * values.mean() ** degree)
    np.testing.assert_allclose(apply_transforms(vectors, [{"shrink": degree}]).mean(axis=0), 0, atol=1e-9)


def test_whole_shrinkage_is_whitening_at_the_size_of_the_vectors() -> None:
    vectors = anisotropic(300, 8)
    shrunk = apply_transforms(vectors, [{"shrink": 1.0}])
    np.testing.assert_allclose(shrunk, whiten(vectors) * np.sqrt(np.trace(covariance(vectors)) / 8), rtol=1e-8)
    assert np.trace(covariance(shrunk)) == pytest.approx(np.trace(covariance(vectors)))


@given(shapes, st.integers(0, 99), st.floats(1e-3, 1e3))
def test_rescale_gives_the_root_mean_square_and_changes_no_direction(shape: Shape, seed: int, size: float) -> None:
    vectors = anisotropic(*shape, seed=seed)
    result = apply_transforms(vectors, [{"rescale": size}])
    assert np.sqrt(np.mean(result**2)) == pytest.approx(size)
    np.testing.assert_allclose(l2(result), l2(vectors), atol=1e-12)


def test_l2_makes_rounding_errors_zero() -> None:
    """The mean of all vectors, which an item without text may get, has no direction after centring."""
    vectors = anisotropic(40, 6).astype(np.float32)
    vectors[7] = np.delete(vectors, 7, axis=0).mean(axis=0)
    result = apply_transforms(vectors, ["center", "l2"])
    assert not result[7].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(result, 7, axis=0), axis=1), 1)


# What the run keeps of them


def test_the_report_holds_width_size_rank_and_the_variance_kept() -> None:
    vectors = np.hstack([anisotropic(30, 4), np.full((30, 3), 0.1)])
    theirs = PCA(2, svd_solver="full").fit(vectors)
    fitted, result = fit_transforms(vectors, ["center", {"pca": 2}, {"rescale": 1.0}])
    report = fitted.report
    assert [line["step"] for line in report] == ["center", "pca: 2", "rescale: 1.0"]
    assert [line["width"] for line in report] == [7, 2, 2]
    assert [line.get("rank") for line in report] == [None, 4, None]
    assert report[1]["explained_variance"] == pytest.approx(theirs.explained_variance_ratio_.sum())
    norms = [np.linalg.norm(rows, axis=1).mean() for rows in (vectors, center(vectors), pca(vectors, 2), result)]
    assert [line["mean_norm"] for line in report] == [pytest.approx(norms[at : at + 2]) for at in range(3)]
    assert json.loads(json.dumps(report)) == list(report)


def test_with_one_text_for_all_items_nothing_is_kept_and_the_report_says_so() -> None:
    fitted, result = fit_transforms(np.ones((5, 3)), [{"pca": 2}, "whiten"])
    assert not result.any()
    assert [(line["rank"], line["explained_variance"]) for line in fitted.report] == [(0, 1.0), (0, 1.0)]


@given(st.integers(2, 60), st.integers(0, 99))
def test_vectors_that_are_all_the_same_become_zero(n: int, seed: int) -> None:
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
