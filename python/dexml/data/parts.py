"""The arrays of sparse matrices, to and from the Rust core; checks of label ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from dexml import _rust

Csr: TypeAlias = csr_array
"""The type of every sparse matrix: rows are points, columns are labels."""

CsrParts = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]
"""``indptr``, ``indices`` and ``data`` as the Rust core takes them."""
_MAX_ID = int(np.iinfo(np.int32).max)


def expect_csr(y: Any, name: str) -> None:
    """Raise unless `y` is a scipy CSR matrix; the message says how to make one of `y`.

    Raises:
        ValueError: Dense, masked, one-dimensional, in another sparse format, lists, or no matrix.
    """
    if isinstance(y, csr_array) and y.ndim == 2:
        return
    if issparse(y) and y.ndim != 2:
        raise ValueError(
            f"{name}: one-dimensional; expected points x labels, csr_array({name}.reshape(1, -1)) "
            "for a single point"
        )
    if getattr(y, "format", None) == "csr":
        return
    message = f"{name}: expected a scipy CSR array, not {type(y).__name__}"
    if isinstance(y, np.ma.MaskedArray):
        message += f"; csr_array({name}.filled(0)) makes one"
    elif issparse(y) or (isinstance(y, np.ndarray) and y.ndim == 2):
        message += f"; csr_array({name}) makes one"
    elif isinstance(y, list | tuple):
        message += "; dexml.data.label_matrix makes one of lists of label ids"
    raise ValueError(message)


def label_parts(y: Csr, name: str) -> CsrParts:
    """Return the arrays as `truth_parts` does, and check them: the one check of label matrices.

    A pair that is stored twice would count twice, and a NaN or a negative value not at all.

    Raises:
        ValueError: As `csr_parts`; a row has a label twice, a label out of range, or a value that
            is NaN or below 0. The message names the row.
    """
    indptr, indices, values = truth_parts(y, name)
    # Ones: the core refuses infinite values, but for a label they only mean "positive".
    ones = np.ones(len(values), np.float32)
    _rust.check_csr(name, y.shape[0], y.shape[1], indptr, indices, ones)
    wrong = np.flatnonzero(~(values >= 0))
    if len(wrong):
        row = int(np.searchsorted(indptr, wrong[0], side="right")) - 1
        value = values[wrong[0]]
        raise ValueError(
            f"{name}: row {row}: truth value of label {indices[wrong[0]]} must be >= 0, not "
            f"{'NaN' if np.isnan(value) else f'{value:g}'}"
        )
    return indptr, indices, values


def csr_parts(y: Csr, name: str) -> CsrParts:
    """Return the arrays of a sparse matrix for the Rust core, without a copy where dtypes allow.

    Values become float32, but float64 stays float64.

    Args:
        y: The matrix.
        name: What error messages call it.

    Raises:
        ValueError: `y` is not a scipy CSR matrix of real numbers, or its ids do not fit into int32.
    """
    entries = _entries(y, name)
    return np.ascontiguousarray(y.indptr, dtype=np.int64), *entries


def truth_parts(y: Csr, name: str) -> CsrParts:
    """Return the arrays as `csr_parts` does, for truth: positives stay positive in float32."""
    indices, data = _entries(y, name)
    if data.dtype != np.float32:
        data = np.where(data > 0, 1.0, data).astype(np.float32)
    return np.ascontiguousarray(y.indptr, dtype=np.int64), indices, data


def stacked(blocks: Iterable[Csr], n_cols: int) -> Csr:
    """Put blocks of rows below each other; each is freed before the next one is made.

    The arrays grow in place: blocks that are put together at the end take twice the memory.

    Args:
        blocks: Float32, sorted, (n, n_cols).
        n_cols: Number of columns.
    """
    indices, values = np.empty(0, np.int32), np.empty(0, np.float32)
    lengths = [np.zeros(1, np.int64)]
    for block in blocks:
        first, end = len(values), len(values) + block.nnz
        indices.resize(end, refcheck=False)
        values.resize(end, refcheck=False)
        indices[first:], values[first:] = block.indices, block.data
        lengths.append(np.diff(block.indptr))
    indptr = np.cumsum(np.concatenate(lengths))
    return canonical((len(indptr) - 1, n_cols), indptr, indices, values)


def hits_of(y_true: Csr, ids: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Say which ranked labels are positives.

    Args:
        y_true: Truth, (n, n_labels); values above 0 are positives. Columns may be in any order.
        ids: Label ids of each row, (n, m), padded with -1.

    Returns:
        A mask of the shape of `ids`.
    """
    n, n_labels = y_true.shape
    positive = y_true.data > 0
    rows = np.repeat(np.arange(n), np.diff(y_true.indptr))[positive]
    wanted = np.arange(n)[:, None] * n_labels + ids
    found: NDArray[np.bool_] = np.isin(wanted, rows * n_labels + y_true.indices[positive])
    return found & (ids >= 0)


