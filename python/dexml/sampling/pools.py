"""Label pools: which labels a batch of points is scored against. Needs numpy and scipy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr


def label_pool(
    y: Csr, rows: NDArray[np.int64], *, per_point: int, n_random: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Draw the labels that a batch shares: positives of its points, and labels at random.

    Every pool label is a candidate of every point; one that is a positive of a point counts as
    such, however it came in.

    Args:
        y: Training matrix, shape (n_points, n_labels).
        rows: Points of the batch.
        per_point: Positives drawn for each point, without replacement; all if it has fewer.
        n_random: Labels drawn uniformly from all labels on top of them.
        seed: Seed of the run.
        epoch: Epoch; the draw is a function of (seed, epoch, rows) alone.

    Returns:
        Sorted unique label ids; never empty, at most
        ``max(1, per_point * len(rows) + n_random)``.
    """
    if per_point < 1 or n_random < 0:
        raise ValueError(f"per_point = {per_point}, n_random = {n_random}; expected >= 1 and >= 0")
    drawn = []
    for row in rows:
        labels = y.indices[y.indptr[row] : y.indptr[row + 1]]
        if len(labels) > per_point:
            labels = np.random.default_rng((seed, epoch, row)).choice(labels, per_point, False)
        drawn.append(labels)
    first = int(rows[0]) if len(rows) else 0
    generator = np.random.default_rng((seed, epoch, first, 1))
    drawn.append(generator.integers(y.shape[1], size=n_random))
    if not any(map(len, drawn)):  # points without labels alone: a pool is never empty
        drawn.append(generator.integers(y.shape[1], size=1))
    return np.unique(np.concatenate(drawn)).astype(np.int64)


def pool_probability(
    y: Csr, rows: NDArray[np.int64], *, batch_size: int, per_point: int, n_random: int
) -> NDArray[np.float64]:
    """Return the probability of each label to be in the pool of a random batch of `rows`.

    Args:
        y: Training matrix, shape (n_points, n_labels).
        rows: Points that batches are drawn from.
        batch_size: Points of a batch.
        per_point: As for `label_pool`.
        n_random: As for `label_pool`.

    Returns:
        float64 in (0, 1], shape (n_labels,): 1 - exp(-expected draws), the Poisson limit; 1 in
        place of 0 for labels that are never drawn.
    """
    part = y[rows]
    counts = np.diff(part.indptr)
    share = np.repeat(np.minimum(1.0, per_point / np.maximum(counts, 1)), counts)
    expected = np.bincount(part.indices, share, y.shape[1]) * min(1.0, batch_size / len(rows))
    probability = -np.expm1(-(expected + n_random / y.shape[1]))
    return np.where(probability > 0, probability, 1.0)


def pool_positives(
    y: Csr, rows: NDArray[np.int64], pool: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positives of `rows` that lie in `pool`, as CSR over pool positions.

    Args:
        y: Training matrix (or filter pairs), shape (n_points, n_labels).
        rows: Points of the batch.
        pool: Sorted unique label ids.

    Returns:
        ``indptr`` (len(rows) + 1,) and ``indices`` (positions in `pool`, ascending in a row).
    """
    starts, stops = y.indptr[rows].astype(np.int64), y.indptr[np.asarray(rows) + 1]
    counts = stops - starts
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    labels = y.indices[np.arange(counts.sum()) + offsets] if len(rows) else y.indices[:0]
    place = np.searchsorted(pool, labels)
    found = place < len(pool)
    found[found] = pool[place[found]] == labels[found]
    row_of = np.repeat(np.arange(len(rows)), counts)[found]
    indptr = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.bincount(row_of, minlength=len(rows)), out=indptr[1:])
    return indptr, place[found].astype(np.int64)
