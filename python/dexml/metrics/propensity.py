"""Inverse propensities of labels, and the constants of the benchmarks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dexml import _rust, console
from dexml.data import Csr, label_parts, truth_parts

_AMAZON, _WIKIPEDIA = (0.6, 2.6), (0.5, 0.4)
DEFAULT_CONSTANTS = (0.55, 1.5)
"""A and B where no benchmark says otherwise."""
PROPENSITY_CONSTANTS = {
    "WikiLSHTC-325K": _WIKIPEDIA,
    "Wikipedia-500K": _WIKIPEDIA,
    "LF-Wikipedia-500K": _WIKIPEDIA,
    "LF-WikiTitles-500K": _WIKIPEDIA,
    "Amazon-670K": _AMAZON,
    "Amazon-3M": _AMAZON,
    "LF-Amazon-131K": _AMAZON,
    "LF-AmazonTitles-131K": _AMAZON,
    "LF-AmazonTitles-1.3M": _AMAZON,
    "AmazonCat-13K": DEFAULT_CONSTANTS,
    "Wiki10-31K": DEFAULT_CONSTANTS,
    "LF-WikiSeeAlso-320K": DEFAULT_CONSTANTS,
    "LF-WikiSeeAlsoTitles-320K": DEFAULT_CONSTANTS,
    "EURLex": DEFAULT_CONSTANTS,
    "EURLex-4K": DEFAULT_CONSTANTS,
    "DebTags": DEFAULT_CONSTANTS,
    "LF-DebianRelated": DEFAULT_CONSTANTS,
    "LF-WordNetRelated-117K": DEFAULT_CONSTANTS,
}
"""Constants (A, B) of the inverse propensity, by name of the benchmark."""


def inv_propensity(y_train: Csr, *, a: float = 0.55, b: float = 1.5) -> NDArray[np.float64]:
    """Return the inverse propensity of every label (Jain et al., KDD 2016).

    It is ``1 + C (n_l + B)^(-A)`` with ``C = (ln N - 1)(B + 1)^A``.

    Args:
        y_train: Training matrix, shape (N, n_labels); n_l counts its values above 0.
        a: Constant A of the data set; see `PROPENSITY_CONSTANTS`.
        b: Constant B.

    Returns:
        Weights, shape (n_labels,), float64.

    Raises:
        ValueError: There are fewer than 3 training points, a constant is not finite, or `y_train`
            is not a CSR matrix, has a pair twice, a NaN or a negative value.
    """
    parts = truth_parts(y_train, "y_train")
    weights = np.empty(y_train.shape[1])
    if _rust.plain_inv_propensity(y_train.shape, *parts, a, b, weights):
        return weights
    return _rust.inv_propensity(label_counts(y_train), y_train.shape[0], a, b)


def label_counts(y_train: Csr) -> NDArray[np.int64]:
    """Count the training positives (values above 0) of every label, shape (n_labels,).

    Raises:
        ValueError: `y_train` is not a CSR matrix, or has a pair twice, a NaN or a negative value.
    """
    parts = truth_parts(y_train, "y_train")
    counts = _rust.plain_label_counts(y_train.shape, *parts)
    if counts is None:  # not sorted, or wrong: looked at row by row
        _, indices, values = label_parts(y_train, "y_train")
        counts = _rust.label_counts(y_train.shape[1], indices, values)
    return counts


def benchmark_of(path: str | os.PathLike[str]) -> str | None:
    """Return the benchmark with constants of its own that a folder in `path` is named after.

    Names are compared without case. None for a benchmark with `DEFAULT_CONSTANTS`, as there is
    nothing to ask.
    """
    known = {name.casefold(): name for name in PROPENSITY_CONSTANTS}
    for part in reversed(Path(os.path.abspath(path)).parts):
        name = known.get(part.casefold())
        if name is not None:
            return name if PROPENSITY_CONSTANTS[name] != DEFAULT_CONSTANTS else None
    return None


def propensity_note(path: str | os.PathLike[str]) -> str | None:
    """Return a note that asks for ``--propensity``, if `path` is of such a benchmark."""
    name = benchmark_of(path)
    if name is None:
        return None
    (a, b), (own_a, own_b) = DEFAULT_CONSTANTS, PROPENSITY_CONSTANTS[name]
    return (
        f"note: PSP uses A = {a}, B = {b}, but {path} is named after {name}, whose constants are "
        f"A = {own_a}, B = {own_b}: --propensity {name}"
    )


def propensity_constants(name: str) -> tuple[float, float]:
    """Return (A, B) of a benchmark by its exact name, a key of `PROPENSITY_CONSTANTS`.

    Raises:
        ValueError: The name is unknown; the message has the nearest known one.
    """
    if name not in PROPENSITY_CONSTANTS:
        known = list(PROPENSITY_CONSTANTS)
        hint = console.did_you_mean(name, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"no propensity constants for '{name}'{hint}; or give a and b")
    return PROPENSITY_CONSTANTS[name]
