"""Candidates of a ranker and labels that go together, against slow and obvious twins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml.scorers import cooccurrence
from dexml.scorers.candidates import Candidates
from dexml.scorers.cooccurrence import Cooccurrence, companion_scores, companions, top_of

N_LABELS = 7

proposals = st.integers(0, 4).flatmap(
    lambda n: st.lists(
        st.integers(1, 5).flatmap(
            lambda width: st.lists(
                st.lists(st.integers(-1, N_LABELS - 1), min_size=width, max_size=width),
                min_size=n,
                max_size=n,
            ).map(lambda rows: np.array(rows, np.int32).reshape(n, width))
        ),
        min_size=1,
        max_size=3,
    )
)


def random_matrix(shape: tuple[int, int], seed: int, density: float = 0.4) -> csr_array:
    rng = np.random.default_rng(seed)
    dense = rng.random(shape) * (rng.random(shape) < density)
    return csr_array(dense.astype(np.float32))


def rows_of(pairs: Candidates) -> list[list[int]]:
    """The labels of each text."""
    return [pairs.ids[a:b].tolist() for a, b in zip(pairs.indptr, pairs.indptr[1:], strict=False)]


@given(proposals)
def test_the_union_is_that_of_sets(parts: list[NDArray[np.int32]]) -> None:
    pairs = Candidates.union(parts, N_LABELS)
    expected = [
        sorted({int(label) for part in parts for label in part[row]} - {-1})
        for row in range(len(parts[0]))
    ]
    assert rows_of(pairs) == expected
    assert pairs.rows.tolist() == [row for row, labels in enumerate(expected) for _ in labels]
    assert (pairs.n_texts, len(pairs)) == (len(expected), sum(map(len, expected)))
    assert [[i for i in row if i >= 0] for row in pairs.padded.tolist()] == expected
    np.testing.assert_array_equal(pairs.flat(pairs.padded.astype(np.float32)), pairs.ids)


@given(proposals, st.integers(0, 9), st.integers(0, 3))
def test_numbers_of_pairs_are_those_of_loops(
    parts: list[NDArray[np.int32]], seed: int, narrower: int
) -> None:
    pairs = Candidates.union(parts, N_LABELS)
    matrix = random_matrix((pairs.n_texts, N_LABELS - narrower), seed)
    dense = np.pad(matrix.toarray(), ((0, 0), (0, narrower)))
    values = pairs.values_of(matrix)
    np.testing.assert_array_equal(values, dense[pairs.rows, pairs.ids])

    rounded = np.round(values, 1)  # with ties
    ranks, largest = pairs.ranks(rounded), pairs.largest(rounded)
    for text in range(pairs.n_texts):
        own = np.arange(pairs.indptr[text], pairs.indptr[text + 1])
        best_first = sorted(own, key=lambda i: (-rounded[i], pairs.ids[i]))
        for rank, i in enumerate(best_first):
            assert ranks[i] == -np.log1p(np.float64(rank)).astype(np.float32)
            assert largest[i] == max(rounded[own])


@given(proposals, st.data())
def test_some_texts_are_selected_with_their_pairs(
    parts: list[NDArray[np.int32]], data: st.DataObject
) -> None:
    pairs = Candidates.union(parts, N_LABELS)
    texts = data.draw(st.lists(st.sampled_from(range(pairs.n_texts)))) if pairs.n_texts else []
    some, positions = pairs.select(np.array(texts, np.int64))
    assert rows_of(some) == [rows_of(pairs)[text] for text in texts]
    np.testing.assert_array_equal(pairs.ids[positions], some.ids)
    np.testing.assert_array_equal(pairs.rows[positions], np.array(texts)[some.rows])


@pytest.mark.parametrize("k", [1, 3, 20])
def test_the_top_of_sparse_scores(k: int) -> None:
    scores, exclude = random_matrix((5, 8), 0), random_matrix((5, 8), 1, 0.2)
    scores.data[::5] *= -1
    only = np.arange(8) != 3
    found = top_of(scores, k, exclude, only)
    for row in range(5):
        dense = np.where(only & (exclude.toarray()[row] == 0), scores.toarray()[row], 0)
        expected = [i for i in np.argsort(-dense, kind="stable") if dense[i] > 0][:k]
        assert [i for i in found[row] if i >= 0] == expected


def test_companions_are_those_of_dense_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooccurrence, "LONGEST", 4)
    y = (random_matrix((30, 6), 2).toarray() > 0).astype(np.float32)
    counts = y.sum(axis=0)
    expected = np.zeros((6, 6))
    for point in y:
        labels = np.flatnonzero(point)
        if len(labels) <= 4:
            for m in labels:
                for other in labels:
                    if m != other:
                        expected[m, other] += 1 / (counts[m] + 2)
    assert (y.sum(axis=1) > 4).any()
    np.testing.assert_allclose(companions(csr_array(y)).toarray(), expected, rtol=1e-6)


def test_companions_of_the_best_labels_by_loops() -> None:
    matrix = random_matrix((6, 6), 3)
    ids = np.array([[4, 0, 7], [-1, -1, -1], [2, -1, -1], [8, 7, -1]], np.int32)
    scores = np.array(
        [[1.0, 0.98, 0.9], [-np.inf] * 3, [0.1, -np.inf, -np.inf], [3.0, 2.0, -np.inf]], np.float32
    )
    found = companion_scores((ids, scores), matrix, 9)
    assert found.shape == (4, 9)
    expected = np.zeros((4, 9))
    for row in range(4):
        known = [i for i in range(3) if 0 <= ids[row, i] < 6]  # labels that came later have none
        grown = [
            np.exp(scores[row, i].astype(np.float64) / cooccurrence.TEMPERATURE) for i in known
        ]
        for i, share in zip(known, grown, strict=True):
            expected[row, :6] += np.sqrt(share / sum(grown)) * matrix.toarray()[ids[row, i]]
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-7)


def test_points_that_come_later_count() -> None:
    y, more = random_matrix((9, 4), 4), random_matrix((5, 6), 5)
    more.data[0] = 0  # a stored zero is not a positive
    grown = Cooccurrence(csr_array((y > 0).astype(np.float32))).with_points(more)
    dense = np.concatenate([np.pad(y.toarray(), ((0, 0), (0, 2))), more.toarray()]) > 0
    np.testing.assert_array_equal(grown.counts(8), np.pad(dense.sum(axis=0), (0, 2)))
    np.testing.assert_array_equal(
        grown.companions.toarray(), companions(csr_array(dense.astype(np.float32))).toarray()
    )
