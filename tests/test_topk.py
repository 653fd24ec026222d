"""dexml.topk against its slow twin."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

import reference
from dexml.topk import drop_pairs, merge, topk

SCORES = st.sampled_from([-2.0, -0.0, 0.0, 0.5, 1.0, float("inf"), float("-inf")])


@given(
    row=st.dictionaries(st.integers(0, 40), SCORES, max_size=30),
    n_shards=st.integers(1, 9),
    k=st.integers(1, 12),
    width=st.integers(12, 15),
)
def test_merged_shards_equal_the_whole(
    row: dict[int, float], n_shards: int, k: int, width: int
) -> None:
    ids = np.full((n_shards, 2, width), -1, np.int32)
    scores = np.zeros((n_shards, 2, width), np.float32)
    for shard in range(n_shards):
        own = {label: score for label, score in row.items() if label % n_shards == shard}
        best = reference.rank(own)[:width]
        ids[shard, 1, : len(best)] = best
        scores[shard, 1, : len(best)] = [own[label] for label in best]
    expected = reference.rank(row)[:k]
    for threads in (1, 2, 7):
        merged, values = merge(ids, scores, k, num_threads=threads)
        assert merged[1].tolist() == expected + [-1] * (k - len(expected))
        assert values[1, : len(expected)].tolist() == [row[label] for label in expected]
        assert (merged[0] == -1).all()
    listed = merge(list(ids), [*scores], k)
    np.testing.assert_array_equal(listed[0], merged)


def test_shards_may_differ_in_width_and_be_views() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 50, (70, 1000)).astype(np.float32)
    blocks = [(0, 300), (300, 310), (310, 1000)]
    parts = [topk(scores[:, a:b], min(20, b - a)) for a, b in blocks]
    ids = [part[0] + a for part, (a, _) in zip(parts, blocks, strict=True)]
    merged = merge(ids, [part[1] for part in parts], 20)
    whole = topk(scores, 20)
    np.testing.assert_array_equal(merged[0], whole[0])
    np.testing.assert_array_equal(merged[1], whole[1])
    for row, found in zip(scores, whole[0], strict=True):
        assert found.tolist() == reference.rank(dict(enumerate(row.tolist())))[:20]


def test_sparse_scores_and_exclusions() -> None:
    scores = csr_array(np.array([[0.0, 0.3, 0.9, 0.3], [0.0, 0.0, 0.0, -1.0]]))
    exclude = csr_array(([1, 1], ([0, 1], [2, 0])), shape=(2, 4))
    assert topk(scores, 2)[0].tolist() == [[2, 1], [3, -1]]
    assert topk(scores, 2, exclude=exclude)[0].tolist() == [[1, 3], [3, -1]]
    assert topk(scores.toarray(), 2, exclude=exclude)[0].tolist() == [[1, 3], [1, 2]]


LABELS = st.lists(st.integers(0, 30), max_size=20, unique=True)
EXCLUDED = st.lists(st.integers(0, 30), max_size=25)


@given(rows=st.lists(st.tuples(LABELS, EXCLUDED), min_size=1, max_size=150))
def test_dropped_pairs(rows: list[tuple[list[int], list[int]]]) -> None:
    def matrix(labels: list[list[int]], dtype: Any) -> csr_array:
        indptr = np.cumsum([0, *map(len, labels)])
        flat = np.array([label for row in labels for label in row], np.int32)
        return csr_array((flat.astype(dtype) + 1, flat, indptr), shape=(len(labels), 31))

    ranked, excluded = [row for row, _ in rows], [row for _, row in rows]
    left = reference.drop_pairs(ranked, excluded)
    exclude = matrix(excluded, np.float32)
    ids = np.full((len(rows), 20), -1, np.int64)
    padded = ids.copy()
    for i in range(len(rows)):
        ids[i, : len(ranked[i])], padded[i, : len(left[i])] = ranked[i], left[i]
    for threads in (1, 2, 7):
        for dtype in (np.float32, np.float64):
            scores = drop_pairs(matrix(ranked, dtype), exclude, num_threads=threads)
            expected = matrix(left, dtype)
            assert scores.dtype == dtype
            np.testing.assert_array_equal(scores.indptr, expected.indptr)
            np.testing.assert_array_equal(scores.indices, expected.indices)
            np.testing.assert_array_equal(scores.data, expected.data)
        for found in (ids, ids.astype(np.int32)):
            kept = drop_pairs(found, exclude, num_threads=threads)
            assert kept.dtype == found.dtype
            np.testing.assert_array_equal(kept, padded)


IDS, VALUES = np.array([[0, 1]], np.int32), np.array([[2.0, 1.0]], np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: topk(VALUES[0], 1), "scores: 1 dimensions, expected 2"),
        (lambda: topk(VALUES, 0), "k must be at least 1, not 0"),
        (lambda: topk(VALUES * np.nan, 1), "scores: row 0: score of label 0 is NaN"),
        (lambda: topk(VALUES, 1, exclude=csr_array((1, 3))), r"exclude: shape \(1, 3\)"),
        (lambda: topk(csr_array(VALUES), 1, exclude=csr_array((1, 3))), r"exclude: shape"),
        (lambda: drop_pairs(IDS, csr_array((2, 3))), "ids: 1 rows, expected 2"),
        (lambda: drop_pairs(IDS, csr_array((1, 1))), "ids: row 0: label 1 out of range"),
        (lambda: drop_pairs(-IDS[:, ::-1], csr_array((1, 9))), "row 0: label 0 after padding"),
        (lambda: drop_pairs(IDS[0], csr_array((1, 9))), "ids must be 2-d, not 1-d"),
        (lambda: drop_pairs(csr_array(VALUES), csr_array((1, 3))), r"exclude: shape \(1, 3\), but"),
        (lambda: drop_pairs(VALUES, csr_array((1, 2)).tocsc()), "exclude: expected a scipy CSR"),
        (lambda: merge([], [], 1), "0 shards of ids and 0 of scores"),
        (lambda: merge([IDS], [], 1), "1 shards of ids and 0 of scores"),
        (lambda: merge([IDS], [VALUES], 0), "k must be at least 1"),
        (lambda: merge([IDS[0]], [VALUES], 1), "ids of shard 0 must be 2-d, not 1-d"),
        (lambda: merge([IDS], [VALUES[:, :1]], 1), r"shard 0: ids \[1, 2\] and scores \[1, 1\]"),
        (lambda: merge([IDS, IDS[:0]], [VALUES, VALUES[:0]], 1), r"shard 1: .* 1 rows"),
        (lambda: merge([IDS, IDS], [VALUES, VALUES], 2), "shards: row 0: duplicate label 0"),
        (lambda: merge([IDS], [VALUES[:, ::-1]], 2), "row 0: label 1 is not in order"),
        (lambda: merge([IDS], [VALUES * np.nan], 2), "row 0: score of label 0 is NaN"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_dense_float64_scores_are_not_rounded() -> None:
    scores = np.array([[0.5, 0.5 + 1e-12, 1e300], [3.0, 1.0, 2.0]])
    ids, best = topk(scores, 2)
    assert ids.tolist() == [[2, 1], [0, 2]]
    assert best.dtype == np.float32
    exclude = csr_array(([1.0], ([0], [2])), shape=(2, 3))
    assert topk(scores, 2, exclude=exclude)[0].tolist() == [[1, 0], [0, 2]]
    assert topk(np.array([[3, 1, 2]]), 2)[0].tolist() == [[0, 2]]


def test_types_are_named() -> None:
    with pytest.raises(TypeError, match="ids of shard 0 must be int32, not int64"):
        merge([IDS.astype(np.int64)], [VALUES], 1)
    with pytest.raises(TypeError, match="ids must be int32, not float32"):
        drop_pairs(VALUES, csr_array((1, 2)))
