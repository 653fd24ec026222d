"""The bilinear model against plain loops and a general optimiser, and on odd data."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array

from dexml import _rust
from dexml.data import CsrParts, csr_parts
from dexml.text.bilinear import BilinearModel, BilinearSettings, fit_bilinear
from dexml.text.lexical import LexicalIndex, feature_parts

Dense = NDArray[Any]


def sparse(dense: Any) -> csr_array:
    matrix = csr_array(np.asarray(dense, np.float32))
    matrix.sort_indices()
    return matrix


def problem(
    seed: int, n: int = 40, labels: int = 12, c: int = 15, d: int = 14
) -> tuple[csr_array, csr_array, csr_array, NDArray[np.int32]]:
    """Points, labels, positives, and which features have the same name; two labels are unseen."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, c)) * (rng.random((n, c)) < 0.3)
    z = rng.random((labels, d)) * (rng.random((labels, d)) < 0.3)
    y = rng.random((n, labels)) < 0.2
    y[:, [3, labels - 1]] = False
    direct = np.full(d, -1, np.int32)
    direct[:6] = rng.permutation(c)[:6]
    return sparse(x), sparse(z), sparse(y), direct


def support_twin(
    x: Dense, z: Dense, y: Dense, direct: NDArray[np.int32], k: int, alpha: float, weight: float
) -> Dense:
    """The support, entry by entry; ``nan`` where there is none. Ties go to the smaller id."""
    x, z, y = (x != 0).astype(float), (z != 0).astype(float), (y != 0).astype(float)
    z = z * (y.sum(axis=0) > 0)[:, None]
    both = x.T @ y @ z
    p, q = (x.T @ y).sum(axis=1), (y @ z).sum(axis=0)
    union, product = p[:, None] + q[None] - both, np.outer(x.sum(axis=0), z.sum(axis=0))
    with np.errstate(invalid="ignore"):
        value = np.where(both > 0, both / (alpha * union + (1 - alpha) * product), 0.0)
    found = np.full(both.shape, np.nan)
    by_point, by_label = np.zeros(both.shape, bool), np.zeros(both.shape, bool)
    for row in range(both.shape[0]):
        best = sorted(range(both.shape[1]), key=lambda at: (-value[row, at], at))[:k]
        by_point[row, [at for at in best if value[row, at] > 0]] = True
    for column in range(both.shape[1]):
        best = sorted(range(both.shape[0]), key=lambda at: (-value[at, column], at))[:k]
        by_label[[at for at in best if value[at, column] > 0], column] = True
    found[by_point] = value[by_point]
    named = np.zeros(both.shape, bool)
    named[direct[direct >= 0], np.flatnonzero(direct >= 0)] = True
    found[named] = np.nan_to_num(found[named]) + weight
    rest = by_label & ~by_point & ~named
    found[rest] = value[rest]
    return found


def select_support(
    x: csr_array, z: csr_array, y: csr_array, direct: NDArray[np.int32], **options: Any
) -> CsrParts:
    return _rust.select_support(
        feature_parts(x, "x"),
        x.shape[1],
        feature_parts(z, "z"),
        z.shape[1],
        csr_parts(y, "y")[:2],
        direct,
        **options,
    )


def support_of(
    x: csr_array, z: csr_array, y: csr_array, direct: NDArray[np.int32], **options: Any
) -> Dense:
    parts = select_support(x, z, y, direct, **options)
    found = np.full((x.shape[1], z.shape[1]), np.nan)
    rows = np.repeat(np.arange(x.shape[1]), np.diff(parts[0]))
    found[rows, parts[1]] = parts[2]
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_support_is_that_of_the_twin(seed: int, k: int, alpha: float) -> None:
    x, z, y, direct = problem(seed)
    found = support_of(x, z, y, direct, k=k, alpha=alpha, direct_weight=0.5)
    twin = support_twin(x.toarray(), z.toarray(), y.toarray(), direct, k, alpha, 0.5)
    # Equal values may be a rounding apart on either side: which of them is kept is then open.
    np.testing.assert_allclose(np.sort(found, None), np.sort(twin, None), atol=1e-6)
    same = np.isfinite(found) & np.isfinite(twin)
    np.testing.assert_allclose(found[same], twin[same], atol=1e-6)


def primal(
    model: BilinearModel, x: Dense, z: Dense, y: Dense, loss: str, cost: float, positive: float
) -> float:
    """The smallest objective over all pairs of the shortlists, by L-BFGS on built features."""
    support, seen = model.support, np.asarray(y.any(axis=0))
    rows = np.repeat(np.arange(support.shape[0]), np.diff(support.indptr))
    ids, _ = model.find(sparse(x), LexicalIndex(sparse(z)), model.settings.shortlist, only=seen)
    pairs = [(i, label) for i, row in enumerate(ids) for label in row if label >= 0]
    built = np.array([np.append(x[i, rows] * z[label, support.indices], 1.0) for i, label in pairs])
    truth = np.array([y[i, label] > 0 for i, label in pairs])
    sign, costs = np.where(truth, 1.0, -1.0), np.where(truth, cost * positive, cost)

    def value(w: Dense) -> tuple[float, Dense]:
        margin = sign * (built @ w)
        if loss == "squared-hinge":
            short = np.maximum(0.0, 1 - margin)
            losses, slope = short**2, -2 * short
        else:
            losses, slope = np.logaddexp(0, -margin), -1 / (1 + np.exp(margin))
        return 0.5 * w @ w + costs @ losses, w + built.T @ (costs * slope * sign)

    start = np.zeros(built.shape[1])
    return float(minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000}).fun)


