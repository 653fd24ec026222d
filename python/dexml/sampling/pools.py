"""Label pools: the labels that a batch of points is scored against. Needs only numpy and scipy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr, expect_csr


def pool_positives(
    y: Csr, rows: NDArray[np.int64], pool: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positives of `rows` that lie in `pool`, as CSR over pool positions.

    Args:
        y: Training matrix (or filter pairs), shape (n_points, n_labels).
        rows: Points of the batch, shape (n,).
        pool: Sorted unique label ids.

    Returns:
        ``indptr``, shape (n + 1,), and ``indices``: positions in `pool`, ascending in each row.
        Both are int64.

    Raises:
        ValueError: `y` is not a CSR matrix, or a point of `rows` has a label of the pool twice.
    """
    expect_csr(y, "y")
    starts, stops = y.indptr[rows].astype(np.int64), y.indptr[np.asarray(rows) + 1]
    counts = stops - starts
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    labels = y.indices[np.arange(counts.sum()) + offsets] if len(rows) else y.indices[:0]
    position = np.searchsorted(pool, labels)
    inside = position < len(pool)  # a label above all of the pool has no position to compare
    inside[inside] = pool[position[inside]] == labels[inside]
    row_of = np.repeat(np.arange(len(rows)), counts)[inside]
    indptr = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.bincount(row_of, minlength=len(rows)), out=indptr[1:])
    positions = position[inside].astype(np.int64)
    keys = row_of * len(pool) + positions
    if not (keys[1:] > keys[:-1]).all():  # scipy lets rows be unsorted, and pairs be stored twice
        keys.sort()
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            row, at = divmod(int(keys[twice[0]]), len(pool))
            raise ValueError(f"y: row {rows[row]}: duplicate label {pool[at]}")
        positions = keys % len(pool)
    return indptr, positions
