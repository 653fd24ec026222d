"""What callers hand over: texts, labels and their groups, checked before anything is computed."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

from dexml.data import Csr
from dexml.index import check_texts


def checked(texts: Iterable[str]) -> list[str]:
    """Return texts as a list, if all are strings that can be written as UTF-8."""
    if isinstance(texts, str | bytes):
        raise TypeError("texts is a single string; give a list, [text] for one text")
    if isinstance(texts, set | frozenset) or not isinstance(texts, Iterable):
        name = "None" if texts is None else type(texts).__name__
        raise TypeError(f"texts is {name}; give a list of strings")
    listed = list(texts)
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"texts[{number}] is {type(text).__name__}; expected a string")
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"texts[{number}]: not valid Unicode at character {error.start} "
                    f"({text[error.start]!r}, {error.reason})"
                ) from None
    return listed


def at_least_one(name: str, value: int) -> int:
    """Return a number of things, if it is a whole one above 0."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {type(value).__name__}; expected a whole number") from None
    if number < 1:
        raise ValueError(f"{name} = {value}; expected at least 1")
    return number


def label_mask(only: ArrayLike | Set[int], n_labels: int) -> NDArray[np.bool_]:
    """Return a bool mask (n_labels,) of label ids, or the mask itself."""
    given = np.asarray(list(only) if isinstance(only, set | frozenset) else only)
    if given.dtype == np.bool_:
        if given.shape != (n_labels,):
            raise ValueError(f"only: a mask of shape {given.shape} for {n_labels} labels")
        return given
    mask = np.zeros(n_labels, np.bool_)
    if given.size:
        in_range(given, n_labels, "only")
        mask[given] = True
    return mask


def in_range(ids: NDArray[Any], n_labels: int, name: str) -> None:
    """Refuse what is no list of label ids below `n_labels`."""
    if not ids.size:
        return
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"{name}: {ids.dtype} of shape {ids.shape}; expected label ids")
    wrong = ids[(ids < 0) | (ids >= n_labels)]
    if wrong.size:
        raise ValueError(f"{name}: label {wrong[0]} out of range (n_labels = {n_labels})")


def checked_labels(texts: Iterable[str]) -> list[str]:
    """Return texts of labels as the command reads them: stripped, one line each, not empty."""
    listed = [text.strip() for text in checked(texts)]
    check_texts(listed)
    return listed


def label_matrix(y: Csr | Sequence[Iterable[int]], n_points: int, n_labels: int) -> Csr:
    """Return the labels of points as a matrix.

    Args:
        y: A sparse matrix (n_points, at most n_labels), values above 0; or for each point the ids
            of its labels.
        n_points: Rows there must be.
        n_labels: Labels there are.

    Raises:
        TypeError: Neither of the two.
        ValueError: Another number of points, or an id that is no label.
    """
    if issparse(y):
        matrix = csr_array(y)
        if matrix.shape[0] != n_points or matrix.shape[1] > n_labels:
            raise ValueError(f"{n_points} texts and y {matrix.shape} for {n_labels} labels")
        return matrix
    if isinstance(y, np.ndarray | str | bytes) or not isinstance(y, Sequence):
        raise TypeError(
            f"y is {type(y).__name__}; give a sparse matrix (n, n_labels), csr_array(y), or for "
            "each text a list of label ids"
        )
    if len(y) != n_points:
        raise ValueError(f"{n_points} texts and labels for {len(y)} of them")
    rows = []
    for number, ids in enumerate(y):
        if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
            raise TypeError(f"y[{number}] is {type(ids).__name__}; expected a list of label ids")
        row = np.asarray(list(ids))
        in_range(row, n_labels, f"y[{number}]")
        different = np.unique(row).astype(np.int32)
        if len(different) < len(row):
            raise ValueError(f"y[{number}]: a label stands twice; expected label ids")
        rows.append(different)
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.concatenate([np.zeros(0, np.int32), *rows])
    ones = np.ones(len(indices), np.float32)
    return csr_array((ones, indices, indptr), shape=(n_points, n_labels))