@pytest.mark.parametrize("loss", ["squared-hinge", "logistic"])
@pytest.mark.parametrize(("cost", "positive"), [(1.0, 1.0), (0.3, 4.0)])
def test_weights_reach_the_optimum(loss: Any, cost: float, positive: float) -> None:
    x, z, y, direct = problem(1, n=60)
    options = BilinearSettings(
        k=4,
        shortlist=6,
        cost=cost,
        positive_weight=positive,
        loss=loss,
        passes=3000,
        tolerance=1e-8,
    )
    model = fit_bilinear(x, z, y, direct, options, seed=0)
    dense = (x.toarray().astype(float), z.toarray().astype(float), y.toarray())
    best = primal(model, *dense, loss, cost, positive)
    assert model.facts["objective"] == pytest.approx(best, rel=1e-6)


def scores_of(model: BilinearModel, x: csr_array, z: csr_array) -> tuple[Dense, Dense]:
    n, m = x.shape[0], z.shape[0]
    indptr = (np.arange(n + 1) * m).astype(np.int64)
    ids = np.tile(np.arange(m, dtype=np.int32), n)
    fitted, lexical = model.terms(x, feature_parts(z, "z"), (indptr, ids))
    return fitted.reshape(n, m), lexical.reshape(n, m)


def test_scores_are_those_of_dense_products() -> None:
    x, z, y, direct = problem(2)
    model = fit_bilinear(x, z, y, direct, BilinearSettings(k=5, shortlist=6), seed=0)
    w = csr_array((model.refined, model.support.indices, model.support.indptr), model.support.shape)
    fitted, lexical = scores_of(model, x, z)
    dense_x, dense_z = x.toarray().astype(float), z.toarray().astype(float)
    np.testing.assert_allclose(fitted, dense_x @ w.toarray() @ dense_z.T + model.bias, atol=1e-5)
    names = np.zeros(w.shape)
    names[direct[direct >= 0], np.flatnonzero(direct >= 0)] = 1
    np.testing.assert_allclose(lexical, dense_x @ names @ dense_z.T, atol=1e-6)

    sums = dense_x @ model.support.toarray() @ dense_z.T
    ids, found = model.find(x, LexicalIndex(z), 4)
    there = ids >= 0
    taken = np.take_along_axis(sums, np.maximum(ids, 0), axis=1)
    np.testing.assert_allclose(found[there], taken[there], atol=1e-6)
    best = -np.sort(-sums, axis=1)[:, :4]
    np.testing.assert_allclose(np.where(there, found, 0), np.where(there, best, 0), atol=1e-6)

    belief = np.exp(-(np.maximum(0, 1 - fitted.astype(float)) ** 2))
    np.testing.assert_allclose(
        model.combine(fitted, lexical), 0.9 * belief + 0.1 * lexical, atol=1e-6
    )


@pytest.mark.parametrize("loss", ["squared-hinge", "logistic"])
def test_the_number_of_threads_does_not_show(loss: Any) -> None:
    x, z, y, direct = problem(3, n=700, labels=40, c=60, d=50)
    options = BilinearSettings(k=5, shortlist=10, loss=loss)
    one, more = (fit_bilinear(x, z, y, direct, options, seed=4, num_threads=n) for n in (1, 3))
    for a, b in zip(csr_parts(one.support, "a"), csr_parts(more.support, "b"), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.refined, more.refined)
    assert (one.bias, one.facts) == (more.bias, more.facts)
    other = fit_bilinear(x, z, y, direct, options, seed=5)
    assert not np.array_equal(other.refined, one.refined)


def test_unseen_labels_are_never_trained_on_and_still_found() -> None:
    x, z, y, direct = problem(5)
    unseen = np.flatnonzero(np.diff(y.tocsc().indptr) == 0)
    changed = z.toarray()
    changed[unseen] = 0
    options = BilinearSettings(k=5, shortlist=20)
    one = fit_bilinear(x, z, y, direct, options, seed=0)
    two = fit_bilinear(x, sparse(changed), y, direct, options, seed=0)
    np.testing.assert_array_equal(one.refined, two.refined)
    ids, _ = one.find(x, LexicalIndex(z), 12)
    assert np.isin(unseen, ids).all()


