"""Label graphs against their twins; label pools and negatives by property."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array, load_npz, random_array

import reference
from dexml.sampling import (
    LabelGraph,
    NegativeSampler,
    pool_positives,
    sample_negatives,
)


def matrix(seed: int, n_points: int = 20, n_labels: int = 30) -> csr_array:
    return csr_array(random_array((n_points, n_labels), density=0.15, rng=seed, format="csr"))


@given(seed=st.integers(0, 1000))
def test_pool_positives_equal_the_dense_lookup(seed: int) -> None:
    y = matrix(seed)
    generator = np.random.default_rng(seed)
    rows = generator.permutation(20)[: generator.integers(0, 20)]
    pool = np.unique(generator.integers(30, size=generator.integers(0, 30)))
    indptr, places = pool_positives(y, rows, pool)
    dense = y.toarray()[rows][:, pool] != 0
    actual = np.zeros_like(dense)
    for i in range(len(rows)):
        actual[i, places[indptr[i] : indptr[i + 1]]] = True
    np.testing.assert_array_equal(actual, dense)


POINTS = st.lists(st.frozensets(st.integers(0, 8), max_size=6), max_size=12)
CAPS = st.tuples(st.none() | st.integers(0, 5), st.none() | st.integers(0, 6))


def labels_of(points: list[frozenset[int]], n_labels: int) -> csr_array:
    """CSR of points, with a stored 0 in every row that has room: it is no positive."""
    indptr, indices, values = [0], [], []
    for row in points:
        free = [label for label in range(n_labels) if label not in row][:1]
        for label in sorted({*row, *free}):
            indices.append(label)
            values.append(float(label in row))
        indptr.append(len(indices))
    arrays = (np.array(values, np.float32), np.array(indices, np.int32), np.array(indptr))
    return csr_array(arrays, shape=(len(points), n_labels))


def rows_of(matrix: csr_array) -> list[dict[int, float]]:
    spans = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    return [
        dict(zip(matrix.indices[a:b].tolist(), matrix.data[a:b].tolist(), strict=True))
        for a, b in spans
    ]


@given(
    points=POINTS,
    normalise=st.sampled_from(["count", "cosine", "jaccard", "probability"]),
    top=st.integers(1, 10),
    min_count=st.integers(0, 3),
    keep_self=st.booleans(),
    caps=CAPS,
)
def test_co_occurrence_equals_its_twin(
    points: list[frozenset[int]],
    normalise: Any,
    top: int,
    min_count: int,
    keep_self: bool,
    caps: tuple[int | None, int | None],
) -> None:
    expected = reference.co_occurrence(
        points,
        9,
        normalise,
        top=top,
        min_count=min_count,
        keep_self=keep_self,
        max_point=caps[0],
        max_label=caps[1],
    )
    graph = LabelGraph.co_occurrence(
        labels_of(points, 9),
        top=top,
        normalise=normalise,
        min_count=min_count,
        keep_self=keep_self,
        max_point_labels=caps[0],
        max_label_points=caps[1],
    )
    found = rows_of(graph.neighbours)
    assert [list(row) for row in found] == [sorted(row) for row in expected]
    for row, twin in zip(found, expected, strict=True):
        assert row == pytest.approx(twin, rel=1e-6)


def test_co_occurrence_equals_scipy() -> None:
    y = matrix(5, n_points=200, n_labels=40)
    y.data[:] = 1
    counts = (y.T @ y).toarray()
    np.fill_diagonal(counts, 0)
    found = LabelGraph.co_occurrence(y, normalise="count", top=40).neighbours
    np.testing.assert_array_equal(found.toarray(), counts)


@pytest.mark.parametrize("caps", [(None, None), (3, None), (None, 5), (4, 4)])
@pytest.mark.parametrize(("n_steps", "restart"), [(1, 0.8), (4, 0.0), (7, 0.8), (3, 1.0)])
def test_walks_visit_as_often_as_they_should(
    caps: tuple[int | None, int | None], n_steps: int, restart: float
) -> None:
    generator = np.random.default_rng(7)
    points = [frozenset(generator.integers(9, size=n).tolist()) for n in [0, 1, 2, 3, 4, 6] * 4]
    points = [row - {8} for row in points]  # a label without points
    expected = np.array(reference.expected_visits(points, 9, n_steps, restart, *caps))
    y, seeds, total = labels_of(points, 9), 1500, np.zeros((9, 9))
    for seed in range(seeds):
        graph = LabelGraph.random_walk(
            y,
            seed=seed,
            n_steps=n_steps,
            restart=restart,
            keep_self=True,
            max_point_labels=caps[0],
            max_label_points=caps[1],
            num_threads=1,
        )
        total += graph.neighbours.toarray()
    # Visits of a walk lie in 0..n_steps: five standard deviations of their mean, at most.
    np.testing.assert_allclose(total / seeds, expected, atol=5 * n_steps / 2 / np.sqrt(seeds))
    assert expected[8].sum() == 0
    alive = expected.sum(axis=1) > 0
    np.testing.assert_array_equal(total.sum(axis=1), np.where(alive, n_steps * seeds, 0))


def test_a_walk_depends_on_seed_and_label_alone() -> None:
    y = matrix(2, n_points=700, n_labels=600)
    options: dict[str, Any] = {"n_steps": 60, "top": 9}
    graphs = [
        LabelGraph.random_walk(y, seed=4, num_threads=threads, **options) for threads in (1, 2, 7)
    ]
    for graph in graphs[1:]:
        assert (graph.neighbours != graphs[0].neighbours).nnz == 0
    other = LabelGraph.random_walk(y, seed=5, **options)
    assert (other.neighbours != graphs[0].neighbours).nnz > 0
    assert np.diff(graphs[0].neighbours.indptr).max() <= 9
    assert graphs[0].neighbours.diagonal().sum() == 0
    exact = [LabelGraph.co_occurrence(y, num_threads=threads).neighbours for threads in (1, 7)]
    assert (exact[0] != exact[1]).nnz == 0


def test_weights_and_counts_of_walks() -> None:
    y = matrix(2)
    walk: dict[str, Any] = {"seed": 0, "n_steps": 50, "top": 30, "keep_self": True}
    visits = LabelGraph.random_walk(y, **walk).neighbours
    alive = np.unique(y.indices)
    assert set(visits.sum(axis=1)[alive]) == {50.0}
    share = LabelGraph.random_walk(y, weights="share", **walk).neighbours
    np.testing.assert_allclose(share.toarray() * 50, visits.toarray(), rtol=1e-6)
    pruned = LabelGraph.random_walk(y, min_count=4, **walk).neighbours.toarray()
    np.testing.assert_array_equal(pruned, np.where(visits.toarray() >= 4, visits.toarray(), 0))
    # The best of equal visits are the smaller labels.
    best = LabelGraph.random_walk(y, **(walk | {"top": 3})).neighbours
    for row, twin in zip(rows_of(best), rows_of(visits), strict=True):
        assert sorted(row) == sorted(reference.rank(twin)[:3])


def test_graphs_are_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    graph = LabelGraph.random_walk(matrix(1), seed=3, n_steps=20)
    path = tmp_path / "graph.npz"
    graph.save(path)
    graph.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["graph.npz"]
    again = LabelGraph.load(path)
    assert (again.neighbours != graph.neighbours).nnz == 0
    assert again.neighbours.dtype == np.float32
    assert again.parameters == graph.parameters
    assert (again.parameters["method"], again.parameters["seed"]) == ("random_walk", 3)
    assert (load_npz(path) != graph.neighbours).nnz == 0
    stats = again.stats()
    assert stats["n_labels"] == 30
    assert stats["n_edges"] == graph.neighbours.nnz
    assert stats["edges_per_label"] == pytest.approx(graph.neighbours.nnz / 30)
    empty = LabelGraph.co_occurrence(csr_array((2, 4), dtype=np.float32)).stats()
    assert (empty["without_neighbours"], empty["max_edges"]) == (1.0, 0)
    assert LabelGraph.co_occurrence(csr_array((0, 0), dtype=np.float32)).stats()["n_edges"] == 0


def damaged(path: Path, **changes: Any) -> Path:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files} | changes
    beside = path.with_name("damaged.npz")
    np.savez(beside, **arrays)
    return beside


def test_what_is_loaded_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "graph.npz"
    LabelGraph.random_walk(matrix(1), seed=3).save(path)

    def message(**changes: Any) -> str:
        with pytest.raises(ValueError, match=r"damaged\.npz: ") as raised:
            LabelGraph.load(damaged(path, **changes))
        return str(raised.value)

    newer = np.array(json.dumps({"format_version": 2, "parameters": {}}))
    assert "format 2 is newer than 1" in message(graph=newer)
    assert "not a label graph" in message(graph=np.array("x"))
    assert "not a label graph" in message(graph=np.array([{}], object))
    assert "labels x labels" in message(shape=np.array([30, 31]))
    with np.load(path) as archive:
        indices = archive["indices"]
    assert "out of range" in message(indices=indices + 30)
    assert "not sorted" in message(indices=29 - indices)
    assert "29 rows, expected 30" in message(indptr=np.zeros(30, np.int32))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="not a label graph"):
        LabelGraph.load(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError):
        LabelGraph.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        LabelGraph.load(path).save(tmp_path / "graph")


SHARES = st.dictionaries(
    st.sampled_from(["uniform", "frequency", "graph", "shortlist"]),
    st.sampled_from([0.25, 1.0, 3.0]),
    min_size=1,
)


@given(
    points=POINTS.filter(bool),
    seed=st.integers(0, 2**64 - 1),
    n_negatives=st.integers(0, 12),
    sources=SHARES,
    masked=st.booleans(),
    smoothing=st.sampled_from([0.0, 1.0]),
    as_csr=st.booleans(),
)
def test_negatives_keep_their_promises(
    points: list[frozenset[int]],
    seed: int,
    n_negatives: int,
    sources: dict[str, float],
    masked: bool,
    smoothing: float,
    as_csr: bool,
) -> None:
    y = labels_of(points, 9)
    generator = np.random.default_rng(seed)
    pairs = generator.random(y.shape) < 0.2
    mask = generator.random(9) < 0.7 if masked else None
    listed = np.full((len(points), 5), -1, np.int64)
    for row in listed:
        n = int(generator.integers(6))
        row[:n] = generator.permutation(9)[:n]
    as_rows = csr_array((generator.random(y.shape) < 0.3).astype(np.float32))
    sampler = NegativeSampler(
        y,
        n_negatives=n_negatives,
        sources=sources,
        exclude=csr_array(pairs),
        graph=LabelGraph.co_occurrence(y, top=4),
        shortlist=as_rows if as_csr else listed,
        candidates=mask,
        smoothing=smoothing,
    )
    assert sum(sampler.mixture.values()) == n_negatives
    ids = sampler.draw(np.arange(len(points)), seed=seed, epoch=2)
    assert ids.shape == (len(points), n_negatives)
    assert ids.dtype == np.int32
    for point, row in enumerate(ids):
        allowed = {
            label
            for label in range(9)
            if label not in points[point]
            and not pairs[point, label]
            and (mask is None or mask[label])
        }
        drawn = row[row >= 0].tolist()
        assert len(set(drawn)) == len(drawn) == min(n_negatives, len(allowed))
        assert set(drawn) <= allowed
        assert (row[len(drawn) :] == -1).all()
        # The shortlist comes first, and gives what it has.
        shortlist = set(as_rows[[point]].indices.tolist() if as_csr else listed[point].tolist())
        n = min(sampler.mixture.get("shortlist", 0), len(shortlist & allowed))
        assert set(drawn[:n]) <= shortlist


def large() -> tuple[csr_array, NegativeSampler, dict[str, Any]]:
    y = matrix(8, n_points=600, n_labels=300)
    options: dict[str, Any] = {
        "n_negatives": 20,
        "sources": {"uniform": 2, "graph": 1, "frequency": 1, "shortlist": 1},
        "graph": LabelGraph.random_walk(y, seed=0, n_steps=100),
        "shortlist": np.argsort(np.random.default_rng(0).random((600, 300)))[:, :30],
    }
    return y, NegativeSampler(y, **options), options


def test_a_row_depends_on_seed_epoch_and_point_alone() -> None:
    y, sampler, options = large()
    rows = np.arange(600)
    ids = sampler.draw(rows, seed=3, epoch=1)
    assert sampler.mixture == {"shortlist": 4, "graph": 4, "frequency": 4, "uniform": 8}
    for threads in (1, 2, 7):
        again = sample_negatives(y, seed=3, epoch=1, rows=rows, num_threads=threads, **options)
        np.testing.assert_array_equal(again, ids)
    shuffled = np.random.default_rng(1).permutation(600)
    parts = [sampler.draw(part, seed=3, epoch=1) for part in np.array_split(shuffled, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), ids[shuffled])
    np.testing.assert_array_equal(sampler.draw([5, 5], seed=3, epoch=1), ids[[5, 5]])
    assert (sampler.draw(rows, seed=3, epoch=2) != ids).mean() > 0.5
    assert (sampler.draw(rows, seed=4, epoch=1) != ids).mean() > 0.5
    assert sampler.draw([], seed=0, epoch=0).shape == (0, 20)


def chi_square(found: Counter[frozenset[int]], chances: dict[frozenset[int], float]) -> float:
    """Sum of squares over expectation, in standard deviations of its distribution."""
    total, freedom = sum(found.values()), len(chances) - 1
    assert set(found) <= set(chances)
    square = sum((found[s] - total * p) ** 2 / (total * p) for s, p in chances.items())
    return float((square - freedom) / np.sqrt(2 * freedom))


def drawn_sets(sampler: NegativeSampler, epochs: int) -> Counter[frozenset[int]]:
    return Counter(
        frozenset(sampler.draw([0], seed=11, epoch=epoch)[0].tolist()) for epoch in range(epochs)
    )


@pytest.mark.parametrize("n_positives", [1, 5])
def test_uniform_draws_are_even(n_positives: int) -> None:
    """With one positive labels are drawn by rejection, with five from the list of the rest."""
    y = labels_of([frozenset(range(n_positives))], 9)
    sampler = NegativeSampler(y, n_negatives=2)
    chances = reference.chances_without_replacement(dict.fromkeys(range(n_positives, 9), 1.0), 2)
    assert abs(chi_square(drawn_sets(sampler, 20_000), chances)) < 4


def test_shortlists_are_drawn_evenly() -> None:
    y = labels_of([frozenset({0, 3})], 9)
    shortlist = np.array([[3, 8, 5, 1, 2, -1]], np.int32)
    sampler = NegativeSampler(y, n_negatives=2, sources="shortlist", shortlist=shortlist)
    chances = reference.chances_without_replacement(dict.fromkeys([8, 5, 1, 2], 1.0), 2)
    assert abs(chi_square(drawn_sets(sampler, 20_000), chances)) < 4


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 9.0])
def test_frequency_draws_follow_the_weights_of_those_left(alpha: float) -> None:
    """At power 9 one label outweighs the rest so far that rejection gives up: the list is used."""
    counts = [3, 1, 2, 4, 12, 0]
    points = [frozenset({0}), *(frozenset({i}) for i, n in enumerate(counts) for _ in range(n))]
    sampler = NegativeSampler(labels_of(points, 6), n_negatives=3, sources="frequency", alpha=alpha)
    weights = {label: float(n) ** alpha for label, n in enumerate(counts) if n and label != 0}
    chances = reference.chances_without_replacement(weights, 3)
    assert abs(chi_square(drawn_sets(sampler, 20_000), chances)) < 4


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("extra", [0, 60])
def test_graph_draws_follow_the_edges(even: bool, extra: int) -> None:
    """Few edges are listed; many (to excluded labels here) are drawn by rejection first."""
    n_labels = 9 + extra
    edges = np.zeros((n_labels, n_labels), np.float32)
    edges[0, [1, 3, 4, 5]] = [2, 1, 4, 1]
    edges[1, [3, 6, 0]] = [3, 2, 9]
    edges[0, 9:] = 0.1
    edges[2, 7] = 100  # not a neighbour of a positive
    exclude = np.zeros((1, n_labels), np.float32)
    exclude[0, [5, *range(9, n_labels)]] = 1
    sampler = NegativeSampler(
        labels_of([frozenset({0, 1})], n_labels),
        n_negatives=2,
        sources="graph",
        graph=csr_array(edges),
        graph_weights="uniform" if even else "edge",
        exclude=csr_array(exclude),
    )
    weights = {3: 2.0, 4: 1.0, 6: 1.0} if even else {3: 4.0, 4: 4.0, 6: 2.0}
    chances = reference.chances_without_replacement(weights, 2)
    assert abs(chi_square(drawn_sets(sampler, 20_000), chances)) < 4


def test_a_source_that_runs_short_is_filled_up_evenly() -> None:
    y = labels_of([frozenset({0})], 9)
    shortlist = np.array([[0, 4, 7]], np.int32)
    sampler = NegativeSampler(y, n_negatives=3, sources="shortlist", shortlist=shortlist)
    thirds: Counter[frozenset[int]] = Counter()
    for epoch in range(6000):
        row = sampler.draw([0], seed=1, epoch=epoch)[0].tolist()
        assert set(row[:2]) == {4, 7}
        thirds[frozenset(row[2:])] += 1
    chances = {frozenset({label}): 1 / 6 for label in (1, 2, 3, 5, 6, 8)}
    assert abs(chi_square(thirds, chances)) < 4


@pytest.mark.timeout(60)
@pytest.mark.parametrize("source", ["uniform", "frequency", "graph", "shortlist"])
def test_rows_with_next_to_nothing_left_end(source: str) -> None:
    n_labels = 50_000
    lengths = [n_labels, n_labels - 1, n_labels - 3, 0]
    indices = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    indptr = np.cumsum([0, *lengths])
    arrays = (np.ones(len(indices), np.float32), indices, indptr)
    ring = np.roll(np.arange(n_labels), -1)
    sampler = NegativeSampler(
        csr_array(arrays, shape=(4, n_labels)),
        n_negatives=3,
        sources=source,
        graph=csr_array((np.ones(n_labels, np.float32), ring, np.arange(n_labels + 1))),
        shortlist=np.zeros((4, 0), np.int32),
    )
    ids = np.sort(sampler.draw(np.arange(4), seed=0, epoch=0))
    last = n_labels - 1
    expected = [[-1, -1, -1], [-1, -1, last], [last - 2, last - 1, last]]
    assert ids[:3].tolist() == expected
    assert len(set(ids[3])) == 3


def test_unseen_labels_are_never_drawn() -> None:
    y = labels_of([frozenset({0, 1}), frozenset({2, 4})], 9)
    options: dict[str, Any] = {
        "n_negatives": 9,
        "sources": {"shortlist": 1, "graph": 1, "uniform": 1, "frequency": 1},
        "graph": csr_array(np.ones((9, 9), np.float32)),
        "shortlist": np.tile(np.arange(9), (2, 1)),
        "smoothing": 1.0,
        "candidates": "seen",
    }
    ids = sample_negatives(y, seed=0, epoch=0, rows=np.arange(2), **options)
    assert np.sort(ids).tolist() == [[-1] * 7 + [2, 4], [-1] * 7 + [0, 1]]
    mask = np.arange(9) != 3
    ids = sample_negatives(
        y, seed=0, epoch=0, rows=np.arange(2), **(options | {"candidates": mask})
    )
    assert 3 not in ids
    assert (ids >= 0).sum(axis=1).tolist() == [6, 6]


Y = labels_of([frozenset({0, 1}), frozenset({2, 4})], 9)
TOO_WIDE = csr_array((2, 8), dtype=np.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": "grph"}, "unknown source 'grph' .*; did you mean 'graph'"),
        ({"sources": {"x": 1}}, r"unknown source 'x' \(known: shortlist, graph, frequency, unif"),
        ({"sources": {"uniform": 0}}, "sources must have shares that add up to more than 0, not 0"),
        ({"sources": {}}, "shares that add up to more than 0"),
        ({"sources": {"uniform": -1}}, "finite shares >= 0, not uniform = -1"),
        ({"sources": "graph"}, "source 'graph' needs a label graph"),
        ({"sources": "shortlist"}, "source 'shortlist' needs shortlists"),
        ({"sources": "frequency", "alpha": -1.0}, "alpha must be finite and >= 0, not -1"),
        ({"sources": "frequency", "smoothing": np.inf}, "smoothing must be finite and >= 0"),
        ({"n_negatives": -1}, "n_negatives must not be negative, not -1"),
        ({"n_negatives": 2**62}, "n_negatives is too large"),
        ({"rows": np.array([0, 2])}, r"rows: row 1: row 2 out of range \(n_rows = 2\)"),
        ({"rows": np.array([-1])}, "row -1 out of range"),
        ({"rows": np.array([0.5])}, "rows: float64, shape"),
        ({"rows": np.array([[0]])}, "expected a list of ints"),
        ({"seed": -1}, r"seed must be in 0\.\.2\^64 - 1, not -1"),
        ({"epoch": 2**64}, "epoch must be in"),
        ({"exclude": TOO_WIDE}, r"exclude: shape \(2, 8\)"),
        ({"candidates": np.ones(8, bool)}, "candidates: 8 labels, expected 9"),
        ({"candidates": np.ones(9)}, "candidates: expected a mask of booleans"),
        ({"candidates": "some"}, "candidates must be a mask or 'seen', not 'some'"),
        ({"sources": "graph", "graph": TOO_WIDE}, r"graph: shape \(2, 8\), expected \(9, 9\)"),
        (
            {"sources": "graph", "graph": csr_array(-np.eye(9, dtype=np.float32))},
            "graph: row 0: weight of label 0 must be finite and >= 0, not -1",
        ),
        ({"graph_weights": "x"}, "graph_weights must be 'edge' or 'uniform', not 'x'"),
        ({"sources": "shortlist", "shortlist": TOO_WIDE}, r"shortlist: shape \(2, 8\), expected"),
        ({"sources": "shortlist", "shortlist": np.zeros((1, 3), int)}, r"expected \(2, k\)"),
        ({"sources": "shortlist", "shortlist": np.zeros((2, 3))}, "ids of dtype float64"),
        ({"sources": "shortlist", "shortlist": np.full((2, 1), 2**40)}, "an id lies outside 0..8"),
        (
            {"sources": "shortlist", "shortlist": np.array([[1], [9]], np.int32)},
            r"shortlist: row 1: label 9 out of range \(n_labels = 9\)",
        ),
        (
            {"sources": "shortlist", "shortlist": np.array([[1, 1], [0, -1]])},
            "shortlist: row 0: duplicate label 1",
        ),
        (
            {"sources": "shortlist", "shortlist": np.array([[1, 2], [-1, 3]])},
            "shortlist: row 1: label 3 after padding",
        ),
        ({"y": csr_array(-np.eye(2, 9, dtype=np.float32))}, "y: row 0: truth value of label 0"),
    ],
)
def test_errors_of_negatives_name_the_place(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"y": Y, "n_negatives": 2, "seed": 0, "epoch": 0, "rows": np.arange(2)}
    with pytest.raises(ValueError, match=message):
        sample_negatives(**(given | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, r"n_steps must be in 1\.\.=65536, not 0"),
        ({"n_steps": 65537}, "not 65537"),
        ({"seed": -1}, r"seed must be in 0\.\.2\^64 - 1, not -1"),
        ({"seed": 2**64}, "seed must be in"),
        ({"restart": 1.5}, r"restart must be in 0\.\.=1, not 1.5"),
        ({"restart": float("nan")}, "not NaN"),
        ({"top": 0}, "top must be at least 1, not 0"),
        ({"min_count": -1}, "min_count must not be negative"),
        ({"max_point_labels": -1}, "max_point_labels must not be negative"),
        ({"weights": "x"}, "weights must be 'visits' or 'share', not 'x'"),
        ({"num_threads": 0}, "num_threads must be in"),
        ({"y_train": csr_array(-np.eye(2, dtype=np.float32))}, "y_train: row 0: truth value"),
    ],
)
def test_errors_of_graphs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelGraph.random_walk(**({"y_train": Y, "seed": 0} | options))


def test_more_errors_of_graphs() -> None:
    with pytest.raises(ValueError, match="normalise must be 'count', 'cosine', 'jaccard' or"):
        LabelGraph.co_occurrence(Y, normalise="cosin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="top must be at least 1"):
        LabelGraph.co_occurrence(Y, top=0)
    with pytest.raises(ValueError, match="expected labels x labels"):
        LabelGraph(csr_array((2, 3)))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
@pytest.mark.timeout(60)
def test_ctrl_c_stops_a_walk() -> None:
    y = csr_array(np.ones((300, 3000), np.float32))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            LabelGraph.random_walk(y, seed=0, n_steps=60_000, num_threads=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_arrays_are_left_alone() -> None:
    y, _, options = large()
    arrays: list[NDArray[Any]] = [y.indptr, y.indices, y.data, options["shortlist"]]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    LabelGraph.co_occurrence(y)
    sample_negatives(y, seed=0, epoch=0, rows=np.arange(9), **options)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_sampling_needs_numpy_and_scipy_only() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'hnswlib', 'pydantic', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        "import dexml.sampling, dexml.topk\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