def csr_of_ids(ids: NDArray[np.integer[Any]], values: NDArray[Any], n_labels: int) -> csr_array:
    """Return ranked labels as a matrix (n, n_labels), columns ascending.

    Args:
        ids: Label ids of each row, (n, m), padded with -1.
        values: Their values, (n, m).
        n_labels: Number of labels.
    """
    there = ids >= 0
    indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    matrix = csr_array((values[there], ids[there], indptr), shape=(len(ids), n_labels))
    matrix.sort_indices()
    return matrix


def id_array(ids: Any, name: str) -> NDArray[Any]:
    """Return what a caller gave as ids as an array, not checked yet; `check_ids` looks at it.

    Raises:
        ValueError: A mask would be lost, or rows have different lengths.
    """
    if isinstance(ids, np.ma.MaskedArray):
        raise ValueError(f"{name}: a masked array; give the ids without a mask, ids.compressed()")
    try:
        array = np.asarray(ids)
        if array.dtype.kind == "f" and array.size and not isinstance(ids, np.ndarray):
            array = np.asarray(ids, object)  # [1, 2**63, None] must not become 1.0 in a message
    except ValueError:
        raise ValueError(
            f"{name}: rows of different lengths; expected a list of label ids"
        ) from None
    return array


def check_ids(ids: NDArray[Any], n_labels: int, name: str) -> None:
    """Raise unless `ids` is a list of label ids below `n_labels`; an empty array is fine.

    Raises:
        ValueError: `ids` is not a vector, not of integers, or has an id out of range. The message
            begins with `name` and has the first wrong value and its position.
    """
    if not ids.size:
        return
    if ids.ndim != 1:
        raise ValueError(f"{name}: {ids.ndim} dimensions; expected a list of label ids")
    if ids.dtype.kind not in "iu":
        for at, value in enumerate(ids.tolist()):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ValueError(
                    f"{name}: holds {value!r} of type {type(value).__name__}; expected label ids, "
                    f"whole numbers (position {at})"
                )
    wrong = np.flatnonzero((ids < 0) | (ids >= n_labels))
    if len(wrong):
        raise ValueError(
            f"{name}: label {ids[wrong[0]]} out of range (n_labels = {n_labels}), position "
            f"{wrong[0]}"
        )


