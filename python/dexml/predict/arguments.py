"""What callers hand over: texts, labels and their groups, checked before anything is computed."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Set

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dexml.data import check_ids
from dexml.run import check_texts


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
        check_ids(given, n_labels, "only")
        mask[given] = True
    return mask


def checked_labels(texts: Iterable[str]) -> list[str]:
    """Return texts of labels as the command reads them: stripped, one line each, not empty."""
    listed = [text.strip() for text in checked(texts)]
    check_texts(listed)
    return listed
