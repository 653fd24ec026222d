"""A few predictions to look at: points whose first label is right, and points where it is not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dexml.data import Csr

PER_KIND = 6
SHOWN, MISSED = 8, 6
"""Ranked labels and missed labels shown of a point, at most."""
_BLOCK = 65_536


class Example(NamedTuple):
    """A point with its first labels as (id, score or None, is it true).

    `missed`: true labels that are not among these as (id, rank or None), `n_missed` of them in all.
    """

    point: int
    ranked: list[tuple[int, float | None, bool]]
    missed: list[tuple[int, int | None]]
    n_missed: int
    n_true: int


def choose(
    y_true: Csr,
    ids: NDArray[np.int32],
    scores: NDArray[np.float32] | None = None,
    exclude: Csr | None = None,
    *,
    seed: int,
    n: int = PER_KIND,
) -> tuple[list[Example], list[Example]]:
    """Draw points whose first label is right and points where it is wrong, `n` of each.

    Points without a true label, or without a ranked one, are never drawn. Chosen by chance alone,
    not because they look good; in the order of the points.

    Args:
        y_true: Relevant labels (values above 0), shape (n_points, n_labels).
        ids: Ranked ids, shape (n_points, k), -1 where there is none.
        scores: Their scores, same shape.
        exclude: Pairs that were left out; no point misses them.
        seed: Seed of the draw.
        n: Points of each kind.

    Returns:
        The right ones and the wrong ones.
    """
    right, usable = first_is_right(y_true, ids, exclude)
    usable &= (np.asarray(ids[:, :1]) >= 0).any(axis=1)
    generator = np.random.default_rng(seed)
    kinds = []
    for wanted in (right, ~right):
        rows = np.flatnonzero(wanted & usable)
        drawn = generator.choice(rows, min(n, len(rows)), replace=False) if len(rows) else rows
        kinds.append([_example(int(r), y_true, ids, scores, exclude) for r in np.sort(drawn)])
    return kinds[0], kinds[1]


def first_is_right(
    y_true: Csr, ids: NDArray[np.int32], exclude: Csr | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Is the first ranked label of each point a positive; has the point any? Both (n_points,)."""
    n_points, n_labels = y_true.shape
    right, has = np.zeros(n_points, np.bool_), np.zeros(n_points, np.bool_)
    for start in range(0, n_points, _BLOCK):
        stop = min(start + _BLOCK, n_points)
        true = _pairs(y_true, start, stop)
        if exclude is not None:
            true = np.setdiff1d(true, _pairs(exclude, start, stop, stored=True))
        has[start + true // n_labels] = True
        if ids.shape[1]:
            first = np.asarray(ids[start:stop, 0], np.int64)
            right[start:stop] = np.isin(np.arange(stop - start) * n_labels + first, true)
            right[start:stop] &= first >= 0
    return right, has


def _pairs(y: Csr, start: int, stop: int, *, stored: bool = False) -> NDArray[np.int64]:
    """Row x n_labels + label of the positives (or of all that is stored); rows count from 0."""
    part = slice(int(y.indptr[start]), int(y.indptr[stop]))
    rows = np.repeat(np.arange(stop - start), np.diff(y.indptr[start : stop + 1]))
    pairs: NDArray[np.int64] = rows * y.shape[1] + y.indices[part]
    return pairs if stored else pairs[y.data[part] > 0]


def _example(
    row: int,
    y_true: Csr,
    ids: NDArray[np.int32],
    scores: NDArray[np.float32] | None,
    exclude: Csr | None,
) -> Example:
    true = set(_pairs(y_true, row, row + 1).tolist())
    if exclude is not None:
        true -= set(_pairs(exclude, row, row + 1, stored=True).tolist())
    order = [int(label) for label in ids[row] if label >= 0]
    shown = order[:SHOWN]
    values = [None if scores is None else float(scores[row, i]) for i in range(len(shown))]
    ranked = [(label, s, label in true) for label, s in zip(shown, values, strict=True)]
    rank = {label: place for place, label in enumerate(order, start=1)}
    missed = sorted(true - set(shown), key=lambda label: (rank.get(label, len(order) + 1), label))
    return Example(
        row, ranked, [(label, rank.get(label)) for label in missed[:MISSED]], len(missed), len(true)
    )
