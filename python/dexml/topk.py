"""Rank the labels of each row, merge the rankings of label shards, drop pairs.

Larger scores rank first. Of equal scores the smaller label id ranks first. NaN is an error.
Needs only numpy and scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dexml import _rust
from dexml.data import Csr, csr_parts, pair_parts
from dexml.data.parts import joined

_Id = TypeVar("_Id", np.int32, np.int64)

Ranking = tuple[NDArray[np.int32], NDArray[np.float32]]
"""``ids`` and ``scores``, both of shape (n, k), best first, padded with -1 and -inf."""


def topk(
    scores: Csr | NDArray[np.floating[Any]],
    k: int,
    *,
    exclude: Csr | None = None,
    num_threads: int | None = None,
) -> Ranking:
    """Rank the labels of each row and keep the k best.

    Args:
        scores: Shape (n, n_labels). A CSR matrix: its stored entries are ranked, zeros included.
            A dense array: all labels are ranked, fastest in float32. Float64 scores are ranked
            without rounding them first.
        k: Labels a row; rows with fewer are padded.
        exclude: Pairs to leave out, same shape. They are dropped first, so that k labels remain.
        num_threads: Threads; default all cores.

    Returns:
        ``ids`` (int32) and ``scores`` (float32), both of shape (n, k).

    Raises:
        ValueError: Shapes disagree, `k` is below 1, a score is NaN, a row stores a label twice.

    Examples:
        >>> scores = np.array([[0.1, 0.7, 0.7, 0.3]], np.float32)
        >>> topk(scores, 3)[0].tolist()
        [[1, 2, 3]]
        >>> from scipy.sparse import csr_array
        >>> topk(scores, 3, exclude=csr_array(([1], ([0], [1])), shape=(1, 4)))[0].tolist()
        [[2, 3, 0]]
    """
    if isinstance(scores, np.ma.MaskedArray):
        raise ValueError("scores: a masked array; give scores.filled(-np.inf), or exclude pairs")
    if isinstance(scores, np.ndarray):
        if scores.ndim != 2:
            raise ValueError(f"scores: {scores.ndim} dimensions, expected 2")
        if scores.dtype not in (np.float16, np.float32):
            return topk(_stored(scores), k, exclude=exclude, num_threads=num_threads)
        pairs = pair_parts(exclude, scores.shape, "exclude")
        dense = np.ascontiguousarray(scores, np.float32)
        return _rust.topk_dense(dense, k, pairs, num_threads=num_threads)
    parts = csr_parts(scores, "scores")
    pairs = pair_parts(exclude, scores.shape, "exclude")
    return _rust.topk_csr(*parts, scores.shape[1], k, pairs, num_threads=num_threads)


def _stored(scores: NDArray[Any]) -> Csr:
    """Return a CSR matrix with every entry: rounding scores to float32 would make ties."""
    n_points, n_labels = scores.shape
    labels = np.tile(np.arange(n_labels, dtype=np.int32), n_points)
    starts = n_labels * np.arange(n_points + 1, dtype=np.int64)
    return csr_array((scores.ravel(), labels, starts), shape=scores.shape)


def merge(
    ids: Sequence[NDArray[np.int32]] | NDArray[np.int32],
    scores: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    k: int,
    *,
    num_threads: int | None = None,
) -> Ranking:
    """Merge the rankings of label shards, row by row, into the k best of all.

    Args:
        ids: Labels of each shard, int32, best first, padded with -1: S arrays of shape (n, w),
            where w may differ, or one array of shape (S, n, w). No label is in two shards.
        scores: Their scores, float32, same shapes.
        k: Labels a row; rows with fewer are padded.
        num_threads: Threads; default all cores.

    Returns:
        ``ids`` (int32) and ``scores`` (float32), both of shape (n, k).

    Raises:
        ValueError: Shapes disagree, a row is not in order, a score is NaN, or a label came from two
            shards. Each row is read, and checked, only as far as needed.

    Examples:
        >>> left = np.array([[0, 2]], np.int32), np.array([[0.9, 0.3]], np.float32)
        >>> right = np.array([[7, -1]], np.int32), np.array([[0.5, 0.0]], np.float32)
        >>> merge([left[0], right[0]], [left[1], right[1]], 2)[0].tolist()
        [[0, 7]]
    """
    shards = [np.ascontiguousarray(part) for part in ids]
    values = [np.ascontiguousarray(part) for part in scores]
    return _rust.merge_topk(shards, values, k, num_threads=num_threads)


@overload
def drop_pairs(
    y_pred: NDArray[_Id], exclude: Csr, *, num_threads: int | None = None
) -> NDArray[_Id]: ...
@overload
def drop_pairs(y_pred: Csr, exclude: Csr, *, num_threads: int | None = None) -> Csr: ...
def drop_pairs(
    y_pred: Csr | NDArray[Any], exclude: Csr, *, num_threads: int | None = None
) -> Csr | NDArray[Any]:
    """Drop pairs from predictions and keep the order of the rest.

    Args:
        y_pred: Scores, shape (n, n_labels), or ranked ids, int32 or int64, shape (n, k), padded
            with -1.
        exclude: Pairs to drop, shape (n, n_labels): every stored entry, whatever its value. Pairs
            that are not in `y_pred` are ignored.
        num_threads: Threads; default all cores.

    Returns:
        Scores: a CSR matrix without the pairs, float32 or float64 as before. Ids: an array of the
        same shape, the rest moved up and padded with -1.

    Raises:
        ValueError: Shapes disagree, an id is out of range, or an id follows padding.

    Examples:
        >>> from scipy.sparse import csr_array
        >>> exclude = csr_array(([1, 1], ([0, 1], [7, 3])), shape=(2, 9))
        >>> drop_pairs(np.array([[4, 7, 2], [1, 8, -1]]), exclude).tolist()
        [[4, 2, -1], [1, 8, -1]]
        >>> scores = csr_array(([0.5, 0.25], ([0, 0], [7, 8])), shape=(2, 9))
        >>> kept = drop_pairs(scores, exclude)
        >>> kept.nnz, kept[0, 8].item()
        (1, 0.25)
    """
    pairs = csr_parts(exclude, "exclude")[:2]
    n_labels = exclude.shape[1]
    if isinstance(y_pred, np.ma.MaskedArray):
        raise ValueError("y_pred: a masked array; give y_pred.filled(-1), padded with -1")
    if isinstance(y_pred, np.ndarray):
        ids = np.ascontiguousarray(y_pred)
        return _rust.drop_pairs_ids(ids, n_labels, pairs, num_threads=num_threads)
    parts = csr_parts(y_pred, "y_pred")
    if exclude.shape != y_pred.shape:
        raise ValueError(f"exclude: shape {exclude.shape}, but y_pred has {y_pred.shape}")
    indptr, _, data = parts
    n_entries = min(max(0, int(indptr[-1])), len(data))
    # numpy asks for large pages, which halves the time of the call.
    kept = np.empty(n_entries, np.int32), np.empty(n_entries, data.dtype)
    indptr = _rust.drop_pairs_csr(parts, n_labels, pairs, kept, num_threads=num_threads)
    return joined(y_pred.shape, indptr, *(part[: indptr[-1]] for part in kept))
