"""The best labels of each row: from sparse or dense scores, or from the rankings of label shards.

Needs numpy and scipy only. Larger scores rank first, equal ones by the smaller label; NaN is an
error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexml import _rust
from dexml.data import Csr, csr_parts, pair_parts

Ranking = tuple[NDArray[np.int32], NDArray[np.float32]]
"""``ids`` and ``scores``, both (n, k), best first, padded with -1 and -inf."""


def topk(
    scores: Csr | NDArray[np.floating[Any]],
    k: int,
    *,
    exclude: Csr | None = None,
    num_threads: int | None = None,
) -> Ranking:
    """Rank the labels of each row and keep the k best.

    Args:
        scores: Shape (n, n_labels). Of a CSR matrix the stored entries are ranked (also zeros);
            of a dense one, which is read as float32, all labels.
        k: Labels a row; rows with fewer are padded.
        exclude: Pairs to leave out, same shape. They are dropped before the cut, so that k remain.
        num_threads: Threads; default all cores.

    Returns:
        ``ids`` int32 and ``scores`` float32, both (n, k).

    Raises:
        ValueError: Shapes disagree, `k` is below 1, a score is NaN, a row stores a label twice.

    Example:
        >>> scores = np.array([[0.1, 0.7, 0.7, 0.3]], np.float32)
        >>> topk(scores, 3)[0].tolist()
        [[1, 2, 3]]
        >>> from scipy.sparse import csr_array
        >>> topk(scores, 3, exclude=csr_array(([1], ([0], [1])), shape=(1, 4)))[0].tolist()
        [[2, 3, 0]]
    """
    if isinstance(scores, np.ndarray):
        if scores.ndim != 2:
            raise ValueError(f"scores: {scores.ndim} dimensions, expected 2")
        pairs = pair_parts(exclude, scores.shape, "exclude")
        dense = np.ascontiguousarray(scores, np.float32)
        return _rust.topk_dense(dense, k, pairs, num_threads=num_threads)
    parts = csr_parts(scores, "scores")
    pairs = pair_parts(exclude, scores.shape, "exclude")
    return _rust.topk_csr(*parts, scores.shape[1], k, pairs, num_threads=num_threads)


def merge(
    ids: Sequence[NDArray[np.int32]] | NDArray[np.int32],
    scores: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    k: int,
    *,
    num_threads: int | None = None,
) -> Ranking:
    """Merge the rankings of label shards, row by row, into the k best of all.

    Args:
        ids: Labels of each shard, best first, padded with -1: S arrays of shape (n, w), where w
            may differ, or one of shape (S, n, w). int32.
        scores: Their scores, the same shapes, float32.
        k: Labels a row; rows with fewer are padded.
        num_threads: Threads; default all cores.

    Returns:
        ``ids`` int32 and ``scores`` float32, both (n, k).

    Raises:
        ValueError: Shapes disagree, or among what had to be read (each row only as far as needed)
            a row is not in order, a score is NaN or a label came from two shards.

    Example:
        >>> left = np.array([[0, 2]], np.int32), np.array([[0.9, 0.3]], np.float32)
        >>> right = np.array([[7, -1]], np.int32), np.array([[0.5, 0.0]], np.float32)
        >>> merge([left[0], right[0]], [left[1], right[1]], 2)[0].tolist()
        [[0, 7]]
    """
    shards = [np.ascontiguousarray(part) for part in ids]
    values = [np.ascontiguousarray(part) for part in scores]
    return _rust.merge_topk(shards, values, k, num_threads=num_threads)
