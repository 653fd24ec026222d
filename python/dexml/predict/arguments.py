"""Checks of what callers hand over: texts, numbers, groups of labels."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Set

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, csr_matrix, issparse

from dexml.data import Csr, check_feature_texts, check_ids, feature_texts, id_array
from dexml.given import text_list
from dexml.run import FEATURES, Run, check_texts, require


def checked(texts: Iterable[str]) -> list[str]:
    """Return texts as a list; refuse anything but strings that can be written as UTF-8.

    Raises:
        TypeError: A single string, a table, a dict, a set, or an element that is not a string.
        ValueError: A text that is not valid Unicode.
    """
    listed = text_list(texts)
    for number, text in enumerate(listed):
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"texts[{number}]: not valid Unicode at character {error.start} "
                    f"({text[error.start]!r}, {error.reason})"
                ) from None
    return listed


def checked_points(points: Iterable[str] | Csr, run: Run) -> list[str]:
    """Return points as the texts that the scorers of a run take.

    Args:
        points: Texts; or of a run that was trained on rows of features, such rows: a sparse matrix
            (n, n_features), or texts ``17:0.25 40:1``.
        run: The run.

    Raises:
        TypeError: As `checked`.
        ValueError: As `checked`; features where the run knows texts, or the other way round, or
            another number of features.
    """
    if FEATURES not in run.facts:
        if issparse(points):
            raise ValueError(
                f"texts: a sparse matrix, but {run.folder} was trained on texts; give texts"
            )
        return checked(points)
    n_features = require(run.state, FEATURES, {"n_features": int})["n_features"]
    if not issparse(points):
        texts = checked(points)
        check_feature_texts(texts)
        return texts
    matrix = csr_array(points)
    if matrix.ndim != 2 or matrix.shape[1] != n_features:
        raise ValueError(
            f"features: shape {matrix.shape}, but {run.folder} was trained on {n_features} features"
        )
    return feature_texts(matrix)


def at_least_one(name: str, value: int) -> int:
    """Return a number of things; refuse anything but a whole number above 0.

    Raises:
        TypeError: Not a whole number.
        ValueError: Below 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {type(value).__name__}; expected a whole number") from None
    if number < 1:
        raise ValueError(f"{name} = {value}; expected at least 1")
    return number


def check_exclude(exclude: Csr | None, shape: tuple[int, int]) -> None:
    """Refuse pairs to leave out that are not a CSR matrix of this shape."""
    if exclude is None:
        return
    if not isinstance(exclude, csr_array | csr_matrix):
        raise TypeError(f"exclude is {type(exclude).__name__}; give csr_array, shape {shape}")
    if exclude.shape != shape:
        raise ValueError(f"exclude: shape {exclude.shape}, but texts and labels have {shape}")


def label_mask(only: ArrayLike | Set[int], n_labels: int) -> NDArray[np.bool_]:
    """Return labels, given as ids or as a bool mask, as a bool mask (n_labels,).

    Raises:
        ValueError: A mask of another shape, or an id out of range.
    """
    given = id_array(list(only) if isinstance(only, set | frozenset) else only, "only")
    if given.dtype == np.bool_:
        if given.shape != (n_labels,):
            raise ValueError(f"only: a mask of shape {given.shape} for {n_labels} labels")
        return given
    mask = np.zeros(n_labels, np.bool_)
    if given.size:
        check_ids(given, n_labels, "only")
        mask[given.astype(np.int64)] = True
    return mask


def checked_labels(texts: Iterable[str]) -> list[str]:
    """Return label texts, stripped as the command does; refuse empty ones and line breaks.

    Raises:
        TypeError: As `checked`.
        ValueError: As `checked`; a text that is empty or more than one line.
    """
    listed = [text.strip() for text in checked(texts)]
    check_texts(listed)
    return listed
