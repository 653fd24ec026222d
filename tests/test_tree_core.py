"""The label tree of the Rust core: its form, its classifiers, its search, and odd input."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from dexml import _rust

OPTIONS: dict[str, Any] = {
    "n_trees": 3,
    "max_leaf": 4,
    "max_label_features": 1000,
    "max_rounds": 5,
    "cost": 1.0,
    "tolerance": 0.1,
    "max_passes": 20,
    "threshold": 0.1,
    "seed": 0,
}

Arrays = tuple[NDArray[np.int32], NDArray[np.float32], Any]


def arrays(matrix: Any) -> Any:
    csr = sparse.csr_array(matrix)
    types = (np.int64, np.int32, np.float32)
    return tuple(
        array.astype(t) for array, t in zip((csr.indptr, csr.indices, csr.data), types, strict=True)
    )


def fit(x: Any, y: Any, **options: Any) -> Arrays:
    model: Arrays = _rust.fit_tree(
        arrays(x), x.shape[1], arrays(y)[:2], y.shape[1], **{**OPTIONS, **options}
    )
    return model


def searchable(model: Arrays, x: Any, y: Any, num_threads: int = 1) -> _rust.LabelTree:
    return _rust.LabelTree(
        *model, n_labels=y.shape[1], n_features=x.shape[1], num_threads=num_threads
    )


def toy(n_points: int = 400, n_labels: int = 30, seed: int = 0) -> tuple[Any, Any]:
    """Each label has two words of its own; a point has those of its labels and some noise.

    The last two labels have no point, the last point no label, and the one before no feature.
    """
    rng = np.random.default_rng(seed)
    y = np.zeros((n_points, n_labels))
    x = rng.random((n_points, 2 * n_labels + 5)) * (rng.random((n_points, 2 * n_labels + 5)) < 0.05)
    for i in range(n_points - 1):
        for label in rng.choice(n_labels - 2, 1 + i % 3, replace=False):
            y[i, label] = 1
            x[i, 2 * label : 2 * label + 2] += 1
    x[-2] = 0
    return sparse.csr_array(x.astype(np.float32)), sparse.csr_array(y)


X, Y = toy()
KNOWN = np.flatnonzero(Y.sum(0))
MODEL = fit(X, Y)


def bounds(n: int, depth: int) -> list[int]:
    """Where leaves begin, if each node gives its first child the larger half."""
    if depth == 0:
        return [0]
    left = -(-n // 2)
    return bounds(left, depth - 1) + [left + b for b in bounds(n - left, depth - 1)]


def test_each_label_is_in_exactly_one_leaf_of_each_tree() -> None:
    labels, bias, (indptr, indices, _) = MODEL
    assert labels.shape == (3, len(KNOWN))
    for tree in labels:
        np.testing.assert_array_equal(np.sort(tree), KNOWN)
        for leaf in np.split(tree, bounds(len(KNOWN), 3)[1:]):
            assert 3 <= len(leaf) <= 4
            assert (np.diff(leaf) > 0).all()
    assert (labels[0] != labels[1]).any()
    # 28 labels: three levels, 2 + 4 + 8 nodes below the root.
    assert bias.shape == (3, 14 + len(KNOWN))
    assert len(indptr) == 3 * (14 + len(KNOWN)) + 1
    assert all((np.diff(indices[a:b]) > 0).all() for a, b in pairwise(indptr))


def test_similar_labels_share_a_leaf() -> None:
    """Two topics with words of their own: the root parts them, from whatever labels it starts."""
    rng = np.random.default_rng(0)
    topic = np.arange(40) % 2
    y = sparse.csr_array(np.eye(40)[np.arange(400) % 40])
    x = np.zeros((400, 20), np.float32)
    for i in range(400):
        x[i, rng.choice(10, 5, replace=False) + 10 * topic[i % 40]] = 1
    labels = fit(sparse.csr_array(x), y, max_leaf=20, n_trees=5)[0]
    for tree in labels:
        assert len(set(topic[tree[:20]])) == len(set(topic[tree[20:]])) == 1


def test_classifiers_minimise_the_objective_of_linear_svc() -> None:
    """With a single leaf the tree is one-against-the-rest over the points that have a label."""
    svm = pytest.importorskip("sklearn.svm")
    labels, bias, weights = fit(
        X, Y, n_trees=1, max_leaf=100, tolerance=1e-6, max_passes=5000, threshold=0.0, cost=0.7
    )
    np.testing.assert_array_equal(labels[0], KNOWN)
    dense = sparse.csr_array((weights[2], weights[1], weights[0]), (len(KNOWN), X.shape[1]))
    points = X[:-1].toarray()
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    points = points / np.where(norms > 0, norms, 1)
    for row in (0, 5, 27):
        truth = Y[:-1, [KNOWN[row]]].toarray().ravel()
        twin = svm.LinearSVC(C=0.7, tol=1e-8, max_iter=100_000).fit(points, truth)
        np.testing.assert_allclose(dense[[row]].toarray(), twin.coef_, atol=1e-4)
        np.testing.assert_allclose(bias[0, row], twin.intercept_[0], atol=1e-4)


def slow_scores(model: Arrays, x: Any, y: Any, beam: int) -> NDArray[np.float64]:
    """The search written down, (n, n_labels): NaN for a label outside, -100 if not reached."""
    labels, bias, (indptr, indices, data) = model
    n_rows = bias.shape[1]
    n_known = labels.shape[1]
    depth = (n_rows - n_known + 2).bit_length() - 2
    starts = [*bounds(n_known, depth), n_known]
    weights = sparse.csr_array((data, indices, indptr), (bias.size, x.shape[1])).toarray()
    scores = np.full((x.shape[0], y.shape[1]), np.nan)
    scores[:, labels[0]] = -100
    for i, row in enumerate(x.toarray()):
        query = row / max(np.linalg.norm(row), 1e-30)
        probability = np.zeros(y.shape[1])
        for t in range(len(labels)):
            margins = weights[t * n_rows : (t + 1) * n_rows] @ query + bias[t]
            loss = np.maximum(0, 1 - margins) ** 2
            nodes = [(0.0, 0)]
            for _ in range(depth):
                nodes = [
                    (log - loss[child - 1], child)
                    for log, node in nodes
                    for child in (2 * node + 1, 2 * node + 2)
                ]
                nodes = sorted(nodes, key=lambda pair: (-pair[0], pair[1]))[:beam]
            for log, node in nodes:
                leaf = node + 1 - 2**depth
                for place in range(starts[leaf], starts[leaf + 1]):
                    label = labels[t, place]
                    probability[label] += np.exp(log - loss[2 ** (depth + 1) - 2 + place])
        reached = probability > 0
        scores[i, reached] = np.log(probability[reached] / len(labels))
    return scores


@pytest.mark.parametrize("beam", [1, 3, 100])
def test_search_agrees_with_the_slow_one(beam: int) -> None:
    x, y = X[:50], Y
    expected = slow_scores(MODEL, x, y, beam)
    tree = searchable(MODEL, X, Y)
    every = np.tile(np.arange(y.shape[1], dtype=np.int32), (50, 1))
    scores = tree.score(arrays(x), every, beam=beam)
    outside = np.isnan(expected)
    assert (scores[outside] == -np.inf).all()
    assert ((scores == -100) == (expected == -100)).all()
    np.testing.assert_allclose(scores[~outside], expected[~outside], rtol=1e-4, atol=1e-5)
    if beam == 100:
        assert (scores[~outside] > -100).all()

    exclude = arrays(sparse.csr_array(np.random.default_rng(0).random((50, 30)) < 0.1))[:2]
    ids, ranked = tree.rank(arrays(x), 7, beam=beam, exclude=exclude)
    for i in range(50):
        row = scores[i].copy()
        row[exclude[1][exclude[0][i] : exclude[0][i + 1]]] = -np.inf
        row[row == -100] = -np.inf
        order = np.lexsort((np.arange(30), -row))[:7]
        best = np.where(row[order] > -np.inf, order, -1)
        np.testing.assert_array_equal(ids[i], best)
        np.testing.assert_array_equal(ranked[i], np.where(best >= 0, row[order], -np.inf))


def test_separable_labels_are_learned() -> None:
    x, y = toy(200, seed=1)
    ids, scores = searchable(MODEL, X, Y).rank(arrays(x), 3, beam=10)
    truth = y.toarray()[:-2]
    hits = truth[np.arange(198), ids[:-2, 0]]
    assert hits.mean() > 0.97
    assert (scores <= 0).all()
    assert (scores >= -100).all()


def test_any_number_of_threads_gives_the_same_bits() -> None:
    models = [fit(X, Y, num_threads=n) for n in (1, 2, 7)]
    for labels, bias, weights in models:
        assert labels.tobytes() == MODEL[0].tobytes()
        assert bias.tobytes() == MODEL[1].tobytes()
        assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, MODEL[2], strict=True))
    ranked = [searchable(MODEL, X, Y, n).rank(arrays(X), 5, beam=4) for n in (1, 2, 7)]
    for ids, scores in ranked:
        assert ids.tobytes() == ranked[0][0].tobytes()
        assert scores.tobytes() == ranked[0][1].tobytes()


def test_seeds_differ() -> None:
    assert (fit(X, Y, seed=1)[0] != MODEL[0]).any()


def test_small_weights_are_dropped() -> None:
    assert np.abs(MODEL[2][2]).min() >= 0.1
    assert len(fit(X, Y, threshold=0.0)[2][2]) > len(MODEL[2][2])


def test_rows_are_scaled_and_label_values_do_not_count() -> None:
    """Powers of two, so that lengths stay exact; a label that stands twice counts once."""
    scaled = sparse.csr_array(sparse.diags_array(2.0 ** (np.arange(400) % 5)) @ X)
    scaled.sort_indices()  # the product does not, and sums depend on the order in the last bit
    x = arrays(scaled)
    indptr, indices, _ = arrays(Y)
    twice = (indptr * 2, np.repeat(indices, 2))
    labels, bias, weights = _rust.fit_tree(x, X.shape[1], twice, Y.shape[1], **OPTIONS)
    np.testing.assert_array_equal(labels, MODEL[0])
    np.testing.assert_array_equal(bias, MODEL[1])
    np.testing.assert_array_equal(weights[2], MODEL[2][2])


def test_features_of_a_row_ascend() -> None:
    """A feature that stands twice would let the solver run away without an error."""
    for features in ([3, 3], [4, 3]):
        x = (np.array([0, 1, 3]), np.array([5, *features], np.int32), np.ones(3, np.float32))
        with pytest.raises(ValueError, match=r"row 1.*3"):
            _rust.fit_tree(x, 8, (np.array([0, 1, 2]), np.array([0, 1], np.int32)), 2, **OPTIONS)


@pytest.mark.parametrize(("n_labels", "max_leaf"), [(1, 2), (2, 2), (3, 2), (5, 100), (9, 3)])
def test_few_labels(n_labels: int, max_leaf: int) -> None:
    x = sparse.csr_array(np.eye(n_labels, dtype=np.float32))
    y = sparse.csr_array(np.eye(n_labels))
    tree = searchable(fit(x, y, max_leaf=max_leaf), x, y)
    ids, _ = tree.rank(arrays(x), 2, beam=1)
    np.testing.assert_array_equal(ids[:, 0], np.arange(n_labels))


def test_points_without_features_or_queries() -> None:
    zero = sparse.csr_array((3, X.shape[1]), dtype=np.float32)
    tree = searchable(MODEL, X, Y)
    ids, scores = tree.rank(arrays(zero), 3, beam=2)
    assert (ids >= 0).all()
    assert np.isfinite(scores).all()
    assert tree.rank(arrays(zero[:0]), 3, beam=2)[0].shape == (0, 3)
    assert tree.score(arrays(zero), np.zeros((3, 0), np.int32), beam=2).shape == (3, 0)
    assert np.isfinite(fit(zero, Y[:3])[1]).all()


def test_huge_values_stay_finite() -> None:
    huge = sparse.csr_array(X * np.float32(3e37))
    tiny = sparse.csr_array(X * np.float32(1e-44))
    for x in (huge, tiny):
        labels, bias, weights = fit(x, Y)
        assert np.isfinite(bias).all()
        assert np.isfinite(weights[2]).all()
        _, scores = searchable((labels, bias, weights), X, Y).rank(arrays(x), 3, beam=2)
        assert np.isfinite(scores).all()


BAD = X.copy()
BAD.data[BAD.indptr[7] + 1] = np.nan


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (BAD, Y, {}, r"x: row 7: value is not finite \(feature \d+\)"),
        (X, Y[:-1], {}, "y: 399 rows, expected 400"),
        (X, sparse.csr_array(Y.shape), {}, "y must hold a label with a point"),
        (X[:0], Y[:0], {}, "y must hold a label with a point"),
        (X, Y, {"n_trees": 0}, "n_trees must be in 1..=1024"),
        (X, Y, {"max_leaf": 1}, "max_leaf must be at least 2"),
        (X, Y, {"max_leaf": -1}, "max_leaf must not be negative"),
        (X, Y, {"max_label_features": 0}, "max_label_features must be at least 1"),
        (X, Y, {"max_rounds": 0}, "max_rounds must be at least 1"),
        (X, Y, {"max_passes": 0}, "max_passes must be at least 1"),
        (X, Y, {"cost": 0.0}, "cost must be finite and above 0"),
        (X, Y, {"tolerance": np.inf}, "tolerance must be finite and above 0"),
        (X, Y, {"threshold": -0.1}, "threshold must be finite and at least 0"),
    ],
)
def test_bad_training_input(x: Any, y: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(x, y, **options)


def test_bad_features_of_a_matrix_are_named() -> None:
    indptr, indices, data = arrays(X)
    indices[0] = 999
    with pytest.raises(ValueError, match="x: row 0: feature 999 out of range"):
        _rust.fit_tree((indptr, indices, data), X.shape[1], arrays(Y)[:2], 30, **OPTIONS)


def with_value(array: NDArray[Any], at: Any, value: float) -> NDArray[Any]:
    changed = array.copy()
    changed[at] = value
    return changed


LABELS, BIAS, (INDPTR, INDICES, DATA) = MODEL


@pytest.mark.parametrize(
    ("labels", "bias", "weights", "message"),
    [
        (with_value(LABELS, (1, 3), 99), BIAS, MODEL[2], "labels: row 1: label 99 out of range"),
        (with_value(LABELS, (1, 3), -1), BIAS, MODEL[2], "labels: row 1: label -1 out of range"),
        (with_value(LABELS, (0, 3), LABELS[0, 4]), BIAS, MODEL[2], "labels: row 0: dup"),
        (with_value(LABELS, (2, 3), 29), BIAS, MODEL[2], "labels: row 2: duplicate label 29"),
        (LABELS[:2].copy(), BIAS, MODEL[2], "bias: 3 rows, but labels has 2"),
        (LABELS[:, 1:].copy(), BIAS, MODEL[2], "classifiers must fit"),
        (LABELS[:0], BIAS[:0], MODEL[2], "n_trees must be at least 1"),
        (LABELS[:, :0].copy(), BIAS, MODEL[2], "labels must be at least 1"),
        (LABELS, BIAS[:, 1:].copy(), MODEL[2], "bias: 123 classifiers, expected 126"),
        (LABELS, with_value(BIAS, (0, 2), np.nan), MODEL[2], r"bias must be .* \(classifier 2\)"),
        (LABELS, BIAS, (INDPTR, INDICES, with_value(DATA, 0, np.inf)), "weights: row 0: value"),
        (LABELS, BIAS, (INDPTR, with_value(INDICES, 0, 70), DATA), "weights: row 0: feature 70"),
        (LABELS, BIAS, (with_value(INDPTR, 4, 0), INDICES, DATA), "weights: row 3: indptr"),
        (LABELS, BIAS, (INDPTR[:0], INDICES, DATA), "weights: indptr is empty"),
    ],
)
def test_a_bad_model_is_refused(labels: Any, bias: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        searchable((labels, bias, weights), X, Y)


def test_bad_queries_are_named() -> None:
    tree = searchable(MODEL, X, Y)
    ids = np.zeros((400, 2), np.int32)
    with pytest.raises(ValueError, match="x: row 7: value is not finite"):
        tree.rank(arrays(BAD), 3, beam=2)
    with pytest.raises(ValueError, match="k must be at least 1"):
        tree.rank(arrays(X), 0, beam=2)
    with pytest.raises(ValueError, match="beam must be at least 1"):
        tree.rank(arrays(X), 3, beam=0)
    with pytest.raises(ValueError, match="exclude: 5 rows, expected 400"):
        tree.rank(arrays(X), 3, beam=2, exclude=arrays(Y[:5])[:2])
    with pytest.raises(ValueError, match="x: row 7: value is not finite"):
        tree.score(arrays(BAD), ids, beam=2)
    with pytest.raises(ValueError, match="ids: 3 rows, expected 400"):
        tree.score(arrays(X), ids[:3].copy(), beam=2)
    with pytest.raises(ValueError, match="ids: row 70: label 30 out of range"):
        tree.score(arrays(X), with_value(ids, (70, 1), 30), beam=2)
