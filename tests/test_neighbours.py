"""Training points that vote: compared with a dense twin, edited, and refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from dexml import _rust
from dexml.index import exact_search
from dexml.scorers import PointMemory
from dexml.scorers.votes import shares

N, L, D = 60, 40, 6


def unit(seed: int, n: int, dim: int = D) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)


def sparse(seed: int, n: int, n_labels: int = L, share: float = 0.1) -> csr_array:
    return csr_array((np.random.default_rng(seed).random((n, n_labels)) < share).astype(np.float32))


def label_vectors(seed: int = 2) -> np.ndarray:
    """Unit vectors and biases; labels 3 and 7 are the same, and so are their votes nowhere."""
    vectors = np.concatenate(
        [unit(seed, L), np.random.default_rng(seed).normal(size=(L, 1)).astype(np.float32) / 9],
        axis=1,
    )
    vectors[7] = vectors[3]
    return vectors


def dense(
    queries: np.ndarray,
    vectors: np.ndarray,
    points: np.ndarray,
    y: Any,
    *,
    weight: float,
    neighbours: int,
    temperature: float,
    out: Any = None,
    own: np.ndarray | None = None,
) -> np.ndarray:
    """The definition: every point compared, every label scored; -inf for those in `out`."""
    scores = np.zeros((len(queries), len(vectors)))
    for row, query in enumerate(queries.astype(np.float64)):
        direction = query[: points.shape[1]] / np.linalg.norm(query[: points.shape[1]])
        cosines = (points / np.linalg.norm(points, axis=1, keepdims=True)) @ direction
        voters = [i for i in range(len(points)) if own is None or i != own[row]]
        voters = sorted(voters, key=lambda i: (-cosines[i], i))[:neighbours]
        grown = np.exp(cosines[voters] / temperature)
        votes = (y.toarray()[voters] > 0).T @ (grown / grown.sum())
        scores[row] = vectors.astype(np.float64) @ query + weight * votes
    if out is not None:
        scores[out.toarray() > 0] = -np.inf
    return scores


def assert_ranks(found: tuple[np.ndarray, np.ndarray], scores: np.ndarray) -> None:
    """The k best of all scores; what float32 cannot tell apart may change places."""
    ids, given_scores = found
    assert ids.dtype == np.int32
    assert given_scores.dtype == np.float32
    best = -np.sort(-scores, axis=1)[:, : ids.shape[1]]
    np.testing.assert_allclose(given_scores, best, rtol=1e-5, atol=1e-6)
    for row_ids, row_given, row in zip(ids, given_scores, scores, strict=True):
        labels = row_ids[row_ids >= 0]
        assert len(set(labels.tolist())) == len(labels) == np.isfinite(row_given).sum()
        np.testing.assert_allclose(row_given[: len(labels)], row[labels], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("neighbours", [1, 7, N, N + 9])
@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("k", [1, 5, L])
def test_the_dense_definition(neighbours: int, restricted: bool, k: int) -> None:
    queries, vectors, points, y = with_one(unit(0, 23)), label_vectors(), unit(1, N), sparse(3, N)
    exclude = sparse(4, 23, share=0.2) if restricted else None
    only = np.random.default_rng(5).random(L) < 0.7 if restricted else None
    own = np.where(np.arange(23) % 3 == 0, np.arange(23), -1) if restricted else None
    out = sparse(0, 23, share=0) if exclude is None else exclude
    if only is not None:
        out = csr_array(np.maximum(out.toarray(), ~only))
    memory = PointMemory.of(points, y, weight=0.7, neighbours=neighbours, temperature=0.1)
    found = exact_search(queries, vectors, k, exclude=out)
    mixed = memory.mix(queries, found, vectors, k, exclude=exclude, only=only, own=own)
    scores = dense(
        queries,
        vectors,
        points,
        y,
        weight=0.7,
        neighbours=neighbours,
        temperature=0.1,
        out=out,
        own=own,
    )
    assert_ranks(mixed, scores)


@settings(max_examples=60)
@given(st.data())
def test_generated_votes_equal_a_dense_ranking(given_data: st.DataObject) -> None:
    """Multiples of 1/8 are exact in float32, so that ties are true ties: ids and scores agree."""
    draw = given_data.draw
    n_labels, n_points, n = (
        draw(st.integers(1, 9)),
        draw(st.integers(0, 5)),
        draw(st.integers(0, 4)),
    )
    k, b = draw(st.integers(1, 10)), draw(st.integers(0, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries = generator.integers(-2, 3, (n, 2)).astype(np.float32) / np.float32(2)
    vectors = generator.integers(-2, 3, (n_labels, 2)).astype(np.float32) / np.float32(2)
    y = csr_array((generator.random((n_points, n_labels)) < 0.4).astype(np.float32))
    near = np.full((n, b), -1, np.int32)
    votes = (generator.integers(0, 4, (n, b)) / 8).astype(np.float32)
    for voters in near:
        some = generator.permutation(n_points)[: generator.integers(0, b + 1)]
        voters[: len(some)] = some
    out = generator.random((n, n_labels)) < 0.2
    only = generator.random(n_labels) < 0.8
    exclude = csr_array(out.astype(np.float32))
    plain = queries @ vectors.T
    hidden = csr_array((out | ~only).astype(np.float32))
    found = _rust.topk_dense(plain, k, (hidden.indptr.astype(np.int64), hidden.indices))
    parts = [(m.indptr.astype(np.int64), m.indices.astype(np.int32)) for m in (y, exclude)]
    results = [
        _rust.mix_votes(
            queries,
            vectors,
            (near, votes),
            parts[0],
            found,
            k,
            weight=0.5,
            exclude=parts[1],
            only=only,
            num_threads=threads,
        )
        for threads in (1, 2, 7)
    ]
    mixed = plain.copy()
    for row in range(n):
        for point, vote in zip(near[row], votes[row], strict=True):
            if point >= 0:
                mixed[row] += 0.5 * vote * y.toarray()[point]
    expected = _rust.topk_dense(mixed, k, (hidden.indptr.astype(np.int64), hidden.indices))
    for ids, scores in results:
        np.testing.assert_array_equal(ids, expected[0])
        np.testing.assert_array_equal(scores, expected[1])


def test_any_number_of_threads_gives_the_same_bits() -> None:
    queries, vectors = with_one(unit(0, 700)), label_vectors()
    memory = PointMemory.of(unit(1, N), sparse(3, N), weight=0.3)
    found = exact_search(queries, vectors, 10)
    one = memory.mix(queries, found, vectors, 10, num_threads=1)
    for threads in (2, 7):
        for a, b in zip(
            one, memory.mix(queries, found, vectors, 10, num_threads=threads), strict=True
        ):
            np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


@pytest.mark.parametrize("points", [0, N])
def test_no_weight_or_no_points_is_the_plain_ranking(points: int) -> None:
    queries, vectors = with_one(unit(0, 9)), label_vectors()
    found = exact_search(queries, vectors, 12)
    weight = 0.0 if points else 0.5
    memory = PointMemory.of(unit(1, points), sparse(3, points), weight=weight)
    ids, scores = memory.mix(queries, found, vectors, 10)
    np.testing.assert_array_equal(ids, found[0][:, :10])
    np.testing.assert_array_equal(scores, found[1][:, :10])


def test_no_queries_and_points_without_labels() -> None:
    vectors = label_vectors()
    memory = PointMemory.of(unit(1, N), csr_array((N, L), dtype=np.float32), weight=0.5)
    empty = np.zeros((0, D + 1), np.float32)
    ids, scores = memory.mix(empty, exact_search(empty, vectors, 4), vectors, 4)
    assert ids.shape == scores.shape == (0, 4)
    queries = with_one(unit(0, 5))
    found = exact_search(queries, vectors, 4)
    np.testing.assert_array_equal(memory.mix(queries, found, vectors, 4)[0], found[0])


@pytest.mark.parametrize("first", [0, N // 2, N])
def test_appended_points_equal_a_memory_made_of_all(first: int) -> None:
    queries, vectors, points = with_one(unit(0, 30)), label_vectors(), unit(1, N)
    y = sparse(3, N, 30)
    new = sparse(9, 11)  # it has ten labels more, which were added meanwhile
    start = PointMemory.of(points[:first], y[:first], weight=0.4, neighbours=20)
    before = start.with_points(points[first:], y[first:])
    memory = before.with_points(2 * unit(8, 11), new)
    wide = csr_array((y.data, y.indices, y.indptr), shape=(N, L))
    whole = csr_array(np.concatenate([wide.toarray(), new.toarray()]))
    fresh = PointMemory.of(np.concatenate([points, unit(8, 11)]), whole, weight=0.4, neighbours=20)
    hits = exact_search(queries, vectors, 8)
    own = np.arange(30) + N - 10  # some of the old, some of the new, some beyond
    own[own >= N + 11] = -1
    a = memory.mix(queries, hits, vectors, 8, own=own)
    b = fresh.mix(queries, hits, vectors, 8, own=own)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_allclose(a[1], b[1], rtol=1e-5)
    assert (memory.n_points, memory.n_labels) == (N + 11, L)
    assert (before.n_points, before.n_labels) == (N, 30)  # a memory never changes


def test_votes_are_counted_as_in_the_definition() -> None:
    queries, points, y = with_one(unit(0, 12)), unit(1, N), sparse(3, N)
    memory = PointMemory.of(points, y, weight=0.7, neighbours=9, temperature=0.3)
    votes = memory.votes(queries)
    settings: dict[str, Any] = {"neighbours": 9, "temperature": 0.3}
    no_vectors = np.zeros((L, D + 1), np.float32)
    expected = dense(queries, no_vectors, points, y, weight=1.0, **settings)
    np.testing.assert_allclose(votes.toarray(), expected, atol=1e-6)
    assert votes.has_sorted_indices
    np.testing.assert_array_equal(memory.has_points, y.toarray().any(axis=0))


def test_a_point_never_votes_for_itself() -> None:
    points, y = unit(1, N), sparse(3, N)
    memory = PointMemory.of(points, y, weight=5.0, neighbours=1, temperature=0.1)
    queries, vectors = with_one(points), label_vectors()
    found = exact_search(queries, vectors, 5)
    alone = memory.nearest(queries, 1)[0][:, 0]
    assert alone.tolist() == list(range(N))
    others = memory.nearest(queries, 3, own=np.arange(N))[0]
    assert (others != np.arange(N)[:, None]).all()
    mixed = memory.mix(queries, found, vectors, 5, own=np.arange(N))
    rows = np.arange(N)
    scores = dense(queries, vectors, points, y, weight=5.0, neighbours=1, temperature=0.1, own=rows)
    assert_ranks(mixed, scores)
    assert (mixed[0] != memory.mix(queries, found, vectors, 5)[0]).any()


def test_a_label_without_votes_keeps_its_plain_score() -> None:
    y = sparse(3, N).toarray()
    y[:, 4] = 0
    queries, vectors = with_one(unit(0, 12)), label_vectors()
    memory = PointMemory.of(unit(1, N), csr_array(y), weight=3.0, neighbours=N)
    ids, scores = memory.mix(queries, exact_search(queries, vectors, L), vectors, L)
    for row in range(12):
        place = ids[row].tolist().index(4)
        assert scores[row, place] == pytest.approx(float(queries[row] @ vectors[4]), abs=1e-6)


def test_excluded_pairs_do_not_come_back_by_votes() -> None:
    queries, vectors = with_one(unit(0, 12)), label_vectors()
    memory = PointMemory.of(unit(1, N), csr_array(np.ones((N, L), np.float32)), weight=9.0)
    exclude = sparse(4, 12, share=0.5)
    found = exact_search(queries, vectors, 10, exclude=exclude)
    ids, _ = memory.mix(queries, found, vectors, 10, exclude=exclude)
    for row in range(12):
        assert not set(ids[row].tolist()) & set(np.flatnonzero(exclude.toarray()[row]).tolist())
        assert -1 not in ids[row]


def test_labels_that_may_not_be_found_have_no_votes() -> None:
    """As `only`, which a search with removed labels gives; and as a memory without them."""
    y, gone = sparse(3, N), [5, 9]
    kept = y.toarray()
    kept[:, gone] = 0
    queries, vectors = with_one(unit(0, 12)), label_vectors()
    memory = PointMemory.of(unit(1, N), y, weight=1.0)
    twin = PointMemory.of(unit(1, N), csr_array(kept), weight=1.0)
    only = ~np.isin(np.arange(L), gone)
    hits = exact_search(queries, vectors, 10, only=only)
    for group in (only, np.flatnonzero(only)):
        a = memory.mix(queries, hits, vectors, 10, only=group)
        b = twin.mix(queries, hits, vectors, 10, only=group)
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
        assert not np.isin(a[0], gone).any()


def test_labels_that_a_memory_forgets_have_no_votes() -> None:
    y = sparse(3, N)
    memory = PointMemory.of(unit(1, N), y, weight=1.0)
    few = memory.with_first_labels(30)
    assert (few.n_points, few.n_labels) == (N, 30)
    np.testing.assert_array_equal(few.points.y.toarray(), y.toarray()[:, :30])
    assert memory.with_first_labels(L) is memory.with_first_labels(L + 3) is memory
    wide = few.with_points(unit(8, 1), sparse(9, 1))  # the ids may be given again
    np.testing.assert_array_equal(wide.points.y.toarray()[:N, 30:], 0)


def test_stored_zeros_are_no_positives() -> None:
    y = csr_array(np.ones((N, L), np.float32))
    y.data[:] = np.where(np.arange(y.nnz) % 3 == 0, 0, 2.5)
    clean = csr_array((y.toarray() > 0).astype(np.float32))
    queries, vectors = with_one(unit(0, 12)), label_vectors()
    found = exact_search(queries, vectors, 10)
    a, b = (
        PointMemory.of(unit(1, N), m, weight=1.0).mix(queries, found, vectors, 10)
        for m in (y, clean)
    )
    np.testing.assert_array_equal(a[0], b[0])


def test_vectors_of_any_length_are_compared_by_cosine() -> None:
    points, queries, vectors = unit(1, N), unit(0, 12), unit(2, L)
    lengths = np.random.default_rng(0).uniform(0.1, 9, (N, 1)).astype(np.float32)
    a = PointMemory.of(points, sparse(3, N), weight=1.0)
    b = PointMemory.of(points * lengths, sparse(3, N), weight=1.0)
    for x, y in zip(a.nearest(queries, 9), b.nearest(queries * 3, 9), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    # without a bias dimension, and from arrays that are slices of others
    sliced = a.mix(
        with_one(queries)[:, :D], exact_search(queries, vectors, 5), with_one(vectors)[:, :D], 5
    )
    np.testing.assert_array_equal(
        sliced[0], a.mix(queries, exact_search(queries, vectors, 5), vectors, 5)[0]
    )
    found = exact_search(queries, vectors, 5)
    assert a.mix(queries, found, vectors, 5)[0].shape == (12, 5)
    np.testing.assert_array_equal(a.nearest(with_one(queries), 9)[0], a.nearest(queries, 9)[0])


def test_neighbours_known_already_are_taken() -> None:
    queries, vectors = with_one(unit(0, 12)), label_vectors()
    memory = PointMemory.of(unit(1, N), sparse(3, N), weight=1.0, neighbours=20)
    found, near = exact_search(queries, vectors, 10), memory.nearest(queries, 30)
    a, b = (
        memory.mix(queries, found, vectors, 10),
        memory.mix(queries, found, vectors, 10, near=near),
    )
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])


def test_shares_of_padding_are_nothing() -> None:
    cosines = np.array([[0.5, 0.5, -np.inf], [-np.inf] * 3], np.float32)
    assert shares(cosines, 0.1).tolist() == [[0.5, 0.5, 0], [0, 0, 0]]
    assert shares(np.zeros((3, 0), np.float32), 0.1).shape == (3, 0)


def test_errors() -> None:
    points, y, queries, vectors = unit(1, N), sparse(3, N), with_one(unit(0, 5)), label_vectors()

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=message):
            PointMemory.of(**({"vectors": points, "y": y, "weight": 0.3} | changes))

    refused("weight = -1; it must be finite and at least 0", weight=-1)
    refused("weight = nan", weight=float("nan"))
    refused("neighbours = 0; it must be at least 1", neighbours=0)
    refused("temperature = 0; it must be finite and above 0", temperature=0)
    refused(f"y: {N} rows for {N - 1} points", vectors=points[1:])
    refused("vectors: shape .*expected", vectors=points[0])
    broken = points.copy()
    broken[3, 1] = np.nan
    refused("vectors: row 3 is not finite", vectors=broken)

    memory = PointMemory.of(points, y, weight=0.3)
    found = exact_search(queries, vectors, 4)
    with pytest.raises(ValueError, match=r"queries \(5, 9\); expected 6 dimensions .* or 7"):
        memory.nearest(np.zeros((5, 9), np.float32), 3)
    with pytest.raises(ValueError, match=r"own: shape \(4,\) for 5 queries"):
        memory.mix(queries, found, vectors, 4, own=np.arange(4))
    with pytest.raises(ValueError, match=r"hits: shapes \(5, 4\) and \(5, 4\) for 3 queries"):
        memory.mix(queries[:3], found, vectors, 4)
    with pytest.raises(ValueError, match="near: shapes"):
        memory.mix(queries, found, vectors, 4, near=memory.nearest(queries[:2], 50))
    with pytest.raises(ValueError, match="plain: 4 columns, expected 6"):
        memory.mix(queries, found, vectors, 6)
    with pytest.raises(ValueError, match="label_vectors: 3 labels, but points"):
        memory.mix(queries, found, vectors[:3], 4)
    with pytest.raises(ValueError, match="exclude: shape"):
        memory.mix(queries, found, vectors, 4, exclude=sparse(0, 5, 7))
    with pytest.raises(ValueError, match=r"only: shape \(3,\), expected \(40,\)"):
        memory.mix(queries, found, vectors, 4, only=np.ones(3, np.bool_))
    with pytest.raises(ValueError, match=r"only: a label id lies outside 0\.\.39"):
        memory.mix(queries, found, vectors, 4, only=np.array([0, L]))
    with pytest.raises(ValueError, match=r"vectors: shape \(2, 9\), expected \(n, 6\)"):
        memory.with_points(np.zeros((2, 9), np.float32), sparse(0, 2))
    with pytest.raises(ValueError, match="y: 3 rows for 2 points"):
        memory.with_points(unit(0, 2), sparse(0, 3))


def test_errors_of_the_core() -> None:
    queries, vectors = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    y = (np.array([0, 1], np.int64), np.array([0], np.int32))
    near = np.zeros((2, 1), np.int32), np.ones((2, 1), np.float32)
    plain = exact_search(queries, vectors, 2)

    def refused(message: str, error: type[Exception] = ValueError, **changes: Any) -> None:
        given: dict[str, Any] = {"queries": queries, "vectors": vectors, "neighbours": near}
        given |= {"y": y, "plain": plain, "k": 2, "weight": 1.0}
        with pytest.raises(error, match=message):
            _rust.mix_votes(**(given | changes))

    refused("queries have 3 dimensions, but vectors 2", vectors=vectors[:, :2].copy())
    refused(r"neighbours: shapes \[2, 1\] and \[2, 2\]", neighbours=(near[0], plain[1]))
    refused(r"plain: shapes \[1, 2\] and \[1, 2\]; .* 2 rows", plain=(plain[0][:1], plain[1][:1]))
    refused("only must be bool", TypeError, only=np.ones(4, np.int8))
    refused("weight must be finite", weight=-0.5)
    refused("k must not be negative", k=-1)