def test_one_point_one_label_and_nothing_in_common() -> None:
    x, z, y = sparse([[1, 0]]), sparse([[0, 1]]), sparse([[1]])
    direct = np.array([-1, -1], np.int32)
    model = fit_bilinear(x, z, y, direct, BilinearSettings(shortlist=3), seed=0)
    assert model.facts["weights"] == 1
    assert model.find(x, LexicalIndex(z), 2)[0].tolist() == [[0, -1]]
    nothing = sparse([[0, 1]])
    assert model.find(nothing, LexicalIndex(z), 2)[0].tolist() == [[-1, -1]]
    fitted, lexical = scores_of(model, nothing, z)
    assert fitted.item() == pytest.approx(model.bias)
    assert lexical.item() == 0


@pytest.mark.parametrize("empty", ["y", "x", "z"])
def test_without_positives_or_features_there_are_no_weights(empty: str) -> None:
    x, z, y, direct = problem(6)
    direct[:] = -1
    parts = {"x": x, "z": z, "y": y}
    parts[empty] = csr_array(parts[empty].shape, dtype=np.float32)
    model = fit_bilinear(parts["x"], parts["z"], parts["y"], direct, seed=0)
    assert (model.facts["weights"], model.facts["pairs"]) == (0, 0)
    assert model.find(x, LexicalIndex(z), 2)[0].tolist() == [[-1, -1]] * x.shape[0]


def test_missing_positives_are_added_if_asked_for() -> None:
    x, z, y, direct = problem(7)
    few = BilinearSettings(k=2, shortlist=1)
    without = fit_bilinear(x, z, y, direct, few, seed=0)
    with_all = fit_bilinear(
        x, z, y, direct, BilinearSettings(k=2, shortlist=1, add_positives=True), seed=0
    )
    assert without.facts["positives_found"] < with_all.facts["positives_found"] == y.nnz


def cut_twin(support: CsrParts, limit: int) -> CsrParts:
    """Keep the largest values of each row, the first ones of equals."""
    indptr, indices, data = support
    kept = np.ones(len(data), np.bool_)
    for row in np.flatnonzero(np.diff(indptr) > limit):
        span = slice(indptr[row], indptr[row + 1])
        values = data[span]
        least = np.partition(values, len(values) - limit)[len(values) - limit]
        larger = values > least
        equal = np.flatnonzero(values == least)
        larger[equal[: limit - larger.sum()]] = True
        kept[span] = larger
    ends = np.concatenate([[0], np.cumsum(kept)])
    return ends[indptr], indices[kept], data[kept]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.5]))
def test_rows_of_the_support_keep_their_largest_values(
    seed: int, limit: int, weight: float
) -> None:
    x, z, y, direct = problem(seed)

    options = {"k": 3, "alpha": 0.02, "direct_weight": weight}
    whole, cut = (
        select_support(x, z, y, direct, **options, row_limit=rows) for rows in (None, limit)
    )
    if limit == 1:
        assert (np.diff(whole[0]) > limit).any()
    for found, expected in zip(cut, cut_twin(whole, limit), strict=True):
        np.testing.assert_array_equal(found, expected)
    fitted = fit_bilinear(
        *(x, z, y, direct), BilinearSettings(k=3, direct_weight=weight, row_limit=limit), seed=0
    )
    np.testing.assert_array_equal(fitted.support.data, cut[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k must be at least 1, not 0"),
        ({"alpha": 1.5}, "alpha must be in 0..=1, not 1.5"),
        ({"direct_weight": -1.0}, "direct_weight must be finite and at least 0, not -1"),
        ({"cost": 0.0}, "cost must be finite and above 0, not 0"),
        ({"loss": "hinge"}, "loss must be 'squared-hinge' or 'logistic', not 'hinge'"),
        ({"score_alpha": 2.0}, "score_alpha must be in 0..=1, not 2"),
        ({"shortlist": 0}, "k must be at least 1, not 0"),
        ({"row_limit": 0}, "row_limit must be at least 1, not 0"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    x, z, y, direct = problem(8)
    with pytest.raises(ValueError, match=message):
        fit_bilinear(x, z, y, direct, BilinearSettings(**changes), seed=0)


def test_bad_arrays_are_named() -> None:
    x, z, y, direct = problem(9)
    with pytest.raises(ValueError, match=r"y: shape \(40, 12\), expected \(40, 11\)"):
        fit_bilinear(x, z[:11], y, direct, seed=0)
    with pytest.raises(ValueError, match="direct: 13 values, expected 14"):
        fit_bilinear(x, z, y, direct[:-1], seed=0)
    wrong = direct.copy()
    wrong[2] = 99
    with pytest.raises(ValueError, match=r"direct: row 2: feature 99 out of range"):
        fit_bilinear(x, z, y, wrong, seed=0)
    nan = x.copy()
    nan.data[0] = np.nan
    with pytest.raises(ValueError, match="x: row 0: value is not finite"):
        fit_bilinear(nan, z, y, direct, seed=0)