def label_matrix(y: Any, n_points: int, n_labels: int, name: str = "y") -> Csr:
    """Return the labels of points as a CSR matrix.

    Args:
        y: A sparse matrix of shape (n_points, at most n_labels), or a list with the label ids of
            each point.
        n_points: Number of points.
        n_labels: Number of labels.
        name: What error messages call `y`.

    Raises:
        TypeError: `y` is neither.
        ValueError: The number of points differs, or a point has an id out of range or twice, or a
            value that is NaN or negative.
    """
    if issparse(y):
        if y.ndim != 2:
            expect_csr(y, name)
        if y.shape[0] != n_points or y.shape[1] > n_labels:
            raise ValueError(f"{n_points} texts and {name} {y.shape} for {n_labels} labels")
        matrix = csr_array(y)
        if matrix.nnz < y.nnz:  # scipy adds up what other formats hold twice
            raise ValueError(f"{name}: a pair is stored twice; drop it, or {name}.sum_duplicates()")
        label_parts(matrix, name)
        return matrix
    if hasattr(y, "tolist") and not isinstance(y, np.ndarray) and getattr(y, "ndim", 0) == 1:
        y = y.tolist()  # a Series of lists
    if isinstance(y, np.ndarray | str | bytes) or not isinstance(y, Sequence):
        raise TypeError(
            f"{name} is {type(y).__name__}; give a sparse matrix (n, n_labels), csr_array(y), or "
            "for each text a list of label ids"
        )
    if len(y) != n_points:
        raise ValueError(f"{n_points} texts and {name}: labels for {len(y)} of them")
    rows = []
    for number, ids in enumerate(y):
        if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
            raise TypeError(
                f"{name}[{number}] is {type(ids).__name__}; expected a list of label ids"
            )
        row = id_array(ids if isinstance(ids, np.ndarray) else list(ids), f"{name}[{number}]")
        check_ids(row, n_labels, f"{name}[{number}]")
        row = np.sort(row.astype(np.int64))
        twice = row[1:][row[1:] == row[:-1]]
        if twice.size:
            raise ValueError(f"{name}[{number}]: duplicate label {twice[0]}")
        rows.append(row.astype(np.int32))
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.concatenate([np.zeros(0, np.int32), *rows])
    ones = np.ones(len(indices), np.float32)
    return csr_array((ones, indices, indptr), shape=(n_points, n_labels))


def _entries(y: Csr, name: str) -> tuple[NDArray[np.int32], NDArray[Any]]:
    expect_csr(y, name)
    if y.shape[1] > _MAX_ID:
        raise ValueError(f"{name}: {y.shape[1]} labels; ids are int32")
    indices = np.ascontiguousarray(y.indices)
    if indices.dtype != np.int32:
        if len(indices) and not (indices.min() >= 0 and indices.max() < y.shape[1]):
            raise ValueError(f"{name}: a label id lies outside 0..{y.shape[1] - 1}")
        indices = indices.astype(np.int32)
    data = np.ascontiguousarray(y.data)
    if data.dtype.kind not in "biuf":
        raise ValueError(f"{name}: values of dtype {data.dtype}; give real numbers, as float32")
    if data.dtype not in (np.float32, np.float64):
        data = data.astype(np.float32 if data.dtype in (np.bool_, np.float16) else np.float64)
    return indices, data


def pair_parts(
    pairs: Csr | None, shape: tuple[int, int], name: str
) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
    """Return ``indptr`` and ``indices`` of filter pairs; their values do not count.

    Raises:
        ValueError: `pairs` is not a scipy CSR matrix of the given shape.
    """
    if pairs is None:
        return None
    expect_csr(pairs, name)
    if pairs.shape != shape:
        raise ValueError(f"{name}: shape {pairs.shape}, but y_true has {shape}")
    indptr, indices, _ = csr_parts(pairs, name)
    return indptr, indices


def joined(
    shape: tuple[int, int],
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[Any],
) -> Csr:
    """Build a CSR that shares `indices` and `data`.

    scipy wants one dtype for both index arrays: ``indptr`` becomes int32 where that is enough.
    """
    if len(indices) <= _MAX_ID:
        return csr_array((data, indices, indptr.astype(np.int32)), shape=shape)
    return csr_array((data, indices.astype(np.int64), indptr), shape=shape)


def canonical(
    shape: tuple[int, int],
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[Any],
) -> Csr:
    """Build a CSR as `joined` does, from rows that are sorted and without duplicates."""
    if shape[0] == 1 and data.dtype == np.float32 and len(indices) <= _MAX_ID:
        # One text at a time is what servers ask for, and scipy's checks take longer than a search.
        y: Csr = csr_array.__new__(csr_array)
        vars(y).update(vars(_empty_row(shape[1])))
        y.indptr, y.indices, y.data = indptr.astype(np.int32), indices, data
    else:
        y = joined(shape, indptr, indices, data)
    y.has_canonical_format = True
    return y


@lru_cache(maxsize=64)
def _empty_row(n_columns: int) -> Csr:
    return csr_array((1, n_columns), dtype=np.float32)
