"""Points in balanced clusters, so that a batch of near points has hard negatives of its own.

Shapes: N points, D dimensions, R points of a part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
"""Most rounds of a split in two; it ends when no point changes sides."""


def balanced_clusters(
    vectors: NDArray[np.floating[Any]],
    size: int | None = None,
    *,
    n_clusters: int | None = None,
    seed: int,
) -> NDArray[Any]:
    """Cut points into clusters of near ones that are equally large.

    A part is split in two by spherical 2-means, again and again: two of its points are the first
    centres; its points are sorted by ``<x, a> - <x, b>``, the first of them go to centre a, the
    others to b, as many as the clusters of each side need; the centres become the unit means of
    their points. Ties go to the smaller row. Source: the batches of NGAME, WSDM 2023.

    Args:
        vectors: Of the points, best of unit length, shape (N, D).
        size: Points of a cluster; there are ``ceil(N / size)`` clusters.
        n_clusters: Their number, in place of `size`; from 1 to N.
        seed: Of the first centres.

    Returns:
        The cluster of each point, shape (N,), int64. Sizes differ by at most 1. The same for any
        number of threads.

    Raises:
        ValueError: `vectors` is not a matrix, `size` is below 1, `n_clusters` is not from 1 to N,
            or both or none of them are given.

    >>> import numpy as np
    >>> points = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
    >>> balanced_clusters(points, 2, seed=0).tolist() in ([0, 1, 0, 1], [1, 0, 1, 0])
    True
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors: shape {vectors.shape}; expected (n_points, dim)")
    n_points = len(vectors)
    if (size is None) == (n_clusters is None):
        raise ValueError("give size or n_clusters, one of them")
    if size is not None:
        if size < 1:
            raise ValueError(f"size = {size}; expected at least 1")
        n_clusters = -(-n_points // size)
    elif n_clusters is None or not 1 <= n_clusters <= n_points:
        raise ValueError(f"n_clusters = {n_clusters}; expected 1 to {n_points}")
    cluster = np.zeros(n_points, np.int64)
    parts = [(0, n_clusters, np.arange(n_points))]
    while parts:
        first, last, rows = parts.pop()
        if last - first <= 1:
            cluster[rows] = first
            continue
        middle = (first + last) // 2
        # Cluster k ends behind point k * N / K of the order of clusters, so no size is off by 2.
        n_left = middle * n_points // n_clusters - first * n_points // n_clusters
        left = _split(vectors[rows], n_left, np.random.default_rng((seed, first, last)))
        parts += [(first, middle, rows[left]), (middle, last, rows[~left])]
    return cluster


def _split(
    own_RD: NDArray[np.floating[Any]], n_left: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Which points of a part go to its first half, (R,)."""
    start = own_RD[generator.choice(len(own_RD), 2, replace=False)].astype(np.float64)
    direction = start[0] - start[1]
    left = np.zeros(len(own_RD), np.bool_)
    for _ in range(_ROUNDS):
        # Not a product of the linear algebra library: its last bits depend on its threads.
        side = np.einsum("rd,d->r", own_RD, direction.astype(own_RD.dtype), optimize=False)
        now = np.zeros(len(own_RD), np.bool_)
        now[np.argsort(-side, kind="stable")[:n_left]] = True
        if (now == left).all():
            break
        left = now
        direction = _unit_mean(own_RD[left]) - _unit_mean(own_RD[~left])
    return left


def _unit_mean(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = vectors.sum(axis=0, dtype=np.float64)
    length = float(np.sqrt((total * total).sum()))
    return total / length if length > 0 else total
