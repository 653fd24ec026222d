"""Balanced clusters of points against their twin, and batches that are made of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import reference
from dexml.sampling import balanced_clusters


def unit_rows(n: int, dim: int, seed: int) -> NDArray[np.float64]:
    vectors = np.random.default_rng(seed).standard_normal((n, dim))
    rows: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows


@given(n=st.integers(1, 60), size=st.integers(1, 20), seed=st.integers(0, 1000))
def test_clusters_equal_the_twin_and_are_balanced(n: int, size: int, seed: int) -> None:
    vectors = unit_rows(n, 3, seed)

    def starts(first: int, last: int, n_rows: int) -> list[int]:
        drawn: list[int] = (
            np.random.default_rng((seed, first, last)).choice(n_rows, 2, replace=False).tolist()
        )
        return drawn

    found = balanced_clusters(vectors, size, seed=seed)
    assert found.dtype == np.int64
    assert found.tolist() == reference.balanced_clusters(vectors.tolist(), size, starts)
    sizes = np.bincount(found)
    assert len(sizes) == -(-n // size)
    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1


def test_points_of_a_cluster_are_near() -> None:
    centres = np.repeat(unit_rows(8, 16, 1), 32, axis=0)
    noise = 0.05 * np.random.default_rng(2).standard_normal(centres.shape)
    order = np.random.default_rng(3).permutation(len(centres))
    found = balanced_clusters((centres + noise)[order].astype(np.float32), 8, seed=0)
    true = np.repeat(np.arange(8), 32)[order]
    pure = [len(set(true[found == c])) == 1 for c in range(32)]
    assert np.mean(pure) > 0.9  # by chance none would be


def test_equal_and_zero_points_are_cut_by_row() -> None:
    assert np.bincount(balanced_clusters(np.zeros((10, 4)), 3, seed=0)).tolist() == [2, 3, 2, 3]
    assert balanced_clusters(np.zeros((0, 4)), 3, seed=0).tolist() == []


@given(n=st.integers(1, 60), n_clusters=st.integers(1, 60), seed=st.integers(0, 1000))
def test_the_number_of_clusters_may_be_given(n: int, n_clusters: int, seed: int) -> None:
    vectors = unit_rows(n, 3, seed)
    if n_clusters > n:
        with pytest.raises(ValueError, match=f"n_clusters = {n_clusters}; expected 1 to {n}"):
            balanced_clusters(vectors, n_clusters=n_clusters, seed=seed)
        return
    found = balanced_clusters(vectors, n_clusters=n_clusters, seed=seed)
    sizes = np.bincount(found)
    assert len(sizes) == n_clusters
    assert sizes.max() - sizes.min() <= 1
    size = -(-n // n_clusters)
    if -(-n // size) == n_clusters:
        assert found.tolist() == balanced_clusters(vectors, size, seed=seed).tolist()


def test_size_or_number_of_clusters() -> None:
    for both in ({}, {"size": 2, "n_clusters": 2}):
        with pytest.raises(ValueError, match="give size or n_clusters, one of them"):
            balanced_clusters(np.zeros((4, 2)), seed=0, **both)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [((3,), 1, r"vectors: shape \(3,\)"), ((3, 2), 0, "size = 0; expected at least 1")],
)
def test_wrong_arguments_of_clusters(shape: tuple[int, ...], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balanced_clusters(np.zeros(shape), size, seed=0)


def test_clusters_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    code = """if True:
        import hashlib, numpy as np
        from dexml.sampling import balanced_clusters
        vectors = np.random.default_rng(0).standard_normal((3000, 48)).astype(np.float32)
        print(hashlib.sha256(balanced_clusters(vectors, 10, seed=1).tobytes()).hexdigest())
    """
    found = set()
    for threads in ("1", "2", "5"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = os.environ | dict.fromkeys(names, threads)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
        )
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.parametrize("batch_size", [8, 12, 100])
def test_batches_of_clusters_have_every_point_once(batch_size: int) -> None:
    from dexml.train.step import batches

    rows = np.arange(50) * 2
    clusters = np.arange(50) % 13
    seen = []
    for epoch in (1, 2):
        found = batches(rows, batch_size, 3, epoch, clusters=clusters)
        assert [len(b) for b in found[:-1]] == [batch_size] * (len(found) - 1)
        flat = np.concatenate(found)
        assert sorted(flat) == rows.tolist()
        changes = np.count_nonzero(np.diff(clusters[flat // 2]))
        assert changes == 12  # each cluster in one piece
        seen.append(flat.tolist())
    assert seen[0] != seen[1]
    plain = np.concatenate(batches(rows, batch_size, 3, 1))
    assert np.count_nonzero(np.diff(clusters[plain // 2])) > 30
